using Microsoft.Extensions.Logging;
using Virtbus.Buses.Vdpa;
using Virtbus.Memory.Rings;
using Virtbus.Platform;
using Virtbus.Subsystems;

namespace Virtbus.Transports.VhostUser;

/// <summary>
/// A vhost-user back end: offers a vDPA device on a Unix socket, to one front end (QEMU, libblkio, DPDK) at a time. When that one goes,
/// all that it shared is let go of and the next is served. One thread answers requests; the device's own threads serve the rings.
/// </summary>
public sealed class VhostUserServer : IDeviceEndpoint, IAsyncDisposable
{
    private const int LinesPerSpan = 20;
    private static readonly TimeSpan LineSpan = TimeSpan.FromSeconds(10);

    private readonly IVdpaOps _device;
    private readonly ILogger _logger;
    private readonly LogLimiter _limiter;
    private readonly EventFd _cancel = new();
    private readonly Lock _lock = new();
    private readonly TaskCompletionSource _ended = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private UnixListener? _listener;
    private volatile VhostUserSession? _session;
    private readonly TimeProvider _time;
    private volatile ConnectedPeer? _peer;
    private volatile string? _hint;
    private volatile bool _stopping;
    private bool _started;
    private long _sessions;
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
    public VirtQueueCounters GetQueueCounters(int queue) => _device.GetQueueCounters(queue);

    /// <summary>Makes the socket file, for its owner only, and begins to serve. Once in the server's life.</summary>
    /// <exception cref="VirtbusException">
    /// EADDRINUSE when a live process listens there; EEXIST when the path is no socket; ENAMETOOLONG, ENOENT, EACCES.
    /// </exception>
    public void Start()
    {
        lock (_lock)
        {
            if (_started || _stopping)
                throw new InvalidOperationException("A server starts once.");
            _listener = UnixListener.Listen(Path);
            _started = true;
        }

        _device.SetQueueFaultCallback(LogQueueFault);
        new Thread(Serve) { IsBackground = true, Name = "vhost-user" }.Start();
        VhostUserLog.Listening(_logger, Path);
    }

    /// <summary>Drops the front end, stops the device's queues, lets go of all memory and removes the socket file.</summary>
    /// <returns>A task that ends when all of it is done. Further calls end with the first.</returns>
    public async Task StopAsync()
    {
        bool first;
        lock (_lock)
        {
            first = !_stopping;
            _stopping = true;
            if (!_started)
                _ended.TrySetResult();
        }

        if (first)
            _cancel.Signal();
        await _ended.Task;
        if (first)
            _cancel.Dispose();
    }

    /// <summary>Same as <see cref="StopAsync"/>.</summary>
    /// <returns>A task that ends when the server has stopped.</returns>
    public async ValueTask DisposeAsync() => await StopAsync();

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

    private void Serve()
    {
        var listener = _listener!;
        while (!_stopping)
        {
            var stream = listener.TryAccept(out var error);
            if (stream is not null)
            {
                Serve(stream);
                continue;
            }

            // No descriptor left, for one: the connection waits, and it is tried again when the next event comes or after a while.
            if (error != Errno.EAGAIN)
                VhostUserLog.AcceptFailed(_logger, Path, error);
            Polling.Wait(listener.Descriptor, forWriting: false, _cancel, error == Errno.EAGAIN ? -1 : 1000);
        }

        _device.SetQueueFaultCallback(null);
        listener.Dispose();
        VhostUserLog.Stopped(_logger, Path);
        _ended.SetResult();
    }

    private void Serve(UnixStream stream)
    {
        var number = Interlocked.Increment(ref _sessions);
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
            VhostUserLog.SessionFailed(_logger, exception, Path, number);
        }
        finally
        {
            _session = null;
            _peer = null;
            stream.Dispose();
        }

        VhostUserLog.Disconnected(_logger, Path, number, reason);
    }
}
