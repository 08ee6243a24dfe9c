using System.Buffers;
using Virtbus.Memory.Dma;
using Virtbus.Pci;
using Virtbus.Platform;
using Virtbus.Virtio;
using Virtbus.Virtio.Admin;

namespace Virtbus.Hardware.VirtioPci;

/// <summary>A virtual function of a virtio function: a device of its own behind modern registers.</summary>
internal sealed class VirtioVirtualFunction : PciVirtualFunction, IVirtioUnitPort, IAdminMember, IMovableState
{
    private readonly VirtioFunction _physical;
    private readonly VirtioUnit _unit;
    private readonly VirtioConfigWindow _window;

    internal VirtioVirtualFunction(VirtioFunction physical, int index, ConfigLayout config, VirtioDevice device)
        : base(physical, index, config)
    {
        _physical = physical;
        _unit = new VirtioUnit(this, device, new VirtioFunctionOptions(), hasHiddenLegacy: VirtioLegacyFields.Has(device.DeviceId));
        _window = new VirtioConfigWindow(this, Config, VirtioFunctionLayout.WindowAt(device));
    }

    internal VirtioDevice Device => _unit.Device;

    public override IReadOnlyList<PciDoorbell> Doorbells => _unit.Doorbells;

    int IVirtioUnitPort.Vectors => MsixTable?.Vectors ?? 0;

    bool IVirtioUnitPort.IsMsixEnabled => InterruptMode == PciInterruptMode.MsiX;

    FaultSource? IVirtioUnitPort.Faults => Faults;

    LegacyNotifyInfo IAdminMember.NotifyInfo => VirtioUnit.NotifyInfo;

    AdminAnswer IAdminMember.ReadLegacy(bool isConfig, int offset, Span<byte> destination) => _unit.ReadLegacy(isConfig, offset, destination);

    AdminAnswer IAdminMember.WriteLegacy(bool isConfig, int offset, ReadOnlySpan<byte> source) => _unit.WriteLegacy(isConfig, offset, source);

    void IVirtioUnitPort.TellDriverFault(int queue, Fault fault) => _physical.TellDriverFault(_unit.Device, queue, fault);

    void IVirtioUnitPort.RaiseVector(int vector) => RaiseMsix(vector);

    void IVirtioUnitPort.StageLine(bool asserted) => StageInterrupt(asserted);

    void IVirtioUnitPort.ShowLine() => ShowInterrupt();

    AdminAnswer IAdminMember.SetMode(bool isStopped) => _unit.SetMode(isStopped);

    AdminAnswer IAdminMember.GetParts(IBufferWriter<byte> parts) => _unit.GetParts(parts);

    AdminAnswer IAdminMember.SetParts(ReadOnlySpan<byte> parts) => _unit.SetParts(parts);

    public override IReadOnlyList<PciBarArea> GetBarAreas(int bar) => _unit.GetAreas(bar);

    public override bool TryAttachDoorbell(in PciDoorbell doorbell, EventFd? signal, out Fault fault) => _unit.TryAttachDoorbell(doorbell, signal, out fault);

    public bool TryPause(out Fault fault) => _unit.TryPause(out fault);

    public void Resume() => _unit.Resume();

    public bool TrySave(StateWriter writer, out Fault fault) => _unit.TrySave(writer, out fault);

    public bool TryRestore(StateReader reader, out Fault fault) => _unit.TryRestore(reader, out fault);

    protected override void ReadRegister(int bar, ulong offset, Span<byte> destination) => _unit.Read(bar, offset, destination);

    protected override void WriteRegister(int bar, ulong offset, ReadOnlySpan<byte> source) => _unit.Write(bar, offset, source);

    protected override void OnConfigReading(int offset, int length) => _window.Reading(offset, length);

    protected override void OnConfigChanged(int offset, int length, ConfigEffects effects) => _window.Written(offset, length);

    protected override void OnReset(PciResetKind kind) => _unit.Reset();

    protected override void OnPlugged(DmaPort dma) => _unit.Plugged(dma);

    protected override void OnUnplugged() => _unit.Unplugged();

    protected override void Dispose(bool disposing)
    {
        base.Dispose(disposing);
        _unit.Dispose();
    }
}
