using System.Diagnostics;
using Virtbus.Memory;
using Virtbus.Platform;
using static Virtbus.Virtio.VirtioCommonConfig;

namespace Virtbus.Virtio;

/// <summary>
/// The driver's side of a device behind registers (struct virtio_pci_common_cfg; VIRTIO 1.2, 3.1.1 and 4.1.4.3). It keeps the order of status
/// bits, and believes the device nothing that it does not read back.
/// </summary>
/// <remarks>
/// Calls may come from any thread, one at a time: selectors stand between. Only <see cref="Status"/> and <see cref="ConfigGeneration"/> need no
/// turn.
/// </remarks>
public sealed class VirtioRegisterTransport
{
    // A driver that reads while the device changes its configuration reads again (2.5.3); one that changes it without end is broken.
    private const int MaxConfigReads = 100;
    private const int ResetLooks = 1000;
    // However long one takes.
    private const int LeastLooks = 3;
    // No device sets all bits of its status at once: nobody answers.
    private const byte Gone = 0xFF;
    private const int FeatureWords = VirtioFeatures.Count / 32;
    private readonly IVirtioRegisterAccess _registers;
    private readonly int _featureWords;

    /// <summary>Begins to drive a device. Only registers that never change are read.</summary>
    /// <param name="registers">The way to its registers.</param>
    /// <param name="featureWords">How many 32 bits of features are looked at: a driver that needs no more than 2 asks for no more, since there are devices
    /// that end at a third.</param>
    public VirtioRegisterTransport(IVirtioRegisterAccess registers, int featureWords = FeatureWords)
    {
        ArgumentNullException.ThrowIfNull(registers);
        ArgumentOutOfRangeException.ThrowIfLessThan(featureWords, 2);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(featureWords, FeatureWords);
        _registers = registers;
        _featureWords = featureWords;
        DeviceFeatures = ReadFeatures(device_feature_select, device_feature);
        QueueCount = _registers.ReadUInt16(num_queues);
    }

    /// <summary>Features that the device offers.</summary>
    public VirtioFeatures DeviceFeatures { get; }

    /// <summary>How many queues it has.</summary>
    public int QueueCount { get; }

    /// <summary>
    /// How long a reset is waited for, and a configuration that changes at each read; 0, as at first, for a number of looks. A peer that answers each look
    /// late keeps nobody longer, but for the looks that there are in any case.
    /// </summary>
    public TimeSpan ResetPatience { get; init; }

    /// <summary>Place of the selected queue's notification (queue_notify_off).</summary>
    public ushort NotifyOffset => _registers.ReadUInt16(queue_notify_off);

    /// <summary>What a notification of the selected queue carries, where VIRTIO_F_NOTIF_CONFIG_DATA was taken.</summary>
    public ushort NotifyData => _registers.ReadUInt16(queue_notify_data);

    /// <summary>Features that the driver took, as the device has them.</summary>
    public VirtioFeatures DriverFeatures => ReadFeatures(driver_feature_select, driver_feature);

    /// <summary>Device status, see <see cref="VirtioStatus"/>; all ones when the device is gone.</summary>
    public byte Status => _registers.ReadByte(device_status);

    /// <summary>Number that changes when the configuration space changes; 8 bits.</summary>
    public uint ConfigGeneration => _registers.ReadByte(config_generation);

    /// <summary>Whether the selected queue is enabled.</summary>
    public bool IsEnabled => _registers.ReadUInt16(queue_enable) == 1;

    /// <summary>Size of the selected queue; the largest possible one before it was set, 0 when there is no such queue.</summary>
    public int QueueSize => _registers.ReadUInt16(queue_size);

    /// <summary>Says which features the driver takes. They are settled, or refused, with FEATURES_OK.</summary>
    /// <param name="features">The features.</param>
    /// <param name="fault">EINVAL for one that was not offered; EBUSY after FEATURES_OK.</param>
    /// <returns>Whether the device has them.</returns>
    public bool TrySetDriverFeatures(VirtioFeatures features, out Fault fault)
    {
        if (!VirtioStatusRules.Allows(Status, VirtioStep.TakeFeatures, out fault))
            return false;
        if (!features.IsWithin(DeviceFeatures))
            return Refuse(Errno.EINVAL, "a feature was taken that the device does not offer", out fault);
        for (var select = 0u; select < _featureWords; select++)
        {
            _registers.WriteUInt32(driver_feature_select, select);
            _registers.WriteUInt32(driver_feature, features.Word(select));
        }
        return true;
    }

