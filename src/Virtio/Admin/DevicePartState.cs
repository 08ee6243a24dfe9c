using System.Buffers.Binary;
using Virtbus.Platform;
using static Virtbus.Virtio.VirtioCommonConfig;

namespace Virtbus.Virtio.Admin;

/// <summary>
/// The state of a device behind registers, changed by parts that a standard describes (VIRTIO 1.4, 2.14): what comes out is restored as any state, which checks it
/// again, whole. One thread.
/// </summary>
public sealed class DevicePartState
{
    /// <summary>Bytes of the value of a part that is a set of features.</summary>
    public const int FeaturesSize = 16;

    private readonly VirtioConfigRegisters _owner;
    private readonly List<StateSection> _rest = [];
    private readonly byte[] _device;
    private readonly byte[] _queues;
    private readonly string _registersSection;
    private readonly byte[] _registers;
    private readonly int _registersAt;
    private readonly (ushort Device, ushort Queues, ushort Registers) _versions;

    private DevicePartState(VirtioConfigRegisters owner, StateSection device, StateSection queues, StateSection registers, int registersAt)
    {
        _owner = owner;
        _device = device.Content.ToArray();
        _queues = queues.Content.ToArray();
        _registers = registers.Content.ToArray();
        _registersSection = registers.Name;
        _registersAt = registersAt;
        _versions = (device.Version, queues.Version, registers.Version);
    }

    private Span<byte> Registers => _registers.AsSpan(_registersAt);

    private int QueueCount => _queues.Length / VirtioDevice.QueueSize;

    /// <summary>Begins with a state.</summary>
    /// <param name="state">The state; not trusted, and not checked beyond what is needed here.</param>
    /// <param name="owner">The registers whose state it is to become.</param>
    /// <param name="registersSection">The section that has what <see cref="VirtioConfigRegisters.Save"/> wrote.</param>
    /// <param name="registersAt">Where in it.</param>
    /// <param name="result">The state.</param>
    /// <param name="fault">EINVAL: a section is missing or of another size.</param>
    public static bool TryBegin(StateReader state, VirtioConfigRegisters owner, string registersSection, int registersAt, out DevicePartState? result, out Fault fault)
    {
        ArgumentNullException.ThrowIfNull(state);
        ArgumentNullException.ThrowIfNull(owner);
        result = null;
        var queues = owner.QueueCount * VirtioDevice.QueueSize;
        var registers = registersAt + owner.SavedSize;
        if (!state.TryTake(VirtioDevice.DeviceSection, ushort.MaxValue, VirtioDevice.DeviceSectionSize, VirtioDevice.DeviceSectionSize, out var first, out fault)
            || !state.TryTake(VirtioDevice.QueuesSection, ushort.MaxValue, queues, queues, out var second, out fault)
            || !state.TryTake(registersSection, ushort.MaxValue, registers, registers, out var third, out fault))
            return false;
        result = new DevicePartState(owner, first, second, third, registersAt);
        result._rest.AddRange(state.TakeRest());
        return true;
    }

    /// <summary>Changes it by a part, or compares a part that is read-only.</summary>
    /// <param name="part">The part.</param>
    /// <param name="value">Its value.</param>
    /// <param name="fault">EINVAL: of another length than the device's, or of another value where that is fixed; ENOENT: no such part, and it is not optional.</param>
    public bool TrySet(in DevicePart part, ReadOnlySpan<byte> value, out Fault fault)
    {
        var queue = (int)Math.Min(part.Selector, (ulong)QueueCount);
        switch (part.Type)
        {
            case DevicePart.VIRTIO_DEV_PART_DEV_FEATURES when part.Selector == 0:
                return Check(value.Length == FeaturesSize && ReadFeatures(value) == _owner.OfferedFeatures, "the features that the device offers are others", out fault);
            case DevicePart.VIRTIO_DEV_PART_DRV_FEATURES when part.Selector == 0:
                return TryCopy(value, Registers.Slice(VirtioConfigRegisters.SavedFeaturesAt, FeaturesSize), out fault);
            case DevicePart.VIRTIO_DEV_PART_PCI_COMMON_CFG when IsField(part.Selector):
                return TrySetField((int)part.Selector, value, out fault);
            case DevicePart.VIRTIO_DEV_PART_DEVICE_STATUS when part.Selector == 0:
                return TryCopy(value, _device.AsSpan(VirtioDevice.DeviceStatusAt, 1), out fault);
            case DevicePart.VIRTIO_DEV_PART_VQ_CFG when queue < QueueCount:
                return TrySetQueue(queue, value, out fault);
            case DevicePart.VIRTIO_DEV_PART_VQ_NOTIFY_CFG when queue < QueueCount:
                Span<byte> own = stackalloc byte[DevicePart.QueueNotifySize];
                VirtioConfigRegisters.WriteNotification(own, queue);
                return Check(value.SequenceEqual(own), "the device's notifications are others", out fault);
            default:
                fault = (part.Flags & DevicePart.Optional) != 0 ? Fault.None : new Fault(Errno.ENOENT, "the device has no such part");
                return fault == Fault.None;
        }
    }

