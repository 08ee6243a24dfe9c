namespace Virtbus.Platform;

/// <summary>
/// A Unix socket that listens on a path. The socket file is for its owner only (mode 0600) from the moment that anybody can connect to it,
/// and goes when the listener goes. What a dead process left at the path is replaced; a live listener is not.
/// </summary>
public sealed class UnixListener : IStreamListener
{
    // Connections that wait to be taken when a listener goes: more than its queue has.
    private const int MostThatWait = 64;
    private readonly FileStatus _identity;

    private UnixListener(string path, FileDescriptor descriptor, FileStatus identity)
    {
        Path = path;
        Descriptor = descriptor;
        _identity = identity;
    }

    /// <summary>Path of the socket file.</summary>
    public string Path { get; }

    /// <summary>The socket, to wait on for a connection.</summary>
    public FileDescriptor Descriptor { get; }

    /// <summary>The descriptors of all that ever connected here.</summary>
    public PeerDescriptors Peers { get; } = new();

    /// <summary>Makes the socket file and listens on it.</summary>
    /// <param name="path">Where; at most 107 bytes.</param>
    /// <returns>The listener.</returns>
    /// <exception cref="VirtbusException">
    /// ENAMETOOLONG; EADDRINUSE when a live process listens there; EEXIST when the path is something else than a socket; ENOENT, ENOTDIR,
    /// EACCES or EROFS when the folder does not take it.
    /// </exception>
    public static unsafe UnixListener Listen(string path)
    {
        if (!UnixStream.TryMakeAddress(path, out var address, out var length))
        {
            throw new VirtbusException(Errno.ENAMETOOLONG,
                $"Socket path '{path}' does not fit: a Unix socket takes 1 to {UnixAddress.PathCapacity - 1} bytes. Choose a shorter path.");
        }

        var socket = new FileDescriptor(UnixStream.NewSocketNumber());
        try
        {
            // SAFETY: the address is a local that outlives both calls and is at least as long as said.
            var bound = Libc.bind(socket, &address, length) == 0;
            var error = bound ? Errno.None : Libc.LastError;
            if (error == Errno.EADDRINUSE)
            {
                RemoveStale(path);
                bound = Libc.bind(socket, &address, length) == 0;
                error = bound ? Errno.None : Libc.LastError;
            }

            if (!bound)
                throw new VirtbusException(error, $"Socket '{path}' cannot be made: {error}. Check that its folder exists and may be written.");

            // Before listen(), a connect is refused: so nobody gets in while the mode is still that of the umask.
            if (Libc.chmod(path, 0x180) < 0 || Libc.listen(socket, 16) < 0)
                throw HostError.Make($"listening on socket '{path}'", Libc.LastError);
            if (!FileStatus.TryGet(path, out var identity, out error))
                throw HostError.Make($"looking at socket '{path}'", error);
            return new UnixListener(path, socket, identity);
        }
        catch
        {
            socket.Dispose();
            throw;
        }
    }

    /// <inheritdoc/>
    public UnixStream? TryAccept(out Errno error) => Peers.MayAccept(Descriptor, out error) ? Accept(out error) : null;

    private unsafe UnixStream? Accept(out Errno error)
    {
        int number;
        do
        {
            // SAFETY: no address is asked for.
            number = Libc.accept4(Descriptor, null, null, Libc.SOCK_CLOEXEC | Libc.SOCK_NONBLOCK);
            error = number < 0 ? Libc.LastError : Errno.None;
        }
        while (error == Errno.EINTR);
        return number < 0 ? null : new UnixStream(number, Peers);
    }

    /// <summary>Stops listening and removes the socket file, unless another socket has taken its place meanwhile.</summary>
    public void Dispose()
    {
        if (Descriptor.IsClosed)
            return;
        if (FileStatus.TryGet(Path, out var now, out _) && now.Device == _identity.Device && now.Inode == _identity.Inode)
            _ = Libc.unlink(Path);
        // Who waits to be taken may have sent descriptors whose close waits: each is let go of as a connection is. None comes after that.
        _ = Libc.shutdown(Descriptor, Libc.SHUT_RDWR);
        for (var i = 0; i < MostThatWait && Accept(out _) is { } waiting; i++)
            waiting.Dispose();
        Descriptor.Dispose();
    }

    private static void RemoveStale(string path)
    {
        if (!FileStatus.TryGet(path, out var status, out _))
            return;
        if (status.Kind != FileKind.Socket)
        {
            throw new VirtbusException(Errno.EEXIST,
                $"'{path}' exists and is no socket. Remove it or choose another socket path.");
        }

        using var probe = UnixStream.TryConnect(path, out var error);
        if (probe is not null || error == Errno.EAGAIN)
        {
            throw new VirtbusException(Errno.EADDRINUSE,
                $"Socket '{path}' is in use by a running process. Stop that process or choose another socket path.");
        }

        if (error == Errno.ECONNREFUSED)
            _ = Libc.unlink(path);
    }
}
