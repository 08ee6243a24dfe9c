using Virtbus.Ethernet;
using Virtbus.Virtio;

namespace Virtbus.Models.VirtioNet;

/// <summary>What the network sees of a device: frames come on any thread, and go to the queue of their flow.</summary>
internal sealed class NetPort(VirtioNetDevice device, ReceiveQueue[] queues) : IFrameSink
{
    private ulong _lost;

    // What nobody is there for is lost in any case: it is not cut before.
    public OffloadKinds Takes => device.HasDriver && device.Settings.IsLinkUp ? device.Settings.Takes : OffloadKinds.All;

    public long Dropped => (long)device.Counters.ReceiveLost;

    /// <summary>Frames that no queue took.</summary>
    internal ulong Lost => Volatile.Read(ref _lost);

    public void Deliver(in EthernetFrame frame)
    {
        // Before all else: what is looked at below is that user's.
        var generation = device.Settings.Generation;
        if (!device.Settings.Filter.Accepts(frame))
            return;
        if (!device.Settings.IsLinkUp || device.IsTooLong(frame) || !TryAdd(frame, generation))
            Miss();
    }

    public void Miss() => Interlocked.Increment(ref _lost);

    // A kick that finds nothing costs little, and whoever put a frame in comes by here after that.
    public void Flush()
    {
        for (var pair = 0; pair < queues.Length; pair++)
        {
            if (!queues[pair].IsEmpty)
                device.KickQueue(2 * pair);
        }
    }

    private bool TryAdd(in EthernetFrame frame, int generation)
    {
        var steering = device.Settings.Steering;
        if (steering.Hash is { } hash)
        {
            var value = hash.Of(frame.Bytes);
            var hashed = new EthernetFrame(frame.Bytes, frame.Offload with { HashReport = value.Report, Hash = value.Hash });
            // A queue that the driver's table names and that does not run has none beside it (5.1.6.5.7.2).
            return steering.Table is not null ? queues[steering.PairOf(value)].TryAdd(hashed, generation) : TryAddByFlow(hashed, steering.Pairs, generation);
        }

        return TryAddByFlow(frame, steering.Pairs, generation);
    }

    private bool TryAddByFlow(in EthernetFrame frame, int pairs, int generation)
    {
        var pair = pairs == 1 ? 0 : device.Flows.Find(frame.Bytes, pairs);
        if (queues[pair].TryAdd(frame, generation))
            return true;
        // One that does not run at the moment: any other (5.1.6.5.5.2).
        for (var other = 0; other < pairs; other++)
        {
            if (other != pair && queues[other].TryAdd(frame, generation))
                return true;
        }

        return false;
    }
}
