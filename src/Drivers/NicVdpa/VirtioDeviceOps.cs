using Virtbus.Buses.Vdpa;
using Virtbus.Hardware.Virtio;
using Virtbus.Memory;
using Virtbus.Memory.Rings;
using Virtbus.Platform;

namespace Virtbus.Drivers.NicVdpa;

/// <summary>The control path of a virtio function as the operations of a vDPA device. The function serves its queues itself.</summary>
internal sealed class VirtioDeviceOps(VirtioDevice device) : IVdpaOps, IDisposable
{
    public uint DeviceId => device.DeviceId;

    public uint VendorId => 0;

    public int QueueCount => device.QueueCount;

    public int MaxQueueSize => device.MaxQueueSize;

    public ulong DeviceFeatures => device.DeviceFeatures;

    public ulong DriverFeatures => device.DriverFeatures;

    public int ConfigSize => device.ConfigSize;

    public uint ConfigGeneration => device.ConfigGeneration;

    public byte Status => device.Status;

    public bool TrySetDriverFeatures(ulong features, out Fault fault) => device.TrySetDriverFeatures(features, out fault);

    public bool TryGetConfig(int offset, Span<byte> destination, out Fault fault) => device.TryGetConfig(offset, destination, out fault);

    public bool TrySetConfig(int offset, ReadOnlySpan<byte> source, out Fault fault) => device.TrySetConfig(offset, source, out fault);

    public void SetConfigCallback(Action? callback) => device.SetConfigCallback(callback);

    public bool TrySetStatus(byte status, out Fault fault) => device.TrySetStatus(status, out fault);

    public void Reset() => device.Reset();

    public void SetMap(IoMap map) => device.SetMap(map);

    public bool TrySetQueueAddress(int queue, Iova descriptorArea, Iova driverArea, Iova deviceArea, out Fault fault) =>
        device.TrySetQueueAddress(queue, descriptorArea, driverArea, deviceArea, out fault);

    public bool TrySetQueueSize(int queue, int size, out Fault fault) => device.TrySetQueueSize(queue, size, out fault);

    public bool TrySetQueueReady(int queue, bool ready, out Fault fault) => device.TrySetQueueReady(queue, ready, out fault);

    public bool IsQueueReady(int queue) => device.IsQueueReady(queue);

    public bool TrySetQueueState(int queue, ushort nextAvailable, out Fault fault) => device.TrySetQueueState(queue, nextAvailable, out fault);

    public ushort GetQueueState(int queue) => device.GetQueueState(queue);

    public void SetQueueKick(int queue, EventFd? kick) => device.SetQueueKick(queue, kick);

    public void SetQueueCall(int queue, EventFd? call) => device.SetQueueCall(queue, call);

    public void SetQueueError(int queue, EventFd? error) => device.SetQueueError(queue, error);

    public void KickQueue(int queue) => device.KickQueue(queue);

    public void SetQueueFaultCallback(Action<int, Fault>? callback) => device.SetQueueFaultCallback(callback);

    public VirtQueueCounters GetQueueCounters(int queue) => device.GetQueueCounters(queue);

    public void Dispose() => device.Dispose();
}
