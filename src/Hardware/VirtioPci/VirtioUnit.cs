using System.Buffers.Binary;
using Virtbus.Memory.Dma;
using Virtbus.Pci;
using Virtbus.Platform;
using Virtbus.Virtio;
using static Virtbus.Hardware.VirtioPci.VirtioFunctionLayout;

namespace Virtbus.Hardware.VirtioPci;

/// <summary>
/// The inside of a virtio function, whatever kind of PCI function it is: a device model behind the structures of VIRTIO 1.3, 4.1.4, and behind
/// the ports of old drivers (4.1.4.10) where the function is transitional.
/// </summary>
/// <remarks>
/// Accesses come from any thread and at once. Notifications and the ISR take no turn; of the rest one is let through at a time, since selectors
/// stand between, and one that stops a queue returns when what the queue has in work is done.
/// </remarks>
internal sealed partial class VirtioUnit : IVirtioRegisterHost, IDisposable
{
    private readonly Lock _access = new();
    private readonly IVirtioUnitPort _port;
    private readonly VirtioDevice _device;
    private readonly VirtioConfigRegisters _registers;
    private readonly VirtioInterruptStatus _interrupts;
    private readonly VirtioLegacyRegisters? _legacy;
    private readonly bool _hasPorts;
    private readonly VirtioSharedBar _shared;
    private readonly VirtioDoorbells _doorbells;
    private IDisposable? _ownerWatch;
    private bool _hasUser;
    private int _isFaultTold;
    private bool _disposed;

    internal VirtioUnit(IVirtioUnitPort port, VirtioDevice device, VirtioFunctionOptions options, bool hasHiddenLegacy = false)
    {
        _port = port;
        _device = device;
        _shared = new VirtioSharedBar(device);
        _interrupts = new VirtioInterruptStatus(port);
        _registers = new VirtioConfigRegisters(device, this, TransportFeatures(options));
        _hasPorts = options.IsTransitional;
        var old = _hasPorts ? new PciDoorbell(LegacyBar, VirtioLegacyConfig.VIRTIO_PCI_QUEUE_NOTIFY, sizeof(ushort))
            : hasHiddenLegacy ? new PciDoorbell(RegisterBar, LegacyNotifyPlace, sizeof(ushort)) : default(PciDoorbell?);
        _doorbells = new VirtioDoorbells(device, old, NotifyOld);
        if (old is not null)
            _legacy = new VirtioLegacyRegisters(device, _registers, port, _interrupts, _doorbells);
    }

    /// <summary>The model.</summary>
    internal VirtioDevice Device => _device;

    /// <summary>The notifications that an eventfd can stand for.</summary>
    internal IReadOnlyList<PciDoorbell> Doorbells => _doorbells.All;

    int IVirtioRegisterHost.VectorLimit => _port.Vectors;

    void IVirtioRegisterHost.Raise(ushort vector) => _port.RaiseVector(vector);

    // Without MSI-X the driver asks the ISR who it was (4.1.5.4).
    void IVirtioRegisterHost.RaiseQueue(ushort vector)
    {
        if (_port.IsMsixEnabled)
        {
            if (vector != VirtioCommonConfig.VIRTIO_MSI_NO_VECTOR)
                _port.RaiseVector(vector);
            return;
        }

        _interrupts.Set(VirtioInterruptStatus.Queue);
        ShowLine();
    }

    // The bit stands with MSI-X too (4.1.4.5.1).
    void IVirtioRegisterHost.RaiseConfig(ushort vector)
    {
        _interrupts.Set(VirtioInterruptStatus.Config);
        ShowLine();
        if (_port.IsMsixEnabled && vector != VirtioCommonConfig.VIRTIO_MSI_NO_VECTOR)
            _port.RaiseVector(vector);
    }

    void IVirtioRegisterHost.Tell()
    {
        _registers.TakeConfigChange();
        while (_registers.TryTakeFault(out var queue, out _))
            TellFault(queue);
    }

    void IVirtioRegisterHost.ResetEnding()
    {
        _interrupts.Take();
        _port.ShowLine();
    }

