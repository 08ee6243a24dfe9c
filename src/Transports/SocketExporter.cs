using System.Collections.Concurrent;
using Virtbus.Core;
using Virtbus.Platform;
using Virtbus.Subsystems;

namespace Virtbus.Transports;

/// <summary>Offers every device of a class on a socket of its name, in one folder. Made by what serves them.</summary>
public sealed class SocketExporter : IClassObserver
{
    private readonly string _folder;
    private readonly Func<Device, string, SocketServer> _serve;
    private readonly Action<string, string> _failed;
    private readonly ConcurrentDictionary<Device, SocketServer> _servers = new();
    private readonly ConcurrentDictionary<string, VirtbusException> _errors = new();

    /// <param name="folder">The folder of the sockets; it exists.</param>
    /// <param name="serve">Makes the server of a device, at a path; it does not listen yet. The device is an <see cref="IOfferedDevice"/>.</param>
    /// <param name="failed">Told of a device, by its label, that is not offered, and why.</param>
    internal SocketExporter(string folder, Func<Device, string, SocketServer> serve, Action<string, string> failed)
    {
        _folder = folder;
        _serve = serve;
        _failed = failed;
    }

    /// <summary>The socket's path of a device.</summary>
    /// <param name="label">The name that users know, for example 0000:01:00.1; it is the file's name as it stands.</param>
    public string PathOf(string label) => System.IO.Path.Combine(_folder, label + ".sock");

    /// <summary>Why the device of a name was not offered when its driver last registered it; null when it was, or when there was none.</summary>
    /// <param name="label">The name that users know.</param>
    public VirtbusException? ErrorOf(string label) => _errors.GetValueOrDefault(label);

    /// <inheritdoc/>
    public ValueTask DeviceAddedAsync(Device device)
    {
        var offered = (IOfferedDevice)device;
        _errors.TryRemove(offered.Label, out _);
        SocketServer server;
        try
        {
            server = _serve(device, PathOf(offered.Label));
            server.Start();
        }
        catch (VirtbusException e)
        {
            _errors[offered.Label] = e;
            offered.EndpointError = e;
            _failed(offered.Label, e.Message);
            return default;
        }

        _servers[device] = server;
        offered.Endpoint = server;
        return default;
    }

    /// <inheritdoc/>
    public async ValueTask DeviceRemovedAsync(Device device)
    {
        ((IOfferedDevice)device).Endpoint = null;
        if (_servers.TryRemove(device, out var server))
            await server.DisposeAsync();
    }
}
