using Virtbus.Memory.Dma;
using Virtbus.Pci;
using Virtbus.Platform;

namespace Virtbus.Hardware.Adapter;

/// <summary>A virtual function of an adapter: the same registers and queues as its physical function, fewer of them.</summary>
internal sealed class AdapterVirtualFunction : PciVirtualFunction, IFunctionPort
{
    /// <summary>MSI-X vectors of a virtual function.</summary>
    public const int VectorCount = 32;

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

    public FunctionIdentity Identity => new(FunctionIdentity.OfVirtual(Index), _physical.VirtualDeviceId);

    public FunctionRegisterPlace Registers => default;

    public int Vectors => VectorCount;

    public FunctionDma UseDma()
    {
        var use = UsePort();
        return new FunctionDma(use, use.Dma);
    }

    public DmaPort? PortOf(uint pasid)
    {
        using var use = UsePort();
        return use.Dma?.ForPasid(pasid);
    }

    FaultSource? IFunctionPort.Faults => Faults;

    public void RaiseVector(int vector) => RaiseMsix(vector);

    protected override void ReadRegister(int bar, ulong offset, Span<byte> destination) => _unit.ReadBar(bar, offset, destination);

    protected override void WriteRegister(int bar, ulong offset, ReadOnlySpan<byte> source) => _unit.WriteBar(bar, offset, source);

    protected override void OnReset(PciResetKind kind) => _unit.Reset();

    protected override void OnPlugged(DmaPort dma) => _unit.Plugged(dma);

    protected override void OnUnplugged() => _unit.Unplugged();

    protected override void Dispose(bool disposing)
    {
        base.Dispose(disposing);
        _unit.Dispose();
        _physical.Functions.Remove(Identity.Id);
    }
}
