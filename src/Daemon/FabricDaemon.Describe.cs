using Virtbus.Core;
using Virtbus.Daemon.Api;
using Virtbus.Daemon.Provisioning;
using Virtbus.Platform;
using Virtbus.Subsystems.Net;

namespace Virtbus.Daemon;

/// <content>What the control interface answers of devices, sockets and network interfaces.</content>
internal sealed partial class FabricDaemon
{
    /// <summary>The network interfaces, those among them that are joined and not there.</summary>
    public IReadOnlyList<InterfaceAnswer> DescribeInterfaces()
    {
        var joins = _hardware.Joins.All.ToDictionary(static j => j.Join.Interface);
        var there = NetSubsystem.Of(Fabric).Class.Devices.OfType<NetDevice>().ToDictionary(static d => d.Name);
        return [.. there.Keys.Union(joins.Keys).Order(StringComparer.Ordinal).Select(name => Describe(name, there.GetValueOrDefault(name), joins.GetValueOrDefault(name)))];
    }

    private static InterfaceAnswer Describe(string name, NetDevice? device, (InterfaceJoin? Join, string State) join) => new(
        name,
        device?.DevPath,
        device?.Parent?.Driver?.Name,
        device is null ? null : NetDevice.FormatAddress(device.Address),
        device is null ? "absent" : device.IsUp && device.HasCarrier ? "up" : "down",
        join.Join?.Line,
        join.Join is null ? null : join.State);

    /// <summary>The sockets of the fabric's devices, or those of one.</summary>
    /// <param name="device">The name or label of a device, or of a socket; null for all.</param>
    /// <exception cref="VirtbusException">ENODEV: there is no such device; EINVAL: there are several.</exception>
    public IReadOnlyList<SocketAnswer> DescribeSockets(string? device)
    {
        var all = _hardware.Sockets;
        if (device is null)
            return [.. all.Select(Describe)];
        // A socket has the name that its user knows. A device of that name may be another one, with the socket below it.
        var named = all.Where(s => s.Name == device || s.Address == device).ToList();
        return [.. (named.Count > 0 ? named : SocketsOf(View.FindDevice(device))).Select(Describe)];
    }

    /// <summary>One device, with its sockets.</summary>
    /// <param name="name">As <see cref="FabricView.FindDevice"/> takes it.</param>
    /// <exception cref="VirtbusException">ENODEV: there is no such device; EINVAL: there are several.</exception>
    public DeviceAnswer DescribeDevice(string name)
    {
        var device = View.FindDevice(name);
        SocketAnswer[] sockets = [.. SocketsOf(device).Select(Describe)];
        return FabricView.Describe(device) with { Sockets = sockets.Length > 0 ? sockets : null };
    }

    private IEnumerable<DeviceSocket> SocketsOf(Device device) => _hardware.Sockets.Where(s => s.Device == device || s.ClassDevice == device);
}
