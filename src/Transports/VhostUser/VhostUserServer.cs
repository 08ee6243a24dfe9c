using Microsoft.Extensions.Logging;
using Virtbus.Buses.Vdpa;
using Virtbus.Memory;
using Virtbus.Platform;
using Virtbus.Subsystems;
using Virtbus.Virtio.Rings;
using Virtbus.Wire.VhostUser;

namespace Virtbus.Transports.VhostUser;

/// <summary>
/// A vhost-user back end: offers a vDPA device on a Unix socket, to one front end (QEMU, libblkio, DPDK) at a time. When that one goes,
/// all that it shared is let go of and the next is served. A thread answers the requests of a front end that is there; poll threads serve the
/// rings. While none is there, the server costs no thread.
/// </summary>
public sealed class VhostUserServer : IDeviceEndpoint, IAsyncDisposable
{
    private const int LinesPerSpan = 20;
    private static readonly TimeSpan LineSpan = TimeSpan.FromSeconds(10);

    private readonly IVdpaOps _device;
    private readonly ILogger _logger;
    private readonly LogLimiter _limiter;
    // Of their own, so that a flood of one kind of line does not hide the other.
    private readonly LogLimiter _connectionLimiter;
    private readonly EventFd _cancel = new();
    private readonly Lock _lock = new();
    private readonly TaskCompletionSource _ended = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private ConnectionAcceptor? _acceptor;
    private volatile VhostUserSession? _session;
    private readonly TimeProvider _time;
    private volatile ConnectedPeer? _peer;
    private volatile string? _hint;
    private bool _stopping;
    private long _sessions;
    private long _sessionsEnded;
    private long _badMessages;

    /// <summary>Makes a server that does not listen yet.</summary>
    /// <param name="path">Path of the socket file, at most 107 bytes.</param>
    /// <param name="device">The device; it is the server's alone until the server has stopped.</param>
    /// <param name="logger">Where events 1000 to 1099 go.</param>
    /// <param name="time">The clock for the rate of log lines; the system's when left out.</param>
    public VhostUserServer(string path, IVdpaOps device, ILogger logger, TimeProvider? time = null)
    {
        Path = path;
        _device = device;
        _logger = logger;
        _time = time ?? TimeProvider.System;
        _limiter = new LogLimiter(_time, LinesPerSpan, LineSpan);
        _connectionLimiter = new LogLimiter(_time, LinesPerSpan, LineSpan);
    }

    /// <summary>Path of the socket file.</summary>
    public string Path { get; }

    /// <summary>Whether a front end is connected.</summary>
    public bool IsConnected => _session is not null;

    /// <summary>Virtio features that the connected front end took; 0 without one.</summary>
    public ulong PeerFeatures => _session?.Features ?? 0;

    /// <summary>Protocol features (VHOST_USER_PROTOCOL_F_*) that the connected front end took; 0 without one.</summary>
    public ulong PeerProtocolFeatures => _session?.ProtocolFeatures ?? 0;

    /// <summary>How many front ends have connected so far.</summary>
    public long Connections => Interlocked.Read(ref _sessions);

    /// <summary>How many messages were refused so far, those included that the log left out.</summary>
    public long BadMessages => Interlocked.Read(ref _badMessages);

    /// <inheritdoc/>
    public EndpointConnection? Connection => _peer?.Describe();

    /// <inheritdoc/>
    public string? Hint => _hint;

    /// <summary>How many queues the device has.</summary>
    public int QueueCount => _device.QueueCount;

    /// <summary>Reads a queue's counters.</summary>
    /// <param name="queue">Queue number, below <see cref="QueueCount"/>.</param>
    /// <returns>The counters since the device was made.</returns>
    public QueueCounters GetQueueCounters(int queue) => _device.GetQueueCounters(queue);

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
            var acceptor = new ConnectionAcceptor(listener, "vhost-user", _time, Serve, AcceptFailed);
            _device.SetQueueFaultCallback(LogQueueFault);
            try
            {
                acceptor.Start();
            }
            catch
            {
                _device.SetQueueFaultCallback(null);
                listener.Dispose();
                throw;
            }

