using System.Runtime.CompilerServices;
using System.Text;

namespace Virtbus.Platform;

/// <summary>
/// A connected Unix stream socket that carries bytes and descriptors. Non-blocking: a call that would wait answers EAGAIN, unless
/// <see cref="TryMakeBlocking"/> was called and the call says that it may wait. One thread reads and one writes at a time.
/// </summary>
public sealed class UnixStream : IDisposable
{
    /// <summary>The most descriptors that one message may carry here (rust-vmm sends up to 32, others 8).</summary>
    public const int MaxDescriptors = 32;

    private const int ControlDataOffset = 16;
    private const int ControlCapacity = ControlDataOffset + (MaxDescriptors * sizeof(int));

    // The number of a blocking socket, whose descriptor is held open until the dispose; else -1.
    private int _held = -1;

    internal UnixStream(FileDescriptor descriptor) => Descriptor = descriptor;

    /// <summary>The socket, to wait on.</summary>
    public FileDescriptor Descriptor { get; }

    /// <summary>The process that connected, as the kernel noted it then; 0 when it is not known, for example one of another container.</summary>
    public unsafe int PeerProcess
    {
        get
        {
            // struct ucred: process, user and group.
            var credentials = stackalloc int[3];
            var length = 3u * sizeof(int);
            // SAFETY: the length says how many bytes there are.
            return Libc.getsockopt(Descriptor, Libc.SOL_SOCKET, Libc.SO_PEERCRED, credentials, &length) == 0 ? credentials[0] : 0;
        }
    }

    /// <summary>Takes over a descriptor that a peer sent as a socket. What is no socket fails at the first call on it.</summary>
    /// <param name="descriptor">The descriptor; it belongs to the stream from here on.</param>
    /// <returns>The stream.</returns>
    public static UnixStream Adopt(FileDescriptor descriptor) => new(descriptor);

    /// <summary>Connects to a socket file.</summary>
    /// <param name="path">Path of the socket file.</param>
    /// <param name="error">The errno when the answer is null; ECONNREFUSED when nobody listens there.</param>
    /// <returns>The connection, or null.</returns>
    public static unsafe UnixStream? TryConnect(string path, out Errno error)
    {
        if (!TryMakeAddress(path, out var address, out var length))
        {
            error = Errno.ENAMETOOLONG;
            return null;
        }

        var socket = NewSocket();
        // SAFETY: the address is a local that outlives the call and is at least as long as said.
        if (Libc.connect(socket, &address, length) == 0)
        {
            error = Errno.None;
            return new UnixStream(socket);
        }

        error = Libc.LastError;
        socket.Dispose();
        return null;
    }

    /// <summary>Makes two connected sockets.</summary>
    /// <returns>Both ends.</returns>
    /// <exception cref="VirtbusException">The process has no descriptor left.</exception>
    public static unsafe (UnixStream First, UnixStream Second) CreatePair()
    {
        var pair = stackalloc int[2];
        // SAFETY: room for the two descriptors that the call writes.
        if (Libc.socketpair(Libc.AF_UNIX, Libc.SOCK_STREAM | Libc.SOCK_CLOEXEC | Libc.SOCK_NONBLOCK, 0, pair) < 0)
            throw HostError.Make("a pair of sockets", Libc.LastError);
        return (new UnixStream(new FileDescriptor(pair[0])), new UnixStream(new FileDescriptor(pair[1])));
    }

    /// <summary>
    /// Reads what is there, at most the buffer, and the descriptors that came with it. Descriptors ride on the first byte of what was sent
    /// with them, so a reader asks for exactly one header to know whose they are.
    /// </summary>
    /// <param name="buffer">Where the bytes go.</param>
    /// <param name="descriptors">Where received descriptors are added; they belong to the list's owner, on failure too.</param>
    /// <param name="error">
    /// The errno when the answer is negative: EAGAIN when nothing is there yet, EMSGSIZE when more descriptors came than a message may carry
    /// (those that fitted are in the list).
    /// </param>
    /// <returns>Bytes read, 0 at the end of the stream, or -1.</returns>
    public int Receive(Span<byte> buffer, List<FileDescriptor> descriptors, out Errno error) => Receive(buffer, descriptors, wait: false, out error);

