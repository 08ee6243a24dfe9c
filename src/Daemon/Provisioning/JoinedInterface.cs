using Virtbus.Platform;
using Virtbus.Subsystems.Net;
using Virtbus.Transports.Tap;

namespace Virtbus.Daemon.Provisioning;

/// <summary>An interface that is joined: its port, and who else is on the switch because of it.</summary>
internal sealed class JoinedInterface : IAsyncDisposable
{
    private readonly NamedSwitch _network;
    private readonly TapPort? _tap;
    private readonly NetSwitchPort _port;

    private JoinedInterface(NamedSwitch network, TapPort? tap, NetSwitchPort port)
    {
        _network = network;
        _tap = tap;
        _port = port;
    }

    /// <summary>The interface.</summary>
    public NetDevice Device => _port.Device;

    /// <summary>Joins an interface. With a TAP device it is on a switch of these two.</summary>
    /// <exception cref="VirtbusException">What the host says of the TAP device, or the interface's driver. Nothing is left behind.</exception>
    public static async ValueTask<JoinedInterface> CreateAsync(NetDevice device, InterfaceJoin join, NamedSwitches switches)
    {
        // No other switch has a colon in its name.
        var network = switches.Open(join.Switch ?? "tap:" + join.Tap);
        TapPort? tap = null;
        try
        {
            tap = join.Tap is { } name ? StartTap(name, network, join.Queues) : null;
            return new JoinedInterface(network, tap, await NetSwitchPort.JoinAsync(device, network.Switch, (ushort)join.Vlan));
        }
        catch
        {
            tap?.Dispose();
            network.Dispose();
            throw;
        }
    }

    public async ValueTask DisposeAsync()
    {
        await _port.LeaveAsync();
        _tap?.Dispose();
        _network.Dispose();
    }

    private static TapPort StartTap(string name, NamedSwitch network, int queues)
    {
        try
        {
            return TapPort.Start(name, network.Switch, queues);
        }
        catch (VirtbusException e)
        {
            throw e.At("tap");
        }
    }
}
