using Virtbus.Block;
using Virtbus.Platform;
using Virtbus.Subsystems;
using static Virtbus.Transports.Nbd.NbdProtocol;

namespace Virtbus.Transports.Nbd;

/// <summary>A disk as clients see it: a name at an address. Any thread.</summary>
public sealed class NbdExport : IDeviceEndpoint
{
    private readonly Lock _lock = new();
    private readonly List<NbdSession> _sessions = [];
    private TaskCompletionSource? _left;
    private bool _isClosed;
    private long _connections;
    private long _badMessages;

    /// <summary>Makes one; a server offers it.</summary>
    /// <param name="name">What clients ask for, at most 4,096 bytes of UTF-8 without NUL; empty for the one that is given to who asks for none.</param>
    /// <param name="backend">The disk; it stays open until the export has been removed from its server.</param>
    /// <param name="readOnly">Whether clients may only read, whatever the disk takes.</param>
    /// <param name="description">What the disk is, for people; at most 4,096 bytes of UTF-8.</param>
    /// <exception cref="VirtbusException">EINVAL: the name is none.</exception>
    public NbdExport(string name, IBlockBackend backend, bool readOnly = false, string description = "")
    {
        ArgumentNullException.ThrowIfNull(name);
        ArgumentNullException.ThrowIfNull(backend);
        if (System.Text.Encoding.UTF8.GetByteCount(name) > MaxString || name.Contains('\0', StringComparison.Ordinal))
            throw new VirtbusException(Errno.EINVAL, $"An export's name has at most {MaxString} bytes and no NUL. Choose a shorter one.");
        Name = name;
        Backend = backend;
        IsReadOnly = readOnly;
        Description = description;
    }

    /// <summary>What clients ask for.</summary>
    public string Name { get; }

    /// <summary>The disk.</summary>
    public IBlockBackend Backend { get; }

    /// <summary>Whether clients may only read.</summary>
    public bool IsReadOnly { get; }

    /// <summary>What the disk is, for people.</summary>
    public string Description { get; }

    /// <summary>How clients name it: an NBD URI; empty while no server offers it.</summary>
    public string Path { get; internal set; } = "";

    /// <inheritdoc/>
    public bool IsConnected => Clients > 0;

    /// <summary>How many connections clients have at the moment; one client may have several.</summary>
    public int Clients
    {
        get
        {
            lock (_lock)
                return _sessions.Count;
        }
    }

    /// <summary>The connection that has been there longest; null without one.</summary>
    public EndpointConnection? Connection
    {
        get
        {
            lock (_lock)
                return _sessions.Count > 0 ? _sessions[0].Peer.Describe() : null;
        }
    }

    /// <inheritdoc/>
    public long Connections => Interlocked.Read(ref _connections);

    /// <inheritdoc/>
    public long BadMessages => Interlocked.Read(ref _badMessages);

    /// <inheritdoc/>
    public string? Hint => null;

    /// <inheritdoc/>
    public Task Left
    {
        get
        {
            lock (_lock)
                return _left?.Task ?? Task.CompletedTask;
        }
    }

    /// <summary>Whether writes are refused: the export's word, or the disk's.</summary>
    internal bool RefusesWrites => IsReadOnly || Backend.Info.IsReadOnly;

    /// <summary>Ends the connections that clients have now. They may connect again.</summary>
    public void Disconnect() => CloseSessions(new Fault(Errno.ECONNRESET, "the disk was taken away"));

    /// <summary>What clients may do with it (transmission flags).</summary>
    internal ushort FlagsFor(bool isStructured)
    {
        var info = Backend.Info;
        var flags = NBD_FLAG_HAS_FLAGS | NBD_FLAG_CAN_MULTI_CONN;
        if (isStructured)
            flags |= NBD_FLAG_SEND_DF;
        if (info.IsRotational)
            flags |= NBD_FLAG_ROTATIONAL;
        if (RefusesWrites)
            return (ushort)(flags | NBD_FLAG_READ_ONLY);
        flags |= NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA | NBD_FLAG_SEND_WRITE_ZEROES;
        if (info.MaxDiscard >= info.BlockSize)
            flags |= NBD_FLAG_SEND_TRIM;
        if (info.HasFastZeroes && info.MaxWriteZeroes >= info.BlockSize)
            flags |= NBD_FLAG_SEND_FAST_ZERO;
        return (ushort)flags;
    }

    internal bool TryEnter(NbdSession session)
    {
        lock (_lock)
        {
            if (_isClosed)
                return false;
            _left ??= new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
            _sessions.Add(session);
            _connections++;
            return true;
        }
    }

    internal void Leave(NbdSession session)
    {
        TaskCompletionSource? left = null;
        lock (_lock)
        {
            _sessions.Remove(session);
            if (_sessions.Count == 0)
                (left, _left) = (_left, null);
        }

        left?.SetResult();
    }

    internal void CountBadMessage() => Interlocked.Increment(ref _badMessages);

    /// <summary>Lets nobody in any more and sends away who is there.</summary>
    /// <returns>A task that ends when no request of a client is in the disk any more.</returns>
    internal Task CloseAsync()
    {
        Task left;
        lock (_lock)
        {
            _isClosed = true;
            left = _left?.Task ?? Task.CompletedTask;
        }

        CloseSessions(new Fault(Errno.ECONNRESET, "the export was closed"));
        return left;
    }

    private void CloseSessions(Fault reason)
    {
        lock (_lock)
        {
            foreach (var session in _sessions)
                session.Close(reason);
        }
    }
}