    /// <summary>As <see cref="Receive(Span{byte}, List{FileDescriptor}, out Errno)"/>; on a blocking socket it may wait for something to come.</summary>
    /// <param name="buffer">Where the bytes go.</param>
    /// <param name="descriptors">Where received descriptors are added.</param>
    /// <param name="wait">Whether to wait on a blocking socket. <see cref="Shutdown"/> from another thread ends the wait.</param>
    /// <param name="error">The errno when the answer is negative.</param>
    /// <returns>Bytes read, 0 at the end of the stream, or -1.</returns>
    [SkipLocalsInit]
    public unsafe int Receive(Span<byte> buffer, List<FileDescriptor> descriptors, bool wait, out Errno error)
    {
        var control = stackalloc ulong[ControlCapacity / sizeof(ulong)];
        fixed (byte* bytes = buffer)
        {
            var vector = new IoVector((nint)bytes, (nuint)buffer.Length);
            var message = new MessageHeader { Vectors = &vector, VectorCount = 1, Control = control, ControlLength = ControlCapacity };
            error = Errno.None;
            // SAFETY: every pointer in the header is to pinned or stack memory of the length said, for the time of the call; the descriptor is
            // held open, by this object or by the handle.
            var held = _held;
            var count = wait && held >= 0 ? Libc.recvmsg_raw(held, &message, Libc.MSG_CMSG_CLOEXEC) : -1;
            while (count < 0)
            {
                count = Libc.recvmsg(Descriptor, &message, wait ? Libc.MSG_CMSG_CLOEXEC : Libc.MSG_CMSG_CLOEXEC | Libc.MSG_DONTWAIT);
                error = count < 0 ? Libc.LastError : Errno.None;
                if (count < 0 && error != Errno.EINTR)
                    return -1;
            }

            if (message.ControlLength > 0)
                TakeDescriptors((byte*)control, message.ControlLength, descriptors);
            if ((message.Flags & Libc.MSG_CTRUNC) == 0)
                return (int)count;
            error = Errno.EMSGSIZE;
            return -1;
        }
    }

    /// <summary>Writes bytes and, with the first of them, descriptors.</summary>
    /// <param name="bytes">The bytes, at least one.</param>
    /// <param name="descriptors">Descriptors to pass; the caller keeps its own.</param>
    /// <param name="error">The errno when the answer is negative: EAGAIN when there is no room, EPIPE when the peer is gone.</param>
    /// <returns>Bytes written, perhaps fewer than given (the descriptors went with them), or -1.</returns>
    public int Send(ReadOnlySpan<byte> bytes, ReadOnlySpan<FileDescriptor> descriptors, out Errno error) =>
        Send(bytes, descriptors, wait: false, out error);

    /// <summary>
    /// As <see cref="Send(ReadOnlySpan{byte}, ReadOnlySpan{FileDescriptor}, out Errno)"/>; on a blocking socket it may wait for room.
    /// </summary>
    /// <param name="bytes">The bytes, at least one.</param>
    /// <param name="descriptors">Descriptors to pass; the caller keeps its own.</param>
    /// <param name="wait">Whether to wait on a blocking socket. <see cref="Shutdown"/> from another thread ends the wait.</param>
    /// <param name="error">The errno when the answer is negative.</param>
    /// <returns>Bytes written, perhaps fewer than given (the descriptors went with them), or -1.</returns>
    public unsafe int Send(ReadOnlySpan<byte> bytes, ReadOnlySpan<FileDescriptor> descriptors, bool wait, out Errno error)
    {
        if (descriptors.IsEmpty)
            return SendBytes(bytes, wait, out error);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(descriptors.Length, MaxDescriptors, nameof(descriptors));
        var control = stackalloc ulong[ControlCapacity / sizeof(ulong)];
        var held = 0;
        try
        {
            for (; held < descriptors.Length; held++)
            {
                var taken = false;
                descriptors[held].DangerousAddRef(ref taken);
                ((int*)((byte*)control + ControlDataOffset))[held] = descriptors[held].Number;
            }

            fixed (byte* start = bytes)
            {
                var vector = new IoVector((nint)start, (nuint)bytes.Length);
                var message = new MessageHeader { Vectors = &vector, VectorCount = 1 };
                var header = (ControlHeader*)control;
                header->Length = (nuint)(ControlDataOffset + (held * sizeof(int)));
                header->Level = Libc.SOL_SOCKET;
                header->Type = Libc.SCM_RIGHTS;
                message.Control = control;
                message.ControlLength = (nuint)(ControlDataOffset + (((held * sizeof(int)) + 7) & ~7));

                nint count;
                do
                {
                    // SAFETY: as in Receive; the descriptors are held open by the references taken above.
                    count = Libc.sendmsg(Descriptor, &message, wait ? Libc.MSG_NOSIGNAL : Libc.MSG_NOSIGNAL | Libc.MSG_DONTWAIT);
                    error = count < 0 ? Libc.LastError : Errno.None;
                }
                while (error == Errno.EINTR);
                return (int)count;
            }
        }
        finally
        {
            while (held-- > 0)
                descriptors[held].DangerousRelease();
        }
    }

