using System.Buffers;
using System.Buffers.Binary;
using Virtbus.Virtio.Admin;
using static Virtbus.Virtio.VirtioCommonConfig;

namespace Virtbus.Virtio;

// The state as parts that a standard describes (VIRTIO 1.4, 2.14).
public sealed partial class VirtioConfigRegisters
{
    /// <summary>Features of the bus's side, of which the device is not told.</summary>
    internal VirtioFeatures TransportFeatures => _transport;

    /// <summary>The size that a queue has whose register was not written.</summary>
    internal int MaxQueueSize => _device.MaxQueueSize;

    /// <summary>Writes the parts of the registers and the queues, in the standard's order. The device stands still.</summary>
    /// <param name="parts">Takes them.</param>
    public void WriteParts(IBufferWriter<byte> parts)
    {
        ArgumentNullException.ThrowIfNull(parts);
        Span<byte> value = stackalloc byte[DevicePart.QueueSize];
        WriteFeatures(parts, DevicePart.VIRTIO_DEV_PART_DEV_FEATURES, DevicePart.Optional, OfferedFeatures);
        WriteFeatures(parts, DevicePart.VIRTIO_DEV_PART_DRV_FEATURES, 0, _driverFeatures);
        WriteField(parts, device_feature_select, sizeof(uint), _deviceFeatureSelect);
        WriteField(parts, driver_feature_select, sizeof(uint), _driverFeatureSelect);
        WriteField(parts, config_msix_vector, sizeof(ushort), _configVector);
        WriteField(parts, num_queues, sizeof(ushort), (uint)_device.QueueCount);
        WriteField(parts, queue_select, sizeof(ushort), _queueSelect);
        value[0] = _device.Status;
        Write(parts, DevicePart.VIRTIO_DEV_PART_DEVICE_STATUS, 0, 0, value[..1]);
        for (var i = 0; i < _queues.Length; i++)
        {
            value.Clear();
            BinaryPrimitives.WriteUInt16LittleEndian(value, SizeOf(_queues[i]));
            BinaryPrimitives.WriteUInt16LittleEndian(value[2..], _queues[i].Vector);
            value[4] = _device.IsQueueReady(i) ? (byte)1 : (byte)0;
            BinaryPrimitives.WriteUInt64LittleEndian(value[8..], _queues[i].Descriptors);
            BinaryPrimitives.WriteUInt64LittleEndian(value[16..], _queues[i].Driver);
            BinaryPrimitives.WriteUInt64LittleEndian(value[24..], _queues[i].Device);
            Write(parts, DevicePart.VIRTIO_DEV_PART_VQ_CFG, 0, (ulong)i, value);
        }

        for (var i = 0; i < _queues.Length; i++)
        {
            WriteNotification(value, i);
            Write(parts, DevicePart.VIRTIO_DEV_PART_VQ_NOTIFY_CFG, 0, (ulong)i, value[..DevicePart.QueueNotifySize]);
        }
    }

    /// <summary>What the part about a queue's notifications says.</summary>
    internal static void WriteNotification(Span<byte> value, int queue)
    {
        value[..DevicePart.QueueNotifySize].Clear();
        BinaryPrimitives.WriteUInt16LittleEndian(value, (ushort)queue);
        BinaryPrimitives.WriteUInt16LittleEndian(value[2..], (ushort)queue);
    }

    private static void WriteFeatures(IBufferWriter<byte> parts, ushort type, byte flags, VirtioFeatures features)
    {
        Span<byte> value = stackalloc byte[DevicePartState.FeaturesSize];
        BinaryPrimitives.WriteUInt64LittleEndian(value, features.Low);
        BinaryPrimitives.WriteUInt64LittleEndian(value[8..], features.High);
        Write(parts, type, flags, 0, value);
    }

    private static void WriteField(IBufferWriter<byte> parts, int offset, int size, uint content)
    {
        Span<byte> value = stackalloc byte[sizeof(uint)];
        BinaryPrimitives.WriteUInt32LittleEndian(value, content);
        Write(parts, DevicePart.VIRTIO_DEV_PART_PCI_COMMON_CFG, 0, (ulong)offset, value[..size]);
    }

    private static void Write(IBufferWriter<byte> parts, ushort type, byte flags, ulong selector, ReadOnlySpan<byte> value)
    {
        new DevicePart(type, flags, selector, (uint)value.Length).Write(parts.GetSpan(DevicePart.Size));
        parts.Advance(DevicePart.Size);
        parts.Write(value);
    }
}
