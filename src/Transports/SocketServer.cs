using Microsoft.Extensions.Logging;
using Virtbus.Platform;
using Virtbus.Subsystems;

namespace Virtbus.Transports;

/// <summary>
/// A device on a Unix socket, for one peer at a time; others wait until it is gone. What a peer's connection is, its protocol says: with the connection
/// all goes that the peer shared and set up, and the next one is served. A thread serves a peer that is there; while none is, the server costs no thread.
/// </summary>
public abstract class SocketServer : IDeviceEndpoint, IAsyncDisposable
{
    private const int LinesPerSpan = 20;
    private static readonly TimeSpan LineSpan = TimeSpan.FromSeconds(10);

    private readonly string _protocol;
    private readonly LogLimiter _limiter;
    // Of their own, so that a flood of one kind of line does not hide the other.
    private readonly LogLimiter _connectionLimiter;
    private readonly Lock _lock = new();
    private readonly TaskCompletionSource _ended = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private ConnectionAcceptor? _acceptor;
    private IPeerSession? _session;
    private TaskCompletionSource? _left;
    private volatile ConnectedPeer? _peer;
    private volatile string? _hint;
    private bool _stopping;
    private long _sessions;
    private long _sessionsEnded;
    private long _badMessages;

    private protected SocketServer(string protocol, string path, ILogger logger, TimeProvider? time)
    {
        _protocol = protocol;
        Path = path;
        Logger = logger;
        Time = time ?? TimeProvider.System;
        _limiter = new LogLimiter(Time, LinesPerSpan, LineSpan);
        _connectionLimiter = new LogLimiter(Time, LinesPerSpan, LineSpan);
    }

    /// <summary>Path of the socket file.</summary>
    public string Path { get; }

    /// <summary>Whether a peer is connected.</summary>
    public bool IsConnected => Session is not null;

    /// <summary>How many peers have connected so far.</summary>
    public long Connections => Interlocked.Read(ref _sessions);

    /// <summary>How many messages were refused so far, those included that the log left out.</summary>
    public long BadMessages => Interlocked.Read(ref _badMessages);

    /// <inheritdoc/>
    public EndpointConnection? Connection => _peer?.Describe();

    /// <inheritdoc/>
    public string? Hint => _hint;

    /// <inheritdoc/>
    public Task Left
    {
        get
        {
            lock (_lock)
                return _left?.Task ?? Task.CompletedTask;
        }
    }

    /// <summary>The clock for waits and for the rate of log lines.</summary>
    internal TimeProvider Time { get; }

    /// <summary>How many peers are gone again, with all that they left behind.</summary>
    internal long SessionsEnded => Interlocked.Read(ref _sessionsEnded);

    private protected ILogger Logger { get; }

    /// <summary>The connection that is served; null without one.</summary>
    private protected IPeerSession? Session => Volatile.Read(ref _session);

    /// <summary>Makes the socket file, for its owner only, and begins to serve. Once in the server's life.</summary>
    /// <exception cref="VirtbusException">
    /// EADDRINUSE when a live process listens there; EEXIST when the path is no socket; ENAMETOOLONG, ENOENT, EACCES.
    /// </exception>
    public void Start()
    {
        lock (_lock)
        {
            if (_acceptor is not null || _stopping)
                throw new InvalidOperationException("A server starts once.");
            var listener = UnixListener.Listen(Path);
            var acceptor = new ConnectionAcceptor(listener, _protocol, Time, Serve, AcceptFailed);
            Begin();
            try
            {
                acceptor.Start();
            }
            catch
            {
                End();
                listener.Dispose();
                throw;
            }

            _acceptor = acceptor;
        }

        SayListening();
    }

    /// <inheritdoc/>
    public void Disconnect()
    {
        lock (_lock)
            _session?.Close(new Fault(Errno.ECONNRESET, "the device was taken away"));
    }

