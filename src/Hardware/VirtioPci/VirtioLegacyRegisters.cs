using System.Buffers.Binary;
using Virtbus.Platform;
using Virtbus.Virtio;
using static Virtbus.Virtio.VirtioCommonConfig;
using static Virtbus.Virtio.VirtioLegacyConfig;
using static Virtbus.Virtio.VirtioStatus;

namespace Virtbus.Hardware.VirtioPci;

/// <summary>
/// The ports by which drivers from before version 1.0 of the standard know a device (VIRTIO 1.3, 4.1.4.10 and 2.7.2): features of 32 bits, a ring in one
/// piece at a page number, no FEATURES_OK. What they write is done by the registers of the standard, in the order that the standard wants.
/// </summary>
/// <remarks>Under the lock of the registers.</remarks>
internal sealed class VirtioLegacyRegisters
{
    internal const int SavedSize = 16;

    private const uint AnyLayout = 1u << VIRTIO_F_ANY_LAYOUT;

    private readonly VirtioDevice _device;
    private readonly VirtioConfigRegisters _registers;
    private readonly IVirtioUnitPort _port;
    private readonly VirtioInterruptStatus _interrupts;
    private readonly VirtioDoorbells _doorbells;
    private readonly uint[] _pages;
    private uint _features;
    private ushort _select;
    private byte _status;
    private volatile bool _isRunning;

    internal VirtioLegacyRegisters(VirtioDevice device, VirtioConfigRegisters registers, IVirtioUnitPort port, VirtioInterruptStatus interrupts, VirtioDoorbells doorbells)
    {
        _device = device;
        _registers = registers;
        _port = port;
        _interrupts = interrupts;
        _doorbells = doorbells;
        _pages = new uint[device.QueueCount];
    }

    /// <summary>Whether the driver's queues run; any thread.</summary>
    internal bool IsRunning => _isRunning;

    /// <summary>Whether a driver wrote something here since the last reset.</summary>
    internal bool IsUsed => _isRunning || _status != 0 || _features != 0 || _select != 0 || Array.Exists(_pages, static page => page != 0);

    /// <summary>Where the device's configuration begins now.</summary>
    internal int ConfigOffset => VirtioLegacyConfig.ConfigOffset(_port.IsMsixEnabled);

    internal void Reset()
    {
        _features = 0;
        _select = 0;
        _status = 0;
        _isRunning = false;
        Array.Clear(_pages);
        _doorbells.EndOld();
    }

    /// <summary>Reads bytes of one field, of the header or of the configuration of the device's type.</summary>
    /// <returns>False, with nothing read, when they are of no field, or of more than one.</returns>
    internal bool TryReadField(bool isConfig, int offset, Span<byte> destination)
    {
        // Vectors may be switched on or off meanwhile, so where the configuration begins is asked once.
        var config = ConfigOffset;
        if (!IsOneField(isConfig, offset, destination.Length, config))
            return false;
        destination.Clear();
        Read(isConfig ? config + offset : offset, destination, config);
        return true;
    }

    /// <summary>Writes bytes of one field, as <see cref="TryReadField"/>.</summary>
    internal bool TryWriteField(bool isConfig, int offset, ReadOnlySpan<byte> source)
    {
        var config = ConfigOffset;
        if (!IsOneField(isConfig, offset, source.Length, config))
            return false;
        Span<byte> value = stackalloc byte[sizeof(ulong)];
        value.Clear();
        source.CopyTo(value);
        Write(isConfig ? config + offset : offset, source, BinaryPrimitives.ReadUInt64LittleEndian(value), config);
        return true;
    }

    /// <summary>Reads ports, any number of them from any place. Beside the ISR nothing changes, the modern driver's selectors included.</summary>
    internal void Read(int offset, Span<byte> destination) => Read(offset, destination, ConfigOffset);

    /// <summary>Writes a port of 1, 2 or 4 bytes.</summary>
    internal void Write(int offset, ReadOnlySpan<byte> source, ulong value) => Write(offset, source, value, ConfigOffset);

    private bool IsOneField(bool isConfig, int offset, int length, int config) =>
        isConfig ? VirtioLegacyFields.IsInConfig(_device, offset, length) : VirtioLegacyFields.IsInHeader(offset, length, config);

    private void Read(int offset, Span<byte> destination, int config)
    {
        Span<byte> header = stackalloc byte[HeaderSize + VectorBytes];
        header.Clear();
        Build(header, takesIsr: offset <= VIRTIO_PCI_ISR && offset + destination.Length > VIRTIO_PCI_ISR);
        if (offset < config)
        {
            var length = Math.Min(destination.Length, config - offset);
            header.Slice(offset, length).CopyTo(destination);
            destination = destination[length..];
            offset += length;
        }

        if (destination.Length > 0)
            _registers.ReadConfig(offset - config, destination);
    }

    private void Write(int offset, ReadOnlySpan<byte> source, ulong value, int config)
    {
        if (offset >= config)
        {
            _device.TrySetConfig(offset - config, source, out _);
            return;
        }

        switch (offset, source.Length)
        {
            case (VIRTIO_PCI_GUEST_FEATURES, 4) when !_isRunning:
                _features = (uint)value & Offered;
                break;
            case (VIRTIO_PCI_QUEUE_PFN, 4) when _select < _pages.Length:
                SetPage((uint)value);
                break;
            case (VIRTIO_PCI_QUEUE_SEL, 2):
                _select = (ushort)value;
                break;
            case (VIRTIO_PCI_QUEUE_NOTIFY, 2) when (ushort)value < _pages.Length && _pages[(ushort)value] != 0:
                // Drivers of the time used their queues before they said that they are ready (3.1.2).
                Begin();
                _device.KickQueue((ushort)value);
                break;
            case (VIRTIO_PCI_STATUS, 1):
                SetStatus((byte)value);
                break;
            case (VIRTIO_MSI_CONFIG_VECTOR, 2):
                _registers.Write(config_msix_vector, 2, value);
                break;
            case (VIRTIO_MSI_QUEUE_VECTOR, 2):
                Select(_select);
                _registers.Write(queue_msix_vector, 2, value);
                break;
        }
    }

