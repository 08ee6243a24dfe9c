using Virtbus.Drivers.Nic;
using Virtbus.Ethernet;
using Virtbus.Platform;
using Virtbus.Subsystems.Net;

namespace Virtbus.Drivers.NicNet;

/// <summary>The net subsystem's operations on a queue set of an adapter.</summary>
internal sealed class NicNetOps(INicQueueSets sets) : INetOps
{
    private const int Depth = 256;
    private INicQueueSet? _queues;

    public ValueTask OpenAsync(NetDevice device)
    {
        var queues = sets.Allocate(device.Name, Depth);
        // An adapter does not say where a batch ends.
        queues.StartReceive(frame =>
        {
            device.Receive(0, new EthernetFrame(frame));
            device.EndReceive(0);
        });
        Volatile.Write(ref _queues, queues);
        return default;
    }

    public ValueTask StopAsync(NetDevice device)
    {
        Interlocked.Exchange(ref _queues, null)?.Dispose();
        return default;
    }

    // The adapter is told with each frame.
    public bool TryTransmit(int queue, in EthernetFrame frame, out Fault fault)
    {
        if (Volatile.Read(ref _queues) is { } queues)
            return queues.TryTransmit(frame.Bytes, out fault);
        fault = new Fault(Errno.ENOTCONN, "the interface is down");
        return false;
    }
}