    /// <summary>What of a BAR can be mapped.</summary>
    internal IReadOnlyList<PciBarArea> GetAreas(int bar) => bar == SharedBar ? _shared.Areas : [];

    /// <summary>Reads registers; what is none reads 0.</summary>
    internal void Read(int bar, ulong offset, Span<byte> destination)
    {
        destination.Clear();
        if (bar == SharedBar)
        {
            _shared.Read(offset, destination);
            return;
        }

        if (bar == LegacyBar && _hasPorts)
        {
            lock (_access)
            {
                if (!_disposed)
                    _legacy!.Read((int)offset, destination);
            }

            // Its ISR is among them.
            _port.ShowLine();
            return;
        }

        while (bar == RegisterBar && destination.Length > 0)
        {
            var within = (int)(offset % PageSize);
            var length = Math.Min(destination.Length, PageSize - within);
            ReadPage((int)(offset / PageSize), within, destination[..length]);
            offset += (ulong)length;
            destination = destination[length..];
        }
    }

    /// <summary>Writes registers; what is none swallows it.</summary>
    internal void Write(int bar, ulong offset, ReadOnlySpan<byte> source)
    {
        if (bar == RegisterBar && offset >= NotifyPage * PageSize)
        {
            if (offset == LegacyNotifyPlace)
                NotifyLegacy(source);
            else
                Notify((int)offset - (NotifyPage * PageSize), source.Length);
            return;
        }

        if (bar == SharedBar)
        {
            _shared.Write(offset, source);
            return;
        }

        if (source.Length is not (1 or 2 or 4 or 8))
            return;
        Span<byte> value = stackalloc byte[sizeof(ulong)];
        value.Clear();
        source.CopyTo(value);
        lock (_access)
        {
            if (_disposed)
                return;
            if (bar == LegacyBar && _hasPorts)
                _legacy!.Write((int)offset, source, BinaryPrimitives.ReadUInt64LittleEndian(value));
            else if (bar == RegisterBar && offset < PageSize)
                WriteCommon((int)offset, source.Length, BinaryPrimitives.ReadUInt64LittleEndian(value));
            else if (bar == RegisterBar && offset / PageSize == ConfigPage)
                _device.TrySetConfig((int)(offset % PageSize), source, out _);
        }

        // A reset may have cleared the ISR.
        _port.ShowLine();
    }

    /// <summary>Lets signals of an eventfd stand for a notification; the queue's thread waits for them itself.</summary>
    internal bool TryAttachDoorbell(in PciDoorbell doorbell, EventFd? signal, out Fault fault)
    {
        if (!_doorbells.TryFind(doorbell, out var queue, out var isOld))
        {
            fault = new Fault(Errno.ENOENT, "the function has no notification of that place and value that an eventfd can stand for");
            return false;
        }

        fault = Fault.None;
        lock (_access)
        {
            if (_disposed)
                return true;
            _doorbells.Set(queue, isOld, signal);
        }

        _port.ShowLine();
        return true;
    }

    /// <summary>The function is in a slot.</summary>
    internal void Plugged(DmaPort dma)
    {
        _device.Faults = _port.Faults;
        _device.SetDma(dma);
        if (_shared.Size != 0)
            _ownerWatch = dma.Group.Observe(null, () => ChangeUser(dma.Group.OwnerKind == DmaOwnerKind.User));
    }

    /// <summary>The function is out of its slot: no queue runs when this returns.</summary>
    internal void Unplugged()
    {
        _ownerWatch?.Dispose();
        _ownerWatch = null;
        ChangeUser(false);
        lock (_access)
        {
            if (_disposed)
                return;
            _device.SetDma(null);
            _doorbells.Clear(tells: true);
        }

        _port.ShowLine();
    }

    /// <summary>All is as after power-on, for another user. When the call returns, no DMA and no interrupt is under way.</summary>
    internal void Reset()
    {
        lock (_access)
        {
            if (_disposed)
                return;
            ResetHeld();
            _device.BeginUse();
            Volatile.Write(ref _isFaultTold, 0);
        }

        EndStop();
        _port.ShowLine();
    }