    /// <summary>Writes what moves with the state, without the pages.</summary>
    internal void Save(Span<byte> to)
    {
        to[..SavedSize].Clear();
        BinaryPrimitives.WriteUInt32LittleEndian(to, _features);
        BinaryPrimitives.WriteUInt16LittleEndian(to[4..], _select);
        to[6] = _status;
        to[7] = _isRunning ? (byte)1 : (byte)0;
    }

    /// <summary>The pages of the queues, for who moves them.</summary>
    internal ReadOnlySpan<uint> Pages => _pages;

    /// <summary>Takes over what <see cref="Save"/> wrote.</summary>
    internal void Restore(ReadOnlySpan<byte> from, ReadOnlySpan<uint> pages)
    {
        _features = BinaryPrimitives.ReadUInt32LittleEndian(from) & Offered;
        _select = BinaryPrimitives.ReadUInt16LittleEndian(from[4..]);
        _status = (byte)(from[6] & KnownStatus);
        _isRunning = from[7] == 1;
        pages.CopyTo(_pages);
        if (_isRunning)
            _doorbells.BeginOld();
        else
            _doorbells.EndOld();
    }

    private uint Offered => _device.DeviceFeatures.Word(0) | AnyLayout;

    private void Build(Span<byte> r, bool takesIsr)
    {
        BinaryPrimitives.WriteUInt32LittleEndian(r[VIRTIO_PCI_HOST_FEATURES..], Offered);
        BinaryPrimitives.WriteUInt32LittleEndian(r[VIRTIO_PCI_GUEST_FEATURES..], _features);
        BinaryPrimitives.WriteUInt16LittleEndian(r[VIRTIO_PCI_QUEUE_SEL..], _select);
        r[VIRTIO_PCI_STATUS] = _status;
        if (takesIsr)
            r[VIRTIO_PCI_ISR] = _interrupts.Take();
        BinaryPrimitives.WriteUInt16LittleEndian(r[VIRTIO_MSI_CONFIG_VECTOR..], _registers.ConfigVector);
        BinaryPrimitives.WriteUInt16LittleEndian(r[VIRTIO_MSI_QUEUE_VECTOR..], VIRTIO_MSI_NO_VECTOR);
        if (_select >= _pages.Length)
            return;
        BinaryPrimitives.WriteUInt32LittleEndian(r[VIRTIO_PCI_QUEUE_PFN..], _pages[_select]);
        BinaryPrimitives.WriteUInt16LittleEndian(r[VIRTIO_PCI_QUEUE_NUM..], (ushort)_device.MaxQueueSize);
        BinaryPrimitives.WriteUInt16LittleEndian(r[VIRTIO_MSI_QUEUE_VECTOR..], _registers.VectorOf(_select));
    }

    private void SetStatus(byte status)
    {
        if (status == 0)
        {
            // Such a driver does not ask whether it is done.
            _registers.BeginReset(isPolled: false);
            Reset();
            _interrupts.Take();
            return;
        }

        _status = (byte)(status & KnownStatus);
        if ((status & DRIVER_OK) != 0)
            Begin();
        if ((status & FAILED) != 0)
            _registers.Write(device_status, 1, (ulong)(_device.Status | FAILED));
    }

    private void SetPage(uint page)
    {
        _pages[_select] = page;
        if (!_isRunning)
            return;
        Select(_select);
        if (page == 0)
            StopSelected();
        else
            StartQueue(_select);
    }

    // The driver knows no FEATURES_OK and enables no queue: that is done for it, once.
    private void Begin()
    {
        if (_isRunning)
            return;
        _isRunning = true;
        _doorbells.BeginOld();
        _registers.Write(driver_feature_select, 4, 0);
        _registers.Write(driver_feature, 4, _features & ~AnyLayout);
        _registers.Write(driver_feature_select, 4, 1);
        _registers.Write(driver_feature, 4, 0);
        _registers.Write(device_status, 1, ACKNOWLEDGE);
        _registers.Write(device_status, 1, ACKNOWLEDGE | DRIVER);
        _registers.Write(device_status, 1, ACKNOWLEDGE | DRIVER | FEATURES_OK);
        for (var queue = 0; queue < _pages.Length; queue++)
        {
            if (_pages[queue] != 0)
                StartQueue(queue);
        }

        _registers.Write(device_status, 1, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    }

    // Descriptors, then the available ring, then the used ring on a page of its own (2.7.2).
    private void StartQueue(int queue)
    {
        var size = (ulong)_device.MaxQueueSize;
        var descriptors = (ulong)_pages[queue] << VIRTIO_PCI_QUEUE_ADDR_SHIFT;
        var available = descriptors + (16 * size);
        var end = available + 6 + (2 * size);
        Select(queue);
        StopSelected();
        _registers.Write(queue_desc, 8, descriptors);
        _registers.Write(queue_driver, 8, available);
        _registers.Write(queue_device, 8, (end + RingAlignment - 1) & ~(RingAlignment - 1UL));
        _registers.Write(queue_enable, 2, 1);
    }

    private void StopSelected()
    {
        var queue = _registers.SelectedQueue;
        if (queue >= 0)
            _device.BeginResetQueue(queue);
    }

    private void Select(int queue) => _registers.Write(queue_select, 2, (ulong)queue);
}
