using Microsoft.Extensions.Logging;
using Virtbus.Platform;
using Virtbus.Subsystems;
using Virtbus.Subsystems.Vfio;
using Virtbus.Transports.VhostUser;
using Virtbus.Wire.VfioUser;

namespace Virtbus.Transports.VfioUser;

/// <summary>
/// A vfio-user server: offers a VFIO device on a Unix socket, to one client (QEMU, a driver in user space) at a time; others wait until it is
/// gone. The device is open while a client is connected: with the client all that it mapped and set up goes, and the device is reset, as
/// when the last descriptor of a VFIO device is closed. Then the next one is served.
/// </summary>
/// <remarks>A client is served by a thread of its own. While none is there, the server costs no thread.</remarks>
public sealed class VfioUserServer : IDeviceEndpoint, IAsyncDisposable
{
    private const int LinesPerSpan = 20;
    private static readonly TimeSpan LineSpan = TimeSpan.FromSeconds(10);

    private readonly VfioDevice _device;
    private readonly VfioUserServerOptions _options;
    private readonly ILogger _logger;
    private readonly TimeProvider _time;
    private readonly LogLimiter _limiter;
    // Of their own, so that a flood of one kind of line does not hide the other.
    private readonly LogLimiter _connectionLimiter;
    private readonly Lock _lock = new();
    private readonly TaskCompletionSource _ended = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private ConnectionAcceptor? _acceptor;
    private VfioUserSession? _session;
    private volatile ConnectedPeer? _peer;
    private volatile string? _hint;
    private bool _stopping;
    private long _sessions;
    private long _sessionsEnded;
    private long _badMessages;

    /// <summary>Makes a server that does not listen yet.</summary>
    /// <param name="path">Path of the socket file, at most 107 bytes.</param>
    /// <param name="device">The device; it is opened for each client.</param>
    /// <param name="logger">Where events 1100 to 1199 go.</param>
    /// <param name="options">Limits and ways; the usual ones when left out.</param>
    /// <param name="time">The clock for the rate of log lines; the system's when left out.</param>
    public VfioUserServer(string path, VfioDevice device, ILogger logger, VfioUserServerOptions? options = null, TimeProvider? time = null)
    {
        Path = path;
        _device = device;
        _logger = logger;
        _options = options ?? new VfioUserServerOptions();
        ArgumentOutOfRangeException.ThrowIfNotEqual(_options.MaxDescriptors is >= 1 and <= VfioUserProtocol.MaxDescriptors, true, nameof(options));
        ArgumentOutOfRangeException.ThrowIfNotEqual(_options.MaxDataTransfer is >= 1 and <= VfioUserProtocol.MaxDataTransfer, true, nameof(options));
        ArgumentOutOfRangeException.ThrowIfNotEqual(_options.MaxDmaMaps is >= 1 and <= VfioUserProtocol.MaxDmaMaps, true, nameof(options));
        _time = time ?? TimeProvider.System;
        _limiter = new LogLimiter(_time, LinesPerSpan, LineSpan);
        _connectionLimiter = new LogLimiter(_time, LinesPerSpan, LineSpan);
    }

    /// <summary>Path of the socket file.</summary>
    public string Path { get; }

    /// <summary>Whether a client is connected.</summary>
    public bool IsConnected => Volatile.Read(ref _session) is not null;

    /// <summary>How many clients have connected so far.</summary>
    public long Connections => Interlocked.Read(ref _sessions);

    /// <summary>How many messages were refused so far, those included that the log left out.</summary>
    public long BadMessages => Interlocked.Read(ref _badMessages);

    /// <inheritdoc/>
    public EndpointConnection? Connection => _peer?.Describe();

    /// <inheritdoc/>
    public string? Hint => _hint;

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
            var acceptor = new ConnectionAcceptor(listener, "vfio-user", _time, Serve, AcceptFailed);
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
        }

        VfioUserLog.Listening(_logger, Path);
    }

    /// <summary>Drops the client, closes the device and removes the socket file.</summary>
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

    /// <summary>The clock for waits.</summary>
    internal TimeProvider Time => _time;

    /// <summary>How many clients are gone again, with all that they left behind.</summary>
    internal long SessionsEnded => Interlocked.Read(ref _sessionsEnded);

    internal void LogBadMessage(long session, VfioUserCommand command, Fault fault, string answer)
    {
        Interlocked.Increment(ref _badMessages);
        _peer?.CountBadMessage();
        if (_limiter.TryTake(out var suppressed))
            VfioUserLog.BadMessage(_logger, Path, session, command, fault.Errno, fault.Message, answer, suppressed);
    }

    /// <summary>Whether a line about a connection may be written: a client that comes and goes gets no more of them than one that sends nonsense.</summary>
    internal bool MayLog(bool isDue = false)
    {
        if (!_connectionLimiter.TryTake(out var suppressed, isDue))
            return false;
        if (suppressed > 0)
            VfioUserLog.LeftOut(_logger, Path, suppressed);
        return true;
    }

    /// <summary>Most of what the client maps it keeps to itself.</summary>
    internal void SayUnshared(long session)
    {
        _hint = $"The client shares no memory, so the device reaches it by messages, which is slow; to share it, {ConnectedPeer.ShareMemory}";
        if (MayLog())
            VfioUserLog.MessageDma(_logger, Path, session);
    }

    private async Task EndAsync()
    {
        try
        {
            if (_acceptor is not null)
            {
                await _acceptor.StopAsync();
                VfioUserLog.Stopped(_logger, Path);
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
            VfioUserLog.AcceptFailed(_logger, Path, error);
    }

    private void Serve(UnixStream stream)
    {
        var number = Interlocked.Increment(ref _sessions);
        var isTold = MayLog();
        var reason = "failure of this side";
        try
        {
            if (isTold)
                VfioUserLog.Connected(_logger, Path, number);
            var peer = new ConnectedPeer(stream, _time);
            using var session = new VfioUserSession(this, _device, stream, _options, _logger, number, peer);
            lock (_lock)
            {
                _hint = null;
                _peer = peer;
                Volatile.Write(ref _session, session);
                if (_stopping)
                    session.Close(new Fault(Errno.ECONNRESET, "the server stops"));
            }

            reason = session.Run();
        }
        catch (Exception exception)
        {
            // Host errors (no descriptor, no memory) and our own bugs: this client loses, the next is served.
            if (MayLog())
                VfioUserLog.SessionFailed(_logger, exception, Path, number);
        }
        finally
        {
            stream.Dispose();
            Volatile.Write(ref _session, null);
            _peer = null;
            // Told of when its coming was, so that no line speaks of a client that seems to be there still.
            if (MayLog(isTold))
                VfioUserLog.Disconnected(_logger, Path, number, reason);
            Interlocked.Increment(ref _sessionsEnded);
        }
    }
}
