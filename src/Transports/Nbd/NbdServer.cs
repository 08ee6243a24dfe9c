using Microsoft.Extensions.Logging;
using Virtbus.Platform;

namespace Virtbus.Transports.Nbd;

/// <summary>
/// Offers disks to NBD clients at one address. Each connection has a thread of its own, which waits for its client and for the disk; while nobody
/// is connected the server costs no thread. Safe from any thread.
/// </summary>
public sealed class NbdServer : IAsyncDisposable
{
    /// <summary>The most connections of all servers of the process.</summary>
    internal const int MostConnections = 64;

    private const int LinesPerSpan = 20;
    private static readonly TimeSpan LineSpan = TimeSpan.FromSeconds(10);
    private static int s_connections;

    private readonly ILogger _logger;
    private readonly NbdServerOptions _options;
    private readonly LogLimiter _limiter;
    private readonly Lock _lock = new();
    private readonly HashSet<NbdSession> _sessions = [];
    private readonly TaskCompletionSource _ended = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private ConnectionAcceptor? _acceptor;
    private NbdExport[] _exports = [];
    private long _numbers;
    private long _badMessages;
    private bool _isStopping;

    /// <summary>Makes a server that does not listen yet, and offers nothing.</summary>
    /// <param name="address">Where it listens.</param>
    /// <param name="logger">Where events 1200 to 1299 go.</param>
    /// <param name="time">The clock for waits and for the rate of log lines; the system's when left out.</param>
    /// <param name="options">Its bounds.</param>
    public NbdServer(NbdAddress address, ILogger logger, TimeProvider? time = null, NbdServerOptions? options = null)
    {
        ArgumentNullException.ThrowIfNull(address);
        Address = address;
        _logger = logger;
        Time = time ?? TimeProvider.System;
        _options = options ?? new NbdServerOptions();
        _limiter = new LogLimiter(Time, LinesPerSpan, LineSpan);
    }

    /// <summary>Where it listens; with the port that the host chose once it was started, where 0 was asked for.</summary>
    public NbdAddress Address { get; private set; }

    /// <summary>What it offers, in the order in which it was added.</summary>
    public IReadOnlyList<NbdExport> Exports => Volatile.Read(ref _exports);

    /// <summary>How many connections there are, those in the handshake included.</summary>
    public int Clients
    {
        get
        {
            lock (_lock)
                return _sessions.Count;
        }
    }

    /// <summary>How many messages were refused so far.</summary>
    public long BadMessages => Interlocked.Read(ref _badMessages);

    internal TimeProvider Time { get; }

    internal TimeSpan HandshakeTime => _options.HandshakeTime;

    /// <summary>Begins to listen. Once.</summary>
    /// <exception cref="VirtbusException">As <see cref="UnixListener.Listen"/> and <see cref="TcpListener.Listen"/>.</exception>
    public void Start()
    {
        lock (_lock)
        {
            if (_acceptor is not null || _isStopping)
                throw new InvalidOperationException("A server starts once.");
            IStreamListener listener;
            if (Address.Socket is { } socket)
            {
                listener = UnixListener.Listen(socket);
            }
            else
            {
                var tcp = TcpListener.Listen(Address.EndPoint!);
                Address = NbdAddress.OfTcp(tcp.EndPoint.ToString(), insecure: true);
                listener = tcp;
            }

            var acceptor = new ConnectionAcceptor(listener, "nbd", Time, Serve, AcceptFailed, _options.Connections);
            try
            {
                acceptor.Start();
            }
            catch
            {
                listener.Dispose();
                throw;
            }

            _acceptor = acceptor;
            foreach (var export in _exports)
                export.Path = Address.UriOf(export.Name);
        }

        NbdLog.Listening(_logger, Address);
        if (!Address.IsLocal)
            NbdLog.Open(_logger, Address);
    }

