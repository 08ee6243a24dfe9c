using System.Net;
using System.Runtime.CompilerServices;
using System.Text;

namespace Virtbus.Platform;

/// <summary>
/// A connected Unix stream socket that carries bytes and descriptors; or a TCP connection (<see cref="TcpListener"/>), which carries bytes. Non-blocking: a call that would wait answers EAGAIN, unless
/// <see cref="TryMakeBlocking"/> was called and the call says that it may wait. One thread reads and one writes at a time.
/// </summary>
public sealed class UnixStream : IDisposable
{
    /// <summary>The most descriptors that one message may carry here (rust-vmm sends up to 32, others 8).</summary>
    public const int MaxDescriptors = 32;

    // What Linux lets one call send (SCM_MAX_FD). With less room the kernel would close the rest, on the receiving thread, and that may wait.
    private const int MostThatCome = 253;
    private const int ControlDataOffset = 16;
    private const int ReceiveCapacity = (ControlDataOffset + (MostThatCome * sizeof(int)) + 7) & ~7;
    private const int SendCapacity = ControlDataOffset + (MaxDescriptors * sizeof(int));

    private readonly PeerDescriptors _peers;
    private readonly bool _isAdopted;
    // Whether the socket is nobody else's: the end of a pair may have been passed on, and an adopted one is the peer's too.
    private readonly bool _isOurs;

    // The number of a blocking socket, whose descriptor is held open until the dispose; else -1.
    private int _held = -1;
    private bool _isDisposed;

    // The descriptor counts as one of the peer's: to close it closes what was sent and not received.
    internal UnixStream(int number, PeerDescriptors peers, bool isOurs = true, IPEndPoint? peerAddress = null)
    {
        PeerAddress = peerAddress;
        Descriptor = new FileDescriptor(number, peers);
        _peers = peers;
        _isOurs = isOurs;
    }

    private UnixStream(FileDescriptor adopted)
    {
        Descriptor = adopted;
        _peers = adopted.Peers ?? new PeerDescriptors();
        _isAdopted = true;
    }

    /// <summary>The socket, to wait on.</summary>
    public FileDescriptor Descriptor { get; }

    /// <summary>The address of the peer of a TCP connection; null for a Unix socket.</summary>
    public IPEndPoint? PeerAddress { get; }

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

    /// <summary>
    /// Takes over a descriptor that a peer sent as a socket. What is no socket fails at the first call on it. Its flags are the peer's and stay
    /// as they are.
    /// </summary>
    /// <param name="descriptor">The descriptor; it belongs to the stream from here on.</param>
    /// <returns>The stream.</returns>
    public static UnixStream Adopt(FileDescriptor descriptor) => new(descriptor);

    /// <summary>Makes a second handle on a connection that the runtime's own socket type accepted, so that what comes with its bytes is received too.</summary>
    /// <param name="socket">The socket; stays the caller's.</param>
    /// <param name="peers">Among whose descriptors those that come count.</param>
    /// <returns>The stream, non-blocking as the runtime has it. To be disposed after the socket, so that its close is the one that counts.</returns>
    /// <exception cref="VirtbusException">EMFILE: the process has no descriptor left.</exception>
    public static UnixStream Duplicate(System.Runtime.InteropServices.SafeHandle socket, PeerDescriptors peers)
    {
        ArgumentNullException.ThrowIfNull(socket);
        var held = false;
        try
        {
            socket.DangerousAddRef(ref held);
            var number = Libc.fcntl_number((int)socket.DangerousGetHandle(), Libc.F_DUPFD_CLOEXEC, 0);
            return number >= 0 ? new UnixStream(number, peers) : throw HostError.Make("duplicating a descriptor", Errno.EMFILE);
        }
        finally
        {
            if (held)
                socket.DangerousRelease();
        }
    }

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

        var stream = new UnixStream(NewSocketNumber(), new PeerDescriptors());
        // SAFETY: the address is a local that outlives the call and is at least as long as said.
        if (Libc.connect(stream.Descriptor, &address, length) == 0)
        {
            error = Errno.None;
            return stream;
        }