    public void Dispose()
    {
        lock (_access)
        {
            if (_disposed)
                return;
            _disposed = true;
            _shared.Dispose();
            _device.Dispose();
            _doorbells.Clear(tells: false);
        }
    }

    private void ChangeUser(bool hasUser)
    {
        if (_shared.Size == 0)
            return;
        lock (_access)
        {
            if (_hasUser == hasUser)
                return;
            _hasUser = hasUser;
        }

        _shared.ChangeUser();
    }

    private static VirtioFeatures TransportFeatures(VirtioFunctionOptions options)
    {
        var features = VirtioFeatures.Of(
            VirtioFeatures.VIRTIO_F_ACCESS_PLATFORM,
            VirtioFeatures.VIRTIO_F_ORDER_PLATFORM,
            VirtioFeatures.VIRTIO_F_NOTIF_CONFIG_DATA,
            VirtioFeatures.VIRTIO_F_RING_RESET,
            VirtioFeatures.VIRTIO_F_SUSPEND);
        if (options.HasNotificationData)
            features = features.With(VirtioFeatures.VIRTIO_F_NOTIFICATION_DATA);
        if (options.OffersAdminQueue)
            features = features.With(VirtioFeatures.VIRTIO_F_ADMIN_VQ);
        return options.VirtualFunctions > 0 ? features.With(VirtioFeatures.VIRTIO_F_SR_IOV) : features;
    }

    private void ReadPage(int page, int offset, Span<byte> destination)
    {
        switch (page)
        {
            case CommonPage when offset < VirtioCommonConfig.Size:
                Span<byte> registers = stackalloc byte[VirtioCommonConfig.Size];
                lock (_access)
                {
                    if (_disposed)
                        return;
                    _registers.Read(registers);
                }

                registers = registers[offset..];
                registers[..Math.Min(registers.Length, destination.Length)].CopyTo(destination);
                break;
            case IsrPage when offset == 0:
                destination[0] = _interrupts.Take();
                _port.ShowLine();
                break;
            case ConfigPage:
                lock (_access)
                {
                    if (!_disposed)
                        _registers.ReadConfig(offset, destination);
                }

                break;
        }
    }

    private void WriteCommon(int offset, int size, ulong value)
    {
        switch (offset, size)
        {
            case (VirtioCommonConfig.device_status, 1) when value == 0:
                _registers.BeginReset();
                ClearHeld();
                break;
            // Who comes by these registers is no old driver, and has to say so (6.1).
            case (VirtioCommonConfig.device_status, 1) when !_registers.DriverFeatures.Has(VirtioFeatures.VIRTIO_F_VERSION_1):
                value &= ~(ulong)VirtioStatus.FEATURES_OK;
                if (value != 0)
                    _registers.Write(offset, size, value);
                break;
            default:
                _registers.Write(offset, size, value);
                break;
        }

        var queue = _registers.SelectedQueue;
        if (offset == VirtioCommonConfig.queue_enable && queue >= 0 && _registers.FaultOf(queue) != Fault.None)
            TellFault(queue);
    }

    // The place says which queue, as it does where an eventfd stands for the write.
    private void Notify(int offset, int size)
    {
        var queue = offset / NotifyStride;
        if (offset % NotifyStride == 0 && size is 2 or 4 && queue < _doorbells.QueueCount)
            _device.KickQueue(queue);
    }

    private void ResetHeld()
    {
        _registers.Reset();
        ClearHeld();
    }

    private void ClearHeld()
    {
        _legacy?.Reset();
        _interrupts.Take();
    }

    // Whoever holds the accesses shows the line behind them.
    private void ShowLine()
    {
        if (!_access.IsHeldByCurrentThread)
            _port.ShowLine();
    }

    private void TellFault(int queue)
    {
        var fault = _registers.FaultOf(queue);
        // Once: a driver could break its ring without end.
        if (fault != Fault.None && Interlocked.Exchange(ref _isFaultTold, 1) == 0)
            _port.TellDriverFault(queue, fault);
    }
}
