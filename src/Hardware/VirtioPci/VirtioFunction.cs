using Virtbus.Memory.Dma;
using Virtbus.Pci;
using Virtbus.Platform;
using Virtbus.Virtio;
using Virtbus.Virtio.Admin;

namespace Virtbus.Hardware.VirtioPci;

/// <summary>
/// A virtio device as a PCI function (VIRTIO 1.3, 4.1): any device model behind the registers that every guest knows, with MSI-X or the line.
/// </summary>
/// <remarks>
/// Accesses come from any thread. One that resets the device, or a queue, returns when what is in work is done. A driver that breaks its ring
/// stops its queue and finds DEVICE_NEEDS_RESET; the function lives.
/// </remarks>
public sealed class VirtioFunction : PciPhysicalFunction, IVirtioUnitPort, IAdminMembers, IMovableState
{
    /// <summary>The most virtual functions that one can have.</summary>
    public const int MaxVirtualFunctions = 256;

    private readonly VirtioUnit _unit;
    private readonly VirtioConfigWindow _window;
    private readonly Func<int, VirtioDevice>? _virtual;
    private ConfigLayout? _virtualConfig;
    private Action<VirtioDevice, int, Fault>? _driverFault;

    /// <summary>Puts a device behind registers.</summary>
    /// <param name="device">The model, reset, with nobody else's callbacks; it is disposed with the function.</param>
    /// <param name="options">How; modern, with MSI-X, when null.</param>
    /// <param name="virtualDevice">
    /// Makes the model of a virtual function by its number, all of the physical one's type, with equally many queues and as much shared memory; needed with
    /// virtual functions only.
    /// </param>
    /// <exception cref="VirtbusException">EINVAL: the options do not go with the device.</exception>
    public VirtioFunction(VirtioDevice device, VirtioFunctionOptions? options = null, Func<int, VirtioDevice>? virtualDevice = null)
        : base(VirtioFunctionLayout.Build(device, options ??= new VirtioFunctionOptions()))
    {
        _virtual = virtualDevice;
        if (options.OffersAdminQueue)
            device.AddAdminQueue(new AdminOptions { IsStrict = options.IsAdminStrict, Told = options.AdminTold }, this);
        _unit = new VirtioUnit(this, device, options);
        _window = new VirtioConfigWindow(this, Config, VirtioFunctionLayout.WindowAt(device));
    }

    /// <summary>The model.</summary>
    public VirtioDevice Device => _unit.Device;

    /// <summary>The model of a virtual function, by its number; null when that is not enabled at the moment. Any thread.</summary>
    /// <param name="index">The number, from 0.</param>
    public VirtioDevice? FindVirtualDevice(int index)
    {
        var functions = VirtualFunctions;
        return (uint)index < (uint)functions.Count ? ((VirtioVirtualFunction)functions[index]).Device : null;
    }

    IAdminMember? IAdminMembers.Find(ulong index)
    {
        var functions = VirtualFunctions;
        return index < (ulong)functions.Count ? (VirtioVirtualFunction)functions[(int)index] : null;
    }

    /// <inheritdoc/>
    public override IReadOnlyList<PciDoorbell> Doorbells => _unit.Doorbells;

    int IVirtioUnitPort.Vectors => MsixTable?.Vectors ?? 0;

    bool IVirtioUnitPort.IsMsixEnabled => InterruptMode == PciInterruptMode.MsiX;

    bool IAdminMembers.IsThere => AreVirtualFunctionsEnabled;

    bool IAdminMembers.HaveLegacy => VirtioLegacyFields.Has(Device.DeviceId);

    FaultSource? IVirtioUnitPort.Faults => Faults;

    void IVirtioUnitPort.TellDriverFault(int queue, Fault fault) => TellDriverFault(Device, queue, fault);

    void IVirtioUnitPort.RaiseVector(int vector) => RaiseMsix(vector);

    void IVirtioUnitPort.StageLine(bool asserted) => StageInterrupt(asserted);

    void IVirtioUnitPort.ShowLine() => ShowInterrupt();

    /// <inheritdoc/>
    public override IReadOnlyList<PciBarArea> GetBarAreas(int bar) => _unit.GetAreas(bar);

    /// <summary>
    /// Sets who is told that a driver of this function or of a virtual one did something that its device can't go on with. Told once for each function,
    /// and again only after that was reset for another user.
    /// </summary>
    /// <param name="callback">Device, queue and cause; on any thread, it must not block. Null for nobody.</param>
    public void SetDriverFaultCallback(Action<VirtioDevice, int, Fault>? callback) => Volatile.Write(ref _driverFault, callback);

    /// <inheritdoc/>
    public override bool TryAttachDoorbell(in PciDoorbell doorbell, EventFd? signal, out Fault fault) => _unit.TryAttachDoorbell(doorbell, signal, out fault);

    /// <inheritdoc/>
    /// <remarks>From any thread that is no queue's.</remarks>
    public bool TryPause(out Fault fault) => _unit.TryPause(out fault);

    /// <inheritdoc/>
    public void Resume() => _unit.Resume();

    /// <inheritdoc/>
    /// <remarks>Config space and the MSI-X table belong to who has the function and move with that.</remarks>
    public bool TrySave(StateWriter writer, out Fault fault) => _unit.TrySave(writer, out fault);

    /// <inheritdoc/>
    public bool TryRestore(StateReader reader, out Fault fault) => _unit.TryRestore(reader, out fault);

    internal void TellDriverFault(VirtioDevice device, int queue, Fault fault) => Volatile.Read(ref _driverFault)?.Invoke(device, queue, fault);

    /// <inheritdoc/>
    protected override PciVirtualFunction CreateVirtualFunction(int index)
    {
        if (_virtual is null)
            throw new VirtbusException(Errno.ENODEV, $"Function '{Device.Name}' has nobody who makes its virtual functions.");
        var device = _virtual(index);
        if (!VirtioFunctionLayout.SharesAs(device, Device))
        {
            device.Dispose();
            throw new VirtbusException(Errno.EINVAL, $"Device '{device.Name}' shares other memory than '{Device.Name}', whose virtual function it is. Give it regions of the same ids and sizes.");
        }

        _virtualConfig ??= VirtioFunctionLayout.BuildVirtual(device, ConfigLayout);
        return new VirtioVirtualFunction(this, index, _virtualConfig, device);
    }

    /// <inheritdoc/>
    protected override void ReadRegister(int bar, ulong offset, Span<byte> destination) => _unit.Read(bar, offset, destination);

    /// <inheritdoc/>
    protected override void WriteRegister(int bar, ulong offset, ReadOnlySpan<byte> source) => _unit.Write(bar, offset, source);

    /// <inheritdoc/>
    protected override void OnConfigReading(int offset, int length) => _window.Reading(offset, length);

    /// <inheritdoc/>
    protected override void OnConfigChanged(int offset, int length, ConfigEffects effects) => _window.Written(offset, length);

    /// <inheritdoc/>
    protected override void OnReset(PciResetKind kind) => _unit.Reset();

    /// <inheritdoc/>
    protected override void OnPlugged(DmaPort dma) => _unit.Plugged(dma);

    /// <inheritdoc/>
    protected override void OnUnplugged() => _unit.Unplugged();

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        base.Dispose(disposing);
        _unit.Dispose();
    }
}