    /// <summary>Sets status bits; a reset is <see cref="TryReset"/>.</summary>
    /// <param name="status">All bits, not 0.</param>
    /// <param name="fault">EINVAL: a bit comes too early or is taken back, or the device does not take the features together; ENODEV: it is gone.</param>
    /// <returns>Whether the device has them.</returns>
    public bool TrySetStatus(byte status, out Fault fault)
    {
        if (!VirtioStatusRules.TryAdvance(Status, status, out fault))
            return false;
        _registers.Write(device_status, [status]);
        var kept = Status;
        if (kept == Gone)
            return Refuse(Errno.ENODEV, "the device is gone", out fault);
        return (kept & status & VirtioStatus.FEATURES_OK) == (status & VirtioStatus.FEATURES_OK)
            || Refuse(Errno.EINVAL, "the device does not take the features together", out fault);
    }

    /// <summary>Resets the device, and waits until it is (4.1.4.3.2).</summary>
    /// <param name="fault">ETIMEDOUT: it does not get there; ENODEV: it is gone.</param>
    /// <returns>Whether it is reset.</returns>
    public bool TryReset(out Fault fault)
    {
        _registers.Write(device_status, [0]);
        var start = Stopwatch.GetTimestamp();
        var spin = default(SpinWait);
        for (var i = 0; MayLook(i, ResetLooks, start); i++)
        {
            switch (Status)
            {
                case 0:
                    fault = Fault.None;
                    return true;
                case Gone:
                    return Refuse(Errno.ENODEV, "the device is gone", out fault);
            }

            if (i < ResetLooks)
                Thread.Yield();
            else
                spin.SpinOnce();
        }
        return Refuse(Errno.ETIMEDOUT, "the device does not come out of its reset", out fault);
    }

    /// <summary>Suspends the device, and waits until it is (VIRTIO 1.4, 3.4). No buffer is made available and no register written until it is resumed.</summary>
    /// <param name="fault">EINVAL: the driver did not take VIRTIO_F_SUSPEND, or has not set DRIVER_OK; EIO: the device failed, and needs a reset; ETIMEDOUT: it does not
    /// get there.</param>
    /// <returns>Whether it is suspended.</returns>
    public bool TrySuspend(out Fault fault)
    {
        var status = Status;
        if ((status & VirtioStatus.DRIVER_OK) == 0 || !DriverFeatures.Has(VirtioFeatures.VIRTIO_F_SUSPEND))
            return Refuse(Errno.EINVAL, "the device can't be suspended: it is not set up, or VIRTIO_F_SUSPEND was not taken", out fault);
        _registers.Write(device_status, [(byte)(status | VirtioStatus.SUSPEND)]);
        return TryAwait(VirtioStatus.SUSPEND, out fault);
    }

    /// <summary>Has a suspended device go on, and waits until it does.</summary>
    /// <param name="fault">EINVAL: it is not suspended; EIO, ETIMEDOUT as for <see cref="TrySuspend"/>.</param>
    /// <returns>Whether it goes on.</returns>
    public bool TryResume(out Fault fault)
    {
        var status = Status;
        if ((status & VirtioStatus.SUSPEND) == 0)
            return Refuse(Errno.EINVAL, "the device is not suspended", out fault);
        _registers.Write(device_status, [(byte)(status | VirtioStatus.DRIVER_OK)]);
        return TryAwait(VirtioStatus.DRIVER_OK, out fault);
    }

    /// <summary>
    /// Reads the configuration space in one piece: when the device changes it meanwhile, all of it is read again (2.5.3).
    /// </summary>
    /// <param name="offset">First byte in the space.</param>
    /// <param name="destination">Where to.</param>
    /// <param name="fault">EAGAIN: it changes all the time.</param>
    /// <returns>Whether what was read is of one moment.</returns>
    public bool TryReadConfig(int offset, Span<byte> destination, out Fault fault)
    {
        var before = ConfigGeneration;
        var start = Stopwatch.GetTimestamp();
        for (var i = 0; i < MaxConfigReads && MayLook(i, MaxConfigReads, start); i++)
        {
            _registers.ReadConfig(offset, destination);
            var after = ConfigGeneration;
            if (after == before)
            {
                fault = Fault.None;
                return true;
            }
            before = after;
        }
        return Refuse(Errno.EAGAIN, "the device changes its configuration without end", out fault);
    }

