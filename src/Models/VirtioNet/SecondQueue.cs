using Virtbus.Platform;
using Virtbus.Virtio;
using Virtbus.Virtio.Rings;

namespace Virtbus.Models.VirtioNet;

/// <summary>
/// Queue 2 of a device with several pairs: the second pair's receive queue, or the control queue for a driver that took neither VIRTIO_NET_F_MQ nor
/// VIRTIO_NET_F_RSS and knows of one pair (VIRTIO 1.3, 5.1.2).
/// </summary>
internal sealed class SecondQueue(ReceiveQueue receive, ControlQueue control) : IQueueProcessor
{
    private IQueueProcessor _role = receive;

    public bool IsFull => _role.IsFull;

    public (ulong Requests, ulong Bytes, ulong Errors) Counters => Volatile.Read(ref _role).Counters;

    public void Start(DeviceRing ring, VirtioFeatures features)
    {
        Volatile.Write(ref _role, features.Has(VirtioNetConfig.VIRTIO_NET_F_MQ) || features.Has(VirtioNetConfig.VIRTIO_NET_F_RSS) ? receive : control);
        _role.Start(ring, features);
    }

    public bool Process(out Fault fault) => _role.Process(out fault);

    public void Drain() => _role.Drain();

    public void Abandon() => _role.Abandon();

    public void Dispose()
    {
        receive.Dispose();
        control.Dispose();
    }
}
