using Virtbus.Memory.Dma;
using Virtbus.Pci;
using Virtbus.Platform;

namespace Virtbus.Hardware.Adapter;

/// <summary>A virtual function of an adapter: the same registers and queues as its physical function, fewer of them.</summary>
internal sealed class AdapterVirtualFunction : PciVirtualFunction, IFunctionSlot
{
    private readonly AdapterFunction _physical;
    private readonly FunctionUnit _unit;

    internal AdapterVirtualFunction(AdapterFunction physical, int index, ConfigLayout config)
        : base(physical, index, config)
    {
        _physical = physical;
        _unit = physical.CreateUnit(this);
    }

    public override IReadOnlyList<PciDoorbell> Doorbells => _unit.Doorbells.All;

    public override bool TryAttachDoorbell(in PciDoorbell doorbell, EventFd? signal, out Fault fault) => _unit.Doorbells.TryAttach(doorbell, signal, out fault);

    public PciPortUse UseDma() => UsePort();

    public DmaPort? PortOf(uint pasid)
    {
        using var use = UsePort();
        return use.Dma?.ForPasid(pasid);
    }

    FaultSource? IFunctionSlot.Faults => Faults;

    public void RaiseVector(int vector) => RaiseMsix(vector);

    protected override void ReadRegister(int bar, ulong offset, Span<byte> destination)
    {
        if (bar == 0)
            _unit.ReadRegisters(offset, destination);
        else
            destination.Clear();
    }

    protected override void WriteRegister(int bar, ulong offset, ReadOnlySpan<byte> source)
    {
        if (bar == 0)
            _unit.WriteRegisters(offset, source);
        else if (bar == FunctionDoorbells.Bar)
            _unit.Doorbells.Write(offset, source);
    }

    protected override void OnReset(PciResetKind kind) => _unit.Reset();

    protected override void OnPlugged(DmaPort dma) => _unit.Plugged(dma);

    protected override void OnUnplugged() => _unit.Unplugged();

    protected override void Dispose(bool disposing)
    {
        base.Dispose(disposing);
        _unit.Dispose();
        _physical.RemoveUnit(this);
    }
}
