using Virtbus.Ethernet;
using Virtbus.Hardware.Adapter;
using Virtbus.Platform;

namespace Virtbus.Daemon.Provisioning;

/// <summary>The wire from an adapter's switch to one that virtio network devices are on: a port of each.</summary>
internal sealed class SwitchUplink : IFrameSink, IDisposable
{
    // Behind it are guests too: not to have the table for themselves.
    private const int MostAddresses = EthernetSwitch.MaxAddresses / 4;
    private readonly NamedSwitch _network;
    private readonly SwitchPort _port;
    private readonly SwitchBatch _batch;
    private readonly Lock _gate = new();
    private readonly AdapterWire _wire;

    /// <summary>Joins them.</summary>
    /// <param name="engine">The adapter.</param>
    /// <param name="network">The hold of the switch, let go of with this.</param>
    public SwitchUplink(AdapterEngine engine, NamedSwitch network)
    {
        _network = network;
        _port = new SwitchPort(this) { MaxAddresses = MostAddresses };
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

    public void Deliver(in EthernetFrame frame)
    {
        // Many threads send, and a wire takes from one at a time.
        lock (_gate)
            _wire.TryReceive(frame);
    }

    public void Miss()
    {
    }

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