        error = Libc.LastError;
        stream.Dispose();
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
        return (new UnixStream(pair[0], new PeerDescriptors(), isOurs: false), new UnixStream(pair[1], new PeerDescriptors(), isOurs: false));
    }

    /// <summary>
    /// Reads what is there, at most the buffer, and the descriptors that came with it. Descriptors ride on the first byte of what was sent
    /// with them, so a reader asks for exactly one header to know whose they are.
    /// </summary>
    /// <param name="buffer">Where the bytes go.</param>
    /// <param name="descriptors">
    /// The descriptors of the message that is being received, to which those that come are added; they belong to the list's owner, on failure
    /// too. It never gets longer than <see cref="MaxDescriptors"/>.
    /// </param>
    /// <param name="error">
    /// The errno when the answer is negative: EAGAIN when nothing is there yet, EMSGSIZE when more descriptors came than a message may carry,
    /// EMFILE when more came than the peer or the process may have (<see cref="PeerDescriptors"/>). In the last two cases those that fitted are in
    /// the list, the others are closed, and the bytes are lost.
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
        var control = stackalloc ulong[ReceiveCapacity / sizeof(ulong)];
        fixed (byte* bytes = buffer)
        {
            var vector = new IoVector((nint)bytes, (nuint)buffer.Length);
            var message = new MessageHeader { Vectors = &vector, VectorCount = 1, Control = control, ControlLength = ReceiveCapacity };
            error = Errno.None;
            // SAFETY: every pointer in the header is to pinned or stack memory of the length said, for the time of the call; the descriptor is
            // held open, by this object or by the handle.
            var held = _held;
            var count = wait && held >= 0 ? Libc.recvmsg_raw(held, &message, Libc.MSG_CMSG_CLOEXEC) : -1;
            while (count < 0)
            {
                count = Libc.recvmsg(Descriptor, &message, wait ? Libc.MSG_CMSG_CLOEXEC : Libc.MSG_CMSG_CLOEXEC | Libc.MSG_DONTWAIT);
                error = count < 0 ? Libc.LastError : Errno.None;
                // Non-blocking all the same: a peer that has the socket too may set that flag at any time.
                if (count < 0 && error == Errno.EAGAIN && wait)
                    Polling.Wait(Descriptor, forWriting: false, cancel: null);
                else if (count < 0 && error != Errno.EINTR)
                    return -1;
            }

            if (message.ControlLength > 0)
                error = TakeDescriptors((byte*)control, message.ControlLength, descriptors);
            // The process had no number left.
            if ((message.Flags & Libc.MSG_CTRUNC) != 0)
                error = Errno.EMFILE;
            return error == Errno.None ? (int)count : -1;
        }
    }

    /// <summary>Writes bytes and, with the first of them, descriptors.</summary>
    /// <param name="bytes">The bytes, at least one.</param>
    /// <param name="descriptors">Descriptors to pass; the caller keeps its own.</param>
    /// <param name="error">The errno when the answer is negative: EAGAIN when there is no room, EPIPE when the peer is gone, EBADF when a descriptor is closed.</param>
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
        var control = stackalloc ulong[SendCapacity / sizeof(ulong)];
        var held = 0;
        try
        {
            for (; held < descriptors.Length; held++)
            {
                var taken = false;
                descriptors[held].DangerousAddRef(ref taken);
                ((int*)((byte*)control + ControlDataOffset))[held] = descriptors[held].Number;
            }
        }
        catch (ObjectDisposedException)
        {
            // Its owner closed it meanwhile, as hardware that is pulled out does with the memory of its BARs.
            Release(descriptors[..held]);
            error = Errno.EBADF;
            return -1;
        }

        try
        {
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
                while (error == Errno.EINTR || (error == Errno.EAGAIN && wait && Polling.Wait(Descriptor, forWriting: true, cancel: null)));
                return (int)count;
            }
        }
        finally
        {
            Release(descriptors);
        }
    }

    /// <summary>Writes runs of memory, in their order, without waiting.</summary>
    /// <param name="runs">The runs, 1 to 1,024, at least one of which is not empty; mapped until the call returns.</param>
    /// <param name="error">The errno when the answer is negative: EAGAIN when there is no room, EPIPE when the peer is gone.</param>
    /// <returns>Bytes written, perhaps fewer than given, or -1.</returns>
    public unsafe long SendRuns(ReadOnlySpan<IoVector> runs, out Errno error)
    {
        fixed (IoVector* first = runs)
        {
            var message = new MessageHeader { Vectors = first, VectorCount = (nuint)runs.Length };
            nint count;
            do
            {
                // SAFETY: the list is pinned for the time of the call, and the caller holds what it names.
                count = Libc.sendmsg(Descriptor, &message, Libc.MSG_NOSIGNAL | Libc.MSG_DONTWAIT);
                error = count < 0 ? Libc.LastError : Errno.None;
            }
            while (error == Errno.EINTR);
            return count;
        }
    }

    /// <summary>
    /// Makes it a blocking socket, so that calls that say so may wait. What costs a poll and a second call otherwise is one call then. Such a
    /// socket is closed only when nobody is in a call on it: <see cref="Shutdown"/> ends those. Called once, before others use it.
    /// </summary>
    /// <returns>False when the descriptor is none that can be changed, or was adopted, and so is not ours to change.</returns>
    public bool TryMakeBlocking()
    {
        if (_isAdopted)
            return false;
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
        try
        {
            _ = Libc.shutdown(Descriptor, Libc.SHUT_RDWR);
        }
        catch (ObjectDisposedException)
        {
            // Closed is more than that.
        }
    }

    /// <summary>
    /// Closes the socket, and ends the connection if that was accepted or made here; does not wait for the close of what the peer sent and nobody
    /// received.
    /// </summary>
    public void Dispose()
    {
        // Who reads and who writes may both be the last.
        if (Interlocked.Exchange(ref _isDisposed, true))
            return;
        if (Interlocked.Exchange(ref _held, -1) >= 0)
            Descriptor.DangerousRelease();
        if (Descriptor.IsClosed)
            return;
        // Nothing comes after that.
        if (_isOurs)
            Shutdown();
        // What waits unread may have descriptors whose close waits. Who has a pair ends its connection before, or has passed the other end on;
        // to an adopted socket more may come at any time.
        if (!_isAdopted && HasNothingUnread())
            Descriptor.MarkClosesAtOnce();

        Descriptor.Dispose();
    }

    internal static int NewSocketNumber()
    {
        var number = Libc.socket(Libc.AF_UNIX, Libc.SOCK_STREAM | Libc.SOCK_CLOEXEC | Libc.SOCK_NONBLOCK, 0);
        return number >= 0 ? number : throw HostError.Make("a Unix socket", Libc.LastError);
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

    private static void Release(ReadOnlySpan<FileDescriptor> held)
    {
        foreach (var descriptor in held)
            descriptor.DangerousRelease();
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
                // As for receives.
                if (count < 0 && error == Errno.EAGAIN && wait)
                    Polling.Wait(Descriptor, forWriting: true, cancel: null);
                else if (count < 0 && error != Errno.EINTR)
                    return -1;
            }

            return (int)count;
        }
    }

    private unsafe bool HasNothingUnread()
    {
        var count = 0;
        // SAFETY: the kernel writes the number of bytes to the local.
        return Libc.ioctl(Descriptor, Libc.FIONREAD, &count) == 0 && count == 0;
    }

    private unsafe Errno TakeDescriptors(byte* control, nuint length, List<FileDescriptor> descriptors)
    {
        var error = Errno.None;
        nuint at = 0;
        // SAFETY: the kernel wrote well-formed headers within the first `length` bytes; each header and its data are checked to lie inside.
        while (at + ControlDataOffset <= length)
        {
            var header = (ControlHeader*)(control + at);
            if (header->Length < ControlDataOffset || header->Length > length - at)
                break;
            if (header->Level == Libc.SOL_SOCKET && header->Type == Libc.SCM_RIGHTS)
            {
                var numbers = (int*)(control + at + ControlDataOffset);
                for (nuint i = 0; i < (header->Length - ControlDataOffset) / sizeof(int); i++)
                {
                    var descriptor = new FileDescriptor(numbers[i], _peers);
                    if (descriptors.Count == MaxDescriptors)
                        error = Errno.EMSGSIZE;
                    else if (!_peers.Admits(numbers[i]))
                        error = Errno.EMFILE;
                    if (error == Errno.None)
                        descriptors.Add(descriptor);
                    else
                        descriptor.Dispose();
                }
            }

            at += (header->Length + 7) & ~(nuint)7;
        }

        return error;
    }
}