    /// <summary>
    /// Makes it a blocking socket, so that calls that say so may wait. What costs a poll and a second call otherwise is one call then. Such a
    /// socket is closed only when nobody is in a call on it: <see cref="Shutdown"/> ends those. Called once, before others use it.
    /// </summary>
    /// <returns>False when the descriptor is none that can be changed.</returns>
    public bool TryMakeBlocking()
    {
        var flags = Libc.fcntl(Descriptor, Libc.F_GETFL, 0);
        if (flags < 0 || Libc.fcntl(Descriptor, Libc.F_SETFL, flags & ~Libc.O_NONBLOCK) < 0)
            return false;
        // Held for all calls at once, which are spared to do it each.
        var held = false;
        Descriptor.DangerousAddRef(ref held);
        _held = Descriptor.Number;
        return true;
    }

    /// <summary>Ends the connection in both directions: whoever waits in a call on it, on either side, goes on. Safe from any thread.</summary>
    public void Shutdown()
    {
        if (!Descriptor.IsClosed)
            _ = Libc.shutdown(Descriptor, Libc.SHUT_RDWR);
    }

    /// <summary>Closes the socket.</summary>
    public void Dispose()
    {
        if (Interlocked.Exchange(ref _held, -1) >= 0)
            Descriptor.DangerousRelease();
        Descriptor.Dispose();
    }

    internal static FileDescriptor NewSocket()
    {
        var number = Libc.socket(Libc.AF_UNIX, Libc.SOCK_STREAM | Libc.SOCK_CLOEXEC | Libc.SOCK_NONBLOCK, 0);
        return number >= 0 ? new FileDescriptor(number) : throw HostError.Make("a Unix socket", Libc.LastError);
    }

    internal static bool TryMakeAddress(string path, out UnixAddress address, out uint length)
    {
        address = default;
        address.Family = Libc.AF_UNIX;
        Span<byte> bytes = address.Path;
        // One byte stays zero: the path is NUL terminated.
        var fits = Encoding.UTF8.TryGetBytes(path, bytes[..^1], out var count);
        length = (uint)(Unsafe.SizeOf<UnixAddress>() - UnixAddress.PathCapacity + count + 1);
        return fits && count > 0;
    }

    private unsafe int SendBytes(ReadOnlySpan<byte> bytes, bool wait, out Errno error)
    {
        fixed (byte* start = bytes)
        {
            error = Errno.None;
            // SAFETY: the bytes are pinned for the time of the call; the descriptor is held open, by this object or by the handle.
            var held = _held;
            var flags = wait ? Libc.MSG_NOSIGNAL : Libc.MSG_NOSIGNAL | Libc.MSG_DONTWAIT;
            var count = held >= 0 ? Libc.send_raw(held, start, (nuint)bytes.Length, flags) : -1;
            while (count < 0)
            {
                count = Libc.send(Descriptor, start, (nuint)bytes.Length, flags);
                error = count < 0 ? Libc.LastError : Errno.None;
                if (count < 0 && error != Errno.EINTR)
                    return -1;
            }

            return (int)count;
        }
    }

    private static unsafe void TakeDescriptors(byte* control, nuint length, List<FileDescriptor> descriptors)
    {
        nuint at = 0;
        // SAFETY: the kernel wrote well-formed headers within the first `length` bytes; each header and its data are checked to lie inside.
        while (at + ControlDataOffset <= length)
        {
            var header = (ControlHeader*)(control + at);
            if (header->Length < ControlDataOffset || header->Length > length - at)
                return;
            if (header->Level == Libc.SOL_SOCKET && header->Type == Libc.SCM_RIGHTS)
            {
                var numbers = (int*)(control + at + ControlDataOffset);
                for (nuint i = 0; i < (header->Length - ControlDataOffset) / sizeof(int); i++)
                    descriptors.Add(new FileDescriptor(numbers[i]));
            }

            at += (header->Length + 7) & ~(nuint)7;
        }
    }
}
