using System.Collections.Concurrent;
using Microsoft.Extensions.Logging;
using Virtbus.Core;
using Virtbus.Platform;
using Virtbus.Subsystems.Tty;

namespace Virtbus.Daemon.Provisioning;

/// <summary>Offers every line of class <c>tty</c> on a socket of its name, as the far ends of consoles are offered. Any thread.</summary>
internal sealed partial class TtyConsoles : IClassObserver
{
    private readonly ProvisioningContext _context;
    private readonly ILogger _log;
    private readonly ConcurrentDictionary<Device, SerialConsole> _consoles = new();

    public TtyConsoles(ProvisioningContext context)
    {
        _context = context;
        _log = context.LoggerFactory.CreateLogger("Virtbus.Tty");
    }

    public IEnumerable<DeviceSocket> Sockets =>
        from pair in _consoles
        orderby pair.Key.Name
        select new DeviceSocket(pair.Key.Name, "console", pair.Value, pair.Key.Parent, pair.Key);

    public ValueTask DeviceAddedAsync(Device device)
    {
        try
        {
            var path = Path.Combine(_context.RuntimeFolder, device.Name + ".tty.sock");
            _consoles[device] = new SerialConsole(new TtyTextPort((TtyDevice)device), path, _log, _context.Fabric.Time);
        }
        catch (VirtbusException e)
        {
            NotOffered(_log, device.Name, e.Message);
        }

        return default;
    }

    public ValueTask DeviceRemovedAsync(Device device) => _consoles.TryRemove(device, out var console) ? console.DisposeAsync() : default;

    [LoggerMessage(2260, LogLevel.Warning, "{Line}: it is not offered on a socket: {Reason}")]
    private static partial void NotOffered(ILogger log, string line, string reason);
}
