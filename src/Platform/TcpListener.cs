using System.Buffers.Binary;
using System.Net;

namespace Virtbus.Platform;

/// <summary>
/// A TCP socket that listens on one address. Its connections send at once (TCP_NODELAY), and one whose peer has gone without a word ends after
/// some two minutes, whether it waits for something (keep-alive) or has something to send (TCP_USER_TIMEOUT).
/// </summary>
public sealed class TcpListener : IStreamListener
{
    private const int Backlog = 16;
    private const int PortOffset = 2;
    private const int AddressOffset = 4;
    private const int LongAddressOffset = 8;
    private const int LongAddressSize = 28;
    private const int AddressSize = 16;
    private const int KeepAliveSeconds = 60;
    private const int KeepAliveInterval = 10;
    private const int UnansweredMilliseconds = 120_000;

    private TcpListener(FileDescriptor descriptor, IPEndPoint endPoint)
    {
        Descriptor = descriptor;
        EndPoint = endPoint;
    }

    /// <inheritdoc/>
    public FileDescriptor Descriptor { get; }

    /// <summary>Where it listens; the port is the one that the host chose, where 0 was asked for.</summary>
    public IPEndPoint EndPoint { get; }

    /// <summary>The descriptors of all that ever connected here.</summary>
    public PeerDescriptors Peers { get; } = new();

    /// <summary>Listens on an address.</summary>
    /// <param name="endPoint">Which; port 0 for any that is free.</param>
    /// <returns>The listener.</returns>
    /// <exception cref="VirtbusException">EADDRINUSE; EADDRNOTAVAIL when the host has no such address; EACCES for a port that takes privileges.</exception>
    public static unsafe TcpListener Listen(IPEndPoint endPoint)
    {
        ArgumentNullException.ThrowIfNull(endPoint);
        var number = Libc.socket(FamilyOf(endPoint.Address), Libc.SOCK_STREAM | Libc.SOCK_CLOEXEC | Libc.SOCK_NONBLOCK, 0);
        if (number < 0)
            throw HostError.Make("a TCP socket", Libc.LastError);
        var socket = new FileDescriptor(number);
        try
        {
            // What a dead process left in TIME_WAIT does not keep the address; a live listener does.
            Set(socket, Libc.SOL_SOCKET, Libc.SO_REUSEADDR, 1);
            var address = stackalloc byte[LongAddressSize];
            var length = Write(endPoint, new Span<byte>(address, LongAddressSize));
            // SAFETY: the address is on this stack and at least as long as said.
            if (Libc.bind(socket, address, length) < 0 || Libc.listen(socket, Backlog) < 0)
            {
                var error = Libc.LastError;
                throw new VirtbusException(error, error switch
                {
                    Errno.EADDRINUSE => $"Address {endPoint} is in use by a running process. Stop that process or choose another port.",
                    Errno.EADDRNOTAVAIL => $"The host has no address {endPoint.Address}. Choose one that it has, for example 127.0.0.1.",
                    Errno.EACCES => $"Port {endPoint.Port} may not be listened on without privileges. Choose one above 1023.",
                    _ => $"Address {endPoint} cannot be listened on: {error}. Choose another one.",
                });
            }

            var size = (uint)LongAddressSize;
            // SAFETY: as above; the kernel writes no more than the length says.
            return Libc.getsockname(socket, address, &size) == 0
                ? new TcpListener(socket, Read(new ReadOnlySpan<byte>(address, LongAddressSize)) ?? endPoint)
                : throw HostError.Make("asking for the address of a socket", Libc.LastError);
        }
        catch
        {
            socket.Dispose();
            throw;
        }
    }