            _acceptor = acceptor;
        }

        VhostUserLog.Listening(_logger, Path);
    }

    /// <summary>Drops the front end, stops the device's queues, lets go of all memory and removes the socket file.</summary>
    /// <returns>A task that ends when all of it is done. Further calls end with the first.</returns>
    public async Task StopAsync()
    {
        bool isFirst;
        lock (_lock)
        {
            isFirst = !_stopping;
            _stopping = true;
        }

        if (isFirst)
            await EndAsync();
        await _ended.Task;
    }

    /// <summary>Same as <see cref="StopAsync"/>.</summary>
    /// <returns>A task that ends when the server has stopped.</returns>
    public async ValueTask DisposeAsync() => await StopAsync();

    /// <summary>What pays for the mappings of front ends' memory.</summary>
    internal MappingBudget Mappings { get; init; } = MappingBudget.Process;

    internal void LogTurnedAway(long session, Fault fault)
    {
        if (_limiter.TryTake(out var suppressed))
            VhostUserLog.TurnedAway(_logger, Path, session, fault.Errno, fault.Message, suppressed);
    }
    /// <summary>How many front ends are gone again, with all that they left behind.</summary>
    internal long SessionsEnded => Interlocked.Read(ref _sessionsEnded);

    internal void LogBadMessage(long session, VhostUserRequest request, Fault fault, string answer)
    {
        Interlocked.Increment(ref _badMessages);
        _peer?.CountBadMessage();
        if (_limiter.TryTake(out var suppressed))
            VhostUserLog.BadMessage(_logger, Path, session, request, fault.Errno, fault.Message, answer, suppressed);
    }

    /// <summary>The front end set a ring up, but let nobody reach its memory.</summary>
    internal void SayUnshared(long session)
    {
        _hint = $"The front end shares no memory, which the device needs: {ConnectedPeer.ShareMemory}";
        if (_limiter.TryTake(out var suppressed))
            VhostUserLog.Unshared(_logger, Path, session, suppressed);
    }

    private void LogQueueFault(int queue, Fault fault)
    {
        if (_limiter.TryTake(out var suppressed))
            VhostUserLog.QueueBroken(_logger, Path, queue, fault.Errno, fault.Message, suppressed);
    }

    /// <summary>Whether a line about a connection may be written: a peer that comes and goes gets no more of them than one that sends nonsense.</summary>
    internal bool MayLog(bool isDue = false)
    {
        if (!_connectionLimiter.TryTake(out var suppressed, isDue))
            return false;
        if (suppressed > 0)
            VhostUserLog.LeftOut(_logger, Path, suppressed);
        return true;
    }

    private async Task EndAsync()
    {
        try
        {
            _cancel.Signal();
            if (_acceptor is not null)
            {
                await _acceptor.StopAsync();
                _device.SetQueueFaultCallback(null);
                VhostUserLog.Stopped(_logger, Path);
            }

            _cancel.Dispose();
        }
        finally
        {
            _ended.SetResult();
        }
    }

    private void AcceptFailed(Errno error)
    {
        if (MayLog())
            VhostUserLog.AcceptFailed(_logger, Path, error);
    }

    private void Serve(UnixStream stream)
    {
        var number = Interlocked.Increment(ref _sessions);
        var isTold = MayLog();
        if (isTold)
            VhostUserLog.Connected(_logger, Path, number);
        var reason = "failure of this side";
        try
        {
            var peer = new ConnectedPeer(stream, _time);
            using var session = new VhostUserSession(this, _device, stream, _cancel, _logger, number, peer);
            _hint = null;
            _peer = peer;
            _session = session;
            reason = session.Run();
        }
        catch (Exception exception)
        {
            // Host errors (no descriptor, no memory) and our own bugs: this front end loses, the next is served.
            if (MayLog())
                VhostUserLog.SessionFailed(_logger, exception, Path, number);
        }
        finally
        {
            _session = null;
            _peer = null;
            stream.Dispose();
        }

        // Told of when its coming was, so that no line speaks of a front end that seems to be there still.
        if (MayLog(isTold))
            VhostUserLog.Disconnected(_logger, Path, number, reason);
        Interlocked.Increment(ref _sessionsEnded);
    }
}