    /// <summary>Offers a disk.</summary>
    /// <param name="export">The disk; of this server from here on.</param>
    /// <exception cref="VirtbusException">EEXIST: another one has that name here.</exception>
    public void Add(NbdExport export)
    {
        ArgumentNullException.ThrowIfNull(export);
        lock (_lock)
        {
            if (_exports.Any(e => e.Name == export.Name))
                throw new VirtbusException(Errno.EEXIST, $"There is an export '{export.Name}' at {Address}. Choose another name.");
            export.Path = Address.UriOf(export.Name);
            Volatile.Write(ref _exports, [.. _exports, export]);
        }
    }

    /// <summary>Offers a disk no more, and ends the connections of those that have it open.</summary>
    /// <param name="export">The disk.</param>
    /// <returns>A task that ends when no client has a request in the disk, so that it can be closed.</returns>
    public Task RemoveAsync(NbdExport export)
    {
        ArgumentNullException.ThrowIfNull(export);
        lock (_lock)
            Volatile.Write(ref _exports, [.. _exports.Where(e => e != export)]);
        return export.CloseAsync();
    }

    /// <summary>Listens no more and ends all connections.</summary>
    /// <returns>A task that ends when all of it is done. Further calls end with the first.</returns>
    public async Task StopAsync()
    {
        bool isFirst;
        lock (_lock)
        {
            isFirst = !_isStopping;
            _isStopping = true;
            foreach (var session in _sessions)
                session.Close(new Fault(Errno.ECONNRESET, "the server stops"));
        }

        if (isFirst)
        {
            try
            {
                if (_acceptor is not null)
                {
                    await _acceptor.StopAsync();
                    NbdLog.Stopped(_logger, Address);
                }
            }
            finally
            {
                _ended.SetResult();
            }
        }

        await _ended.Task;
    }

    /// <summary>Same as <see cref="StopAsync"/>.</summary>
    /// <returns>A task that ends when the server has stopped.</returns>
    public async ValueTask DisposeAsync() => await StopAsync();

    /// <summary>The export of a name; the one that there is for who names none, null when there are several.</summary>
    internal NbdExport? Find(string name)
    {
        var exports = Volatile.Read(ref _exports);
        return exports.FirstOrDefault(e => e.Name == name) ?? (name.Length == 0 && exports.Length == 1 ? exports[0] : null);
    }

    internal void CountBadMessage() => Interlocked.Increment(ref _badMessages);

    private void AcceptFailed(Errno error)
    {
        if (_limiter.TryTake(out _))
            NbdLog.AcceptFailed(_logger, Address, error);
    }

    private void Serve(UnixStream stream)
    {
        var number = Interlocked.Increment(ref _numbers);
        try
        {
            if (Interlocked.Increment(ref s_connections) > MostConnections)
            {
                if (_limiter.TryTake(out _))
                    NbdLog.TurnedAway(_logger, Address, number);
                return;
            }

            Serve(stream, number);
        }
        finally
        {
            Interlocked.Decrement(ref s_connections);
            stream.Dispose();
        }
    }

    private void Serve(UnixStream stream, long number)
    {
        var isTold = _limiter.TryTake(out var suppressed);
        var reason = "failure of this side";
        using var session = new NbdSession(this, stream, new ConnectedPeer(stream, Time));
        try
        {
            if (isTold)
                NbdLog.Connected(_logger, Address, number, suppressed);
            lock (_lock)
            {
                _sessions.Add(session);
                if (_isStopping)
                    session.Close(new Fault(Errno.ECONNRESET, "the server stops"));
            }

            reason = session.Run();
        }
        catch (Exception exception)
        {
            // Host errors (no descriptor, no memory) and our own bugs: this client loses, the others go on.
            if (_limiter.TryTake(out _, isTold))
                NbdLog.SessionFailed(_logger, exception, Address, number);
        }
        finally
        {
            lock (_lock)
                _sessions.Remove(session);
            // Told of when its coming was, so that no line speaks of a client that seems to be there still.
            if (_limiter.TryTake(out _, isTold))
                NbdLog.Disconnected(_logger, Address, number, reason);
        }
    }
}
