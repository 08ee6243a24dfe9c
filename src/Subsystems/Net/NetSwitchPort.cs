using Virtbus.Ethernet;
using Virtbus.Platform;

namespace Virtbus.Subsystems.Net;

/// <summary>
/// An interface as a port of a switch, whatever driver it has: what it receives goes to the switch, and what the switch has for the port is sent. Offload
/// data goes both ways as far as the hardware goes along, and the switch does the rest. The interface is up and promiscuous while it is joined.
/// </summary>
public sealed class NetSwitchPort : IFrameReceiver
{
    private readonly EthernetSwitch _network;
    // One for each queue, as each may have a thread.
    private readonly SwitchBatch[] _batches;
    private bool _isOver;

    private NetSwitchPort(NetDevice device, EthernetSwitch network, ushort accessVlan)
    {
        Device = device;
        _network = network;
        _batches = [.. Enumerable.Range(0, device.MaxQueues).Select(_ => new SwitchBatch(network))];
        Port = new SwitchPort(new Sink(device)) { Name = device.Name, AccessVlan = accessVlan, MaxAddresses = EthernetSwitch.MaxAddressesOfNetwork };
    }

    /// <summary>The interface.</summary>
    public NetDevice Device { get; }

    /// <summary>Its place on the switch.</summary>
    public SwitchPort Port { get; }

    OffloadKinds IFrameReceiver.Takes => OffloadKinds.All;

    /// <summary>Puts an interface on a switch, and brings it up.</summary>
    /// <param name="device">The interface. Its hardware is not to be on the same switch: frames would go round for ever.</param>
    /// <param name="network">The switch.</param>
    /// <param name="accessVlan">As <see cref="SwitchPort.AccessVlan"/>.</param>
    /// <exception cref="VirtbusException">What its driver answers; nothing is joined then.</exception>
    public static async ValueTask<NetSwitchPort> JoinAsync(NetDevice device, EthernetSwitch network, ushort accessVlan = 0)
    {
        ArgumentNullException.ThrowIfNull(device);
        ArgumentNullException.ThrowIfNull(network);
        // First: there may be no such VLAN.
        var port = new NetSwitchPort(device, network, accessVlan);
        await device.SetPromiscuousAsync(true);
        try
        {
            network.Join(port.Port);
            device.AddReceiver(port);
            await device.SetUpAsync(true);
            return port;
        }
        catch
        {
            await port.LeaveAsync();
            throw;
        }
    }

    /// <summary>Takes the interface off the switch; it stays up, and is no longer promiscuous if nobody else wants that. Once.</summary>
    /// <remarks>What is under way may still arrive.</remarks>
    public async ValueTask LeaveAsync()
    {
        if (Interlocked.Exchange(ref _isOver, true))
            return;
        Device.RemoveReceiver(this);
        _network.Leave(Port);
        try
        {
            await Device.SetPromiscuousAsync(false);
        }
        catch (VirtbusException)
        {
            // Hardware that is gone or does not answer receives what it likes.
        }
    }

    void IFrameReceiver.Receive(NetDevice device, int queue, in EthernetFrame frame) => _batches[queue].Forward(Port, frame);

    void IFrameReceiver.EndBatch(NetDevice device, int queue) =>
        _batches[queue].End(static (sink, exception) => FaultSource.Report(null, sink.GetType().Name, exception));

    private sealed class Sink(NetDevice device) : IFrameSink
    {
        private long _dropped;

        // What nobody sends is not cut before.
        public OffloadKinds Takes => device.IsUp ? device.Offloads : OffloadKinds.All;

        public long Dropped => Interlocked.Read(ref _dropped);

        public void Deliver(in EthernetFrame frame)
        {
            if (!device.TrySend(frame, out _))
                Miss();
        }

        public void Miss() => Interlocked.Increment(ref _dropped);

        public void Flush() => device.Flush();
    }
}
