using Virtbus.Core;
using Virtbus.Platform;

namespace Virtbus.Subsystems;

/// <summary>The attributes of what is offered on a socket: the socket, and who is connected to it.</summary>
public static class EndpointAttributes
{
    /// <summary>Makes them for a kind of object.</summary>
    /// <typeparam name="T">The object's type.</typeparam>
    /// <param name="endpoint">Where the object is; null while no transport offers it.</param>
    public static ObjectAttribute[] Of<T>(Func<T, IDeviceEndpoint?> endpoint)
        where T : class =>
    [
        new ObjectAttribute<T>("bad_messages", d => $"{endpoint(d)?.BadMessages ?? 0}"),
        new ObjectAttribute<T>("connected", d => endpoint(d)?.IsConnected == true ? "1" : "0"),
        new ObjectAttribute<T>("connected_since", d => endpoint(d)?.Connection is { } c ? $"{c.Since:yyyy-MM-ddTHH:mm:ssZ}" : ""),
        new ObjectAttribute<T>("connections", d => $"{endpoint(d)?.Connections ?? 0}"),
        new ObjectAttribute<T>("hint", d => endpoint(d)?.Hint ?? ""),
        new ObjectAttribute<T>("maps", d => $"{endpoint(d)?.Connection?.Maps ?? 0}"),
        new ObjectAttribute<T>("messages", d => $"{endpoint(d)?.Connection?.Messages ?? 0}"),
        new ObjectAttribute<T>("peer", d => endpoint(d)?.Connection is { } c ? ProcessName.Describe(c.Process, c.Name) : ""),
        new ObjectAttribute<T>("socket", d => endpoint(d)?.Path ?? ""),
    ];
}
