using Virtbus.Ethernet;
using Virtbus.Hardware.Adapter;
using Virtbus.Platform;

namespace Virtbus.Daemon.Provisioning;

/// <summary>The wire from an adapter's switch to one that virtio network devices are on: a port of each.</summary>
internal sealed class SwitchUplink : IFrameSink, IDisposable
{
    private readonly NamedSwitch _network;
    private readonly SwitchPort _port;
    private readonly SwitchBatch _batch;
    private readonly Lock _gate = new();
    private readonly AdapterWire _wire;
    private long _dropped;

    /// <summary>Joins them.</summary>
    /// <param name="name">The adapter's name.</param>
    /// <param name="engine">The adapter.</param>
    /// <param name="network">The hold of the switch, let go of with this.</param>
    public SwitchUplink(string name, AdapterEngine engine, NamedSwitch network)
    {
        _network = network;
        _port = new SwitchPort(this) { Name = name, MaxAddresses = EthernetSwitch.MaxAddressesOfNetwork };
        _batch = new SwitchBatch(network.Switch);
        // On the adapter's thread, so one at a time.
        _wire = engine.ConnectWire((in EthernetFrame frame) =>
        {
            _batch.Forward(_port, frame);
            _batch.End(static (sink, exception) => FaultSource.Report(null, sink.GetType().Name, exception));
        });
        network.Switch.Join(_port);
    }

    /// <summary>Nothing: an adapter's rings have no offload data.</summary>
    public OffloadKinds Takes => OffloadKinds.None;

    /// <summary>Frames that the adapter did not take, which did not keep up.</summary>
    public long Dropped => Interlocked.Read(ref _dropped);

    public void Deliver(in EthernetFrame frame)
    {
        // Many threads send, and a wire takes from one at a time.
        bool isTaken;
        lock (_gate)
            isTaken = _wire.TryReceive(frame);
        if (!isTaken)
            Miss();
    }

    public void Miss() => Interlocked.Increment(ref _dropped);

    public void Flush()
    {
    }

    public void Dispose()
    {
        _network.Switch.Leave(_port);
        _wire.Dispose();
        _network.Dispose();
    }
}
