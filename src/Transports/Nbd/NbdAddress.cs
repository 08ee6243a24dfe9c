using System.Net;
using System.Net.Sockets;
using Virtbus.Platform;

namespace Virtbus.Transports.Nbd;

/// <summary>Where an NBD server listens: a Unix socket, or a TCP address.</summary>
public sealed record NbdAddress
{
    /// <summary>The port that is NBD's (IANA).</summary>
    public const int StandardPort = 10809;

    private NbdAddress(string? socket, IPEndPoint? endPoint) => (Socket, EndPoint) = (socket, endPoint);

    /// <summary>The path of the Unix socket; null for TCP.</summary>
    public string? Socket { get; }

    /// <summary>The TCP address; null for a Unix socket.</summary>
    public IPEndPoint? EndPoint { get; }

    /// <summary>Whether only processes of this host can connect.</summary>
    public bool IsLocal => EndPoint is null || IPAddress.IsLoopback(EndPoint.Address);

    /// <summary>A Unix socket.</summary>
    /// <param name="path">Its path, at most 107 bytes.</param>
    public static NbdAddress OfSocket(string path) => new(path, null);

    /// <summary>A TCP address.</summary>
    /// <param name="text">An IP address with a port behind it, or alone for the <see cref="StandardPort"/>: 127.0.0.1:10809, [::1]:10809, ::1.</param>
    /// <param name="insecure">
    /// Whether one that other hosts can reach is meant: nothing of what is sent is encrypted, and whoever reaches it reads and writes the disk.
    /// </param>
    /// <returns>The address.</returns>
    /// <exception cref="VirtbusException">EINVAL: it is none, or other hosts can reach it and that was not said.</exception>
    public static NbdAddress OfTcp(string text, bool insecure = false)
    {
        ArgumentNullException.ThrowIfNull(text);
        if (!IPEndPoint.TryParse(text, out var endPoint) || !IsWhole(text, endPoint.Address))
        {
            throw new VirtbusException(
                Errno.EINVAL, $"'{text}' is no address to listen on. Give an IP address and a port, for example 127.0.0.1:{StandardPort} or [::1]:{StandardPort}.");
        }

        if (text.Contains('%', StringComparison.Ordinal))
            throw new VirtbusException(Errno.EINVAL, $"'{text}' has a scope, which is not supported. Give an address that is good without one.");

        // The parser takes a missing port for 0; a 0 that is written stands for any free one.
        if (!HasPort(text))
            endPoint.Port = StandardPort;
        var address = new NbdAddress(null, endPoint);
        if (address.IsLocal || insecure)
            return address;
        throw new VirtbusException(
            Errno.EINVAL,
            $"Other hosts can reach {endPoint}, and NBD is served without TLS: whoever connects reads and writes the disk. Listen on 127.0.0.1, or say 'insecure' if that is meant.");
    }

    /// <summary>How clients name an export there: an NBD URI.</summary>
    /// <param name="export">The export's name.</param>
    public string UriOf(string export) => Socket is { } socket
        ? $"nbd+unix:///{Uri.EscapeDataString(export)}?socket={Uri.EscapeDataString(socket).Replace("%2F", "/", StringComparison.Ordinal)}"
        : $"nbd://{EndPoint}/{Uri.EscapeDataString(export)}";

    // The parser takes a number alone for an IPv4 address, and parts that are left out for zeros.
    private static bool IsWhole(string text, IPAddress address) =>
        address.AddressFamily == AddressFamily.InterNetworkV6 || text.Split(':')[0] == address.ToString();

    private static bool HasPort(string text) => text.StartsWith('[') ? text.Contains("]:", StringComparison.Ordinal) : text.Count(static c => c == ':') == 1;

    /// <inheritdoc/>
    public override string ToString() => Socket ?? EndPoint!.ToString();
}