    /// <summary>Drops the peer, lets go of all that came from it and removes the socket file.</summary>
    /// <returns>A task that ends when all of it is done. Further calls end with the first.</returns>
    public async Task StopAsync()
    {
        bool isFirst;
        lock (_lock)
        {
            isFirst = !_stopping;
            _stopping = true;
            _session?.Close(new Fault(Errno.ECONNRESET, "the server stops"));
        }

        if (isFirst)
            await EndAsync();
        await _ended.Task;
    }

    /// <summary>Same as <see cref="StopAsync"/>.</summary>
    /// <returns>A task that ends when the server has stopped.</returns>
    public async ValueTask DisposeAsync() => await StopAsync();

    /// <summary>Whether a line about a connection may be written: a peer that comes and goes gets no more of them than one that sends nonsense.</summary>
    internal bool MayLog(bool isDue = false)
    {
        if (!_connectionLimiter.TryTake(out var suppressed, isDue))
            return false;
        if (suppressed > 0)
            SayLeftOut(suppressed);
        return true;
    }

    /// <summary>Takes a connection over; with the session all goes that comes from it.</summary>
    private protected abstract IPeerSession Open(UnixStream stream, long number, ConnectedPeer peer);

    /// <summary>The server begins; what the device says meanwhile is the server's to tell.</summary>
    private protected virtual void Begin()
    {
    }

    /// <summary>The server has ended, and nobody is connected.</summary>
    private protected virtual void End()
    {
    }

    private protected abstract void SayListening();

    private protected abstract void SayStopped();

    private protected abstract void SayLeftOut(long suppressed);

    private protected abstract void SayAcceptFailed(Errno error);

    private protected abstract void SayConnected(long session);

    private protected abstract void SayDisconnected(long session, string reason);

    private protected abstract void SaySessionFailed(long session, Exception exception);

    /// <summary>Whether a line about what a peer sent may be written.</summary>
    private protected bool MayLogMessage(out long suppressed) => _limiter.TryTake(out suppressed);

    private protected void CountBadMessage()
    {
        Interlocked.Increment(ref _badMessages);
        _peer?.CountBadMessage();
    }

    /// <summary>What the peer who is connected could do better, as a sentence for who started it; until the next one comes.</summary>
    private protected void SetHint(string hint) => _hint = hint;

    private async Task EndAsync()
    {
        try
        {
            if (_acceptor is not null)
            {
                await _acceptor.StopAsync();
                End();
                SayStopped();
            }
        }
        finally
        {
            _ended.SetResult();
        }
    }

    private void AcceptFailed(Errno error)
    {
        if (MayLog())
            SayAcceptFailed(error);
    }

    private void Serve(UnixStream stream)
    {
        var number = Interlocked.Increment(ref _sessions);
        var isTold = MayLog();
        var reason = "failure of this side";
        try
        {
            if (isTold)
                SayConnected(number);
            var peer = new ConnectedPeer(stream, Time);
            using var session = Open(stream, number, peer);
            lock (_lock)
            {
                _hint = null;
                _peer = peer;
                _left = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
                Volatile.Write(ref _session, session);
                if (_stopping)
                    session.Close(new Fault(Errno.ECONNRESET, "the server stops"));
            }

            reason = session.Run();
        }
        catch (Exception exception)
        {
            // Host errors (no descriptor, no memory) and our own bugs: this peer loses, the next is served.
            if (MayLog())
                SaySessionFailed(number, exception);
        }
        finally
        {
            stream.Dispose();
            TaskCompletionSource? left;
            lock (_lock)
            {
                Volatile.Write(ref _session, null);
                (left, _left) = (_left, null);
            }

            _peer = null;
            left?.SetResult();
            // Told of when its coming was, so that no line speaks of a peer that seems to be there still.
            if (MayLog(isTold))
                SayDisconnected(number, reason);
            Interlocked.Increment(ref _sessionsEnded);
        }
    }
}