    /// <summary>The state as it is to be restored.</summary>
    public byte[] ToArray()
    {
        // Before they are settled the device has none.
        var isSettled = (_device[VirtioDevice.DeviceStatusAt] & VirtioStatus.FEATURES_OK) != 0;
        var features = isSettled ? ReadFeatures(Registers[VirtioConfigRegisters.SavedFeaturesAt..]) & ~_owner.TransportFeatures : VirtioFeatures.None;
        BinaryPrimitives.WriteUInt64LittleEndian(_device.AsSpan(VirtioDevice.DeviceFeaturesAt), features.Low);
        BinaryPrimitives.WriteUInt64LittleEndian(_device.AsSpan(VirtioDevice.DeviceFeaturesAt + sizeof(ulong)), features.High);
        var writer = new StateWriter();
        writer.Add(VirtioDevice.DeviceSection, _versions.Device, _device);
        writer.Add(VirtioDevice.QueuesSection, _versions.Queues, _queues);
        writer.Add(_registersSection, _versions.Registers, _registers);
        foreach (var section in _rest)
            writer.Add(section.Name, section.Version, section.Content.Span, section.IsOptional);
        return writer.ToArray();
    }

    private static bool IsField(ulong offset) => offset is device_feature_select or driver_feature_select or config_msix_vector or num_queues or queue_select;

    private bool TrySetField(int offset, ReadOnlySpan<byte> value, out Fault fault)
    {
        switch (offset)
        {
            case device_feature_select:
                return TryCopy(value, Registers[..sizeof(uint)], out fault);
            case driver_feature_select:
                return TryCopy(value, Registers.Slice(sizeof(uint), sizeof(uint)), out fault);
            case config_msix_vector:
                return TryCopy(value, Registers.Slice(VirtioConfigRegisters.SavedConfigVectorAt, sizeof(ushort)), out fault);
            case queue_select:
                return TryCopy(value, Registers.Slice(VirtioConfigRegisters.SavedQueueSelectAt, sizeof(ushort)), out fault);
            default:
                return Check(value.Length == sizeof(ushort) && BinaryPrimitives.ReadUInt16LittleEndian(value) == _owner.QueueCount, "the device has another number of queues", out fault);
        }
    }

    private bool TrySetQueue(int queue, ReadOnlySpan<byte> value, out Fault fault)
    {
        if (!Check(value.Length == DevicePart.QueueSize && value[4] <= 1 && value[5] == 0, "the queue is of another form", out fault))
            return false;
        var device = _queues.AsSpan(queue * VirtioDevice.QueueSize, VirtioDevice.QueueSize);
        var registers = Registers.Slice(VirtioConfigRegisters.SavedHeader + (queue * VirtioConfigRegisters.SavedQueue), VirtioConfigRegisters.SavedQueue);
        value[8..].CopyTo(device);
        value[8..].CopyTo(registers);
        value[..2].CopyTo(device[VirtioDevice.QueueSizeAt..]);
        // 0 there is the largest one, not written yet.
        var size = registers.Slice(VirtioConfigRegisters.SavedSizeAt, sizeof(ushort));
        if (size.ContainsAnyExcept((byte)0) || BinaryPrimitives.ReadUInt16LittleEndian(value) != _owner.MaxQueueSize)
            value[..2].CopyTo(size);
        value.Slice(2, 2).CopyTo(registers[VirtioConfigRegisters.SavedVectorAt..]);
        var flags = BinaryPrimitives.ReadUInt16LittleEndian(device[VirtioDevice.QueueFlagsAt..]) & ~VirtioDevice.ReadyFlag;
        BinaryPrimitives.WriteUInt16LittleEndian(device[VirtioDevice.QueueFlagsAt..], (ushort)(flags | (value[4] * VirtioDevice.ReadyFlag)));
        return true;
    }

    private static VirtioFeatures ReadFeatures(ReadOnlySpan<byte> value) => new(BinaryPrimitives.ReadUInt64LittleEndian(value), BinaryPrimitives.ReadUInt64LittleEndian(value[8..]));

    private static bool TryCopy(ReadOnlySpan<byte> value, Span<byte> to, out Fault fault)
    {
        if (!Check(value.Length == to.Length, "the part is of another length than the device's", out fault))
            return false;
        value.CopyTo(to);
        return true;
    }

    private static bool Check(bool isRight, string why, out Fault fault)
    {
        fault = isRight ? Fault.None : new Fault(Errno.EINVAL, why);
        return isRight;
    }
}