    /// <summary>Writes the configuration space.</summary>
    /// <param name="offset">First byte in the space.</param>
    /// <param name="source">Where from.</param>
    public void WriteConfig(int offset, ReadOnlySpan<byte> source) => _registers.WriteConfig(offset, source);

    /// <summary>Chooses the queue that the members below are about.</summary>
    /// <param name="queue">Queue number.</param>
    public void Select(int queue) => _registers.WriteUInt16(queue_select, (ushort)queue);

    /// <summary>Sets the size of the selected queue, which is not enabled.</summary>
    /// <param name="size">A power of two up to what the device takes.</param>
    public void SetQueueSize(int size) => _registers.WriteUInt16(queue_size, (ushort)size);

    /// <summary>Says where the selected queue, which is not enabled, is.</summary>
    /// <param name="descriptorArea">Descriptor area.</param>
    /// <param name="driverArea">Driver area.</param>
    /// <param name="deviceArea">Device area.</param>
    public void SetQueueAddress(Iova descriptorArea, Iova driverArea, Iova deviceArea)
    {
        WriteAddress(queue_desc, descriptorArea);
        WriteAddress(queue_driver, driverArea);
        WriteAddress(queue_device, deviceArea);
    }

    /// <summary>Sets the vector of configuration changes.</summary>
    /// <param name="vector">The vector, or <see cref="VIRTIO_MSI_NO_VECTOR"/>.</param>
    /// <returns>False when the device has none left for it (4.1.5.1.2).</returns>
    public bool TrySetConfigVector(ushort vector)
    {
        _registers.WriteUInt16(config_msix_vector, vector);
        return _registers.ReadUInt16(config_msix_vector) == vector;
    }

    /// <summary>Sets the vector of the selected queue.</summary>
    /// <param name="vector">The vector, or <see cref="VIRTIO_MSI_NO_VECTOR"/>.</param>
    /// <returns>False when the device has none left for it (4.1.5.1.2).</returns>
    public bool TrySetQueueVector(ushort vector)
    {
        _registers.WriteUInt16(queue_msix_vector, vector);
        return _registers.ReadUInt16(queue_msix_vector) == vector;
    }

    /// <summary>Enables the selected queue.</summary>
    /// <returns>Whether the device took it.</returns>
    public bool TryEnable()
    {
        _registers.WriteUInt16(queue_enable, 1);
        return IsEnabled;
    }

    private bool MayLook(int looks, int most, long start) =>
        looks < LeastLooks || (ResetPatience > TimeSpan.Zero ? Stopwatch.GetElapsedTime(start) < ResetPatience : looks < most);

    // A field of 64 bits is two of 32 for a driver (4.1.3.1).
    private void WriteAddress(int register, Iova address)
    {
        _registers.WriteUInt32(register, (uint)address.Value);
        _registers.WriteUInt32(register + sizeof(uint), (uint)(address.Value >> 32));
    }

    private bool TryAwait(byte bit, out Fault fault)
    {
        for (var i = 0; i < ResetLooks; i++)
        {
            var status = Status;
            if ((status & VirtioStatus.DEVICE_NEEDS_RESET) != 0)
                return Refuse(Errno.EIO, "the device failed, and needs a reset", out fault);
            if ((status & (VirtioStatus.SUSPEND | VirtioStatus.DRIVER_OK)) == bit)
            {
                fault = Fault.None;
                return true;
            }

            Thread.Yield();
        }

        return Refuse(Errno.ETIMEDOUT, "the device does not come to a standstill, or out of it", out fault);
    }

    private static bool Refuse(Errno errno, string message, out Fault fault)
    {
        fault = new Fault(errno, message);
        return false;
    }

    private VirtioFeatures ReadFeatures(int selector, int register)
    {
        var features = VirtioFeatures.None;
        for (var select = 0u; select < _featureWords; select++)
        {
            _registers.WriteUInt32(selector, select);
            features = features.WithWord(select, _registers.ReadUInt32(register));
        }
        return features;
    }
}