    /// <summary>Connects to a listener.</summary>
    /// <param name="endPoint">Where it listens.</param>
    /// <param name="error">The errno when the answer is null; ECONNREFUSED when nobody listens there.</param>
    /// <returns>The connection, or null.</returns>
    public static unsafe UnixStream? TryConnect(IPEndPoint endPoint, out Errno error)
    {
        ArgumentNullException.ThrowIfNull(endPoint);
        // The call waits; what comes after it does not.
        var number = Libc.socket(FamilyOf(endPoint.Address), Libc.SOCK_STREAM | Libc.SOCK_CLOEXEC, 0);
        if (number < 0)
            throw HostError.Make("a TCP socket", Libc.LastError);
        var stream = new UnixStream(number, new PeerDescriptors(), peerAddress: endPoint);
        var address = stackalloc byte[LongAddressSize];
        var length = Write(endPoint, new Span<byte>(address, LongAddressSize));
        // SAFETY: the address is on this stack and at least as long as said.
        error = Libc.connect(stream.Descriptor, address, length) == 0 ? Errno.None : Libc.LastError;
        if (error == Errno.None && Libc.fcntl(stream.Descriptor, Libc.F_SETFL, Libc.O_NONBLOCK) < 0)
            error = Libc.LastError;
        if (error == Errno.None)
        {
            Prepare(stream.Descriptor);
            return stream;
        }

        stream.Dispose();
        return null;
    }

    /// <inheritdoc/>
    public UnixStream? TryAccept(out Errno error) => Peers.MayAccept(Descriptor, out error) ? Accept(out error) : null;

    /// <summary>Stops listening.</summary>
    public void Dispose() => Descriptor.Dispose();

    private unsafe UnixStream? Accept(out Errno error)
    {
        var address = stackalloc byte[LongAddressSize];
        int number;
        do
        {
            var length = (uint)LongAddressSize;
            // SAFETY: the kernel writes no more of the address than the length says.
            number = Libc.accept4(Descriptor, address, &length, Libc.SOCK_CLOEXEC | Libc.SOCK_NONBLOCK);
            error = number < 0 ? Libc.LastError : Errno.None;
        }
        while (error == Errno.EINTR);
        if (number < 0)
            return null;
        var stream = new UnixStream(number, Peers, peerAddress: Read(new ReadOnlySpan<byte>(address, LongAddressSize)));
        Prepare(stream.Descriptor);
        return stream;
    }

    private static void Prepare(FileDescriptor socket)
    {
        Set(socket, Libc.IPPROTO_TCP, Libc.TCP_NODELAY, 1);
        Set(socket, Libc.SOL_SOCKET, Libc.SO_KEEPALIVE, 1);
        Set(socket, Libc.IPPROTO_TCP, Libc.TCP_KEEPIDLE, KeepAliveSeconds);
        Set(socket, Libc.IPPROTO_TCP, Libc.TCP_KEEPINTVL, KeepAliveInterval);
        // What was sent and is not acknowledged: keep-alive does not look at such a connection.
        Set(socket, Libc.IPPROTO_TCP, Libc.TCP_USER_TIMEOUT, UnansweredMilliseconds);
    }

    // One that the host does not set leaves a connection that is slower, or ends later.
    private static unsafe void Set(FileDescriptor socket, int level, int name, int value)
    {
        // SAFETY: the length is that of the local.
        _ = Libc.setsockopt(socket, level, name, &value, sizeof(int));
    }

    private static int FamilyOf(IPAddress address) =>
        address.AddressFamily == System.Net.Sockets.AddressFamily.InterNetworkV6 ? Libc.AF_INET6 : Libc.AF_INET;

    // struct sockaddr_in: family, port, address; struct sockaddr_in6: family, port, flow, address, scope. Port and address are in network order.
    private static uint Write(IPEndPoint endPoint, Span<byte> address)
    {
        address.Clear();
        var family = FamilyOf(endPoint.Address);
        BinaryPrimitives.WriteUInt16LittleEndian(address, (ushort)family);
        BinaryPrimitives.WriteUInt16BigEndian(address[PortOffset..], (ushort)endPoint.Port);
        endPoint.Address.TryWriteBytes(address[(family == Libc.AF_INET6 ? LongAddressOffset : AddressOffset)..], out _);
        return family == Libc.AF_INET6 ? (uint)LongAddressSize : AddressSize;
    }

    private static IPEndPoint? Read(ReadOnlySpan<byte> address)
    {
        var port = BinaryPrimitives.ReadUInt16BigEndian(address[PortOffset..]);
        return BinaryPrimitives.ReadUInt16LittleEndian(address) switch
        {
            Libc.AF_INET => new IPEndPoint(new IPAddress(address.Slice(AddressOffset, 4)), port),
            Libc.AF_INET6 => new IPEndPoint(new IPAddress(address.Slice(LongAddressOffset, 16)), port),
            _ => null,
        };
    }
}
