using Virtbus.Platform;

namespace Virtbus.Transports;

/// <summary>
/// Takes the connections of one socket, one at a time or so many: who comes meanwhile waits in the kernel. A socket that nobody has open costs no thread: it
/// is watched on a poll thread. A connection is served by a thread of its own, since that waits for its peer.
/// </summary>
/// <param name="listener">The socket; it belongs to this object once that is started.</param>
/// <param name="thread">What the threads of connections are called.</param>
/// <param name="time">The clock for another try.</param>
/// <param name="serve">Serves a connection, on its thread, and disposes it; it throws nothing.</param>
/// <param name="failed">
/// Told, on a poll thread, that a connection was not accepted, and is tried again after a while, or is closed for want of a thread (EAGAIN).
/// </param>
/// <param name="most">How many connections are served at once.</param>
internal sealed class ConnectionAcceptor(
    IStreamListener listener, string thread, TimeProvider time, Action<UnixStream> serve, Action<Errno> failed, int most = 1) : IPollWork
{
    private const int RetryMilliseconds = 1000;
    private readonly Lock _lock = new();
    private readonly TaskCompletionSource _served = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private PollClient? _client;
    private int _serving;
    private bool _isPausing;
    private bool _isStopping;

    /// <summary>Begins to accept.</summary>
    /// <exception cref="VirtbusException">The host has no thread left, or does not watch the socket; that stays the caller's.</exception>
    internal void Start()
    {
        _client = PollThreads.Shared.Attach(thread + " accept", this, [new PollSource(listener.Descriptor, 0, IsEdge: true)]);
        // A connection that ended before the handle was there could not ask for the next one's turn.
        _client.Kick();
    }

    /// <summary>Accepts no more and removes the socket file. Once; the caller has the connection that is served end.</summary>
    /// <returns>A task that ends when no connection is served any more.</returns>
    internal Task StopAsync()
    {
        lock (_lock)
        {
            _isStopping = true;
            if (_serving == 0)
                _served.TrySetResult();
        }

        _client?.Detach();
        listener.Dispose();
        return _served.Task;
    }

    bool IPollWork.Work(ulong signals)
    {
        // What fails here fails this once; those who wait are tried again with the next one.
        ServiceThread.Guard(thread + " accept", Accept);
        return false;
    }

    bool IPollWork.PrepareToSleep() => false;

    void IPollWork.Awake()
    {
    }

    private void Accept()
    {
        Errno error;
        lock (_lock)
        {
            do
            {
                if (_isStopping || _serving == most || _isPausing)
                    return;
                var stream = listener.TryAccept(out error);
                if (stream is null && error == Errno.EAGAIN)
                    return;
                if (stream is null)
                    break;
                _serving++;
                if (ServiceThread.TryStart(thread, () => Serve(stream)) is not null)
                    continue;
                _serving--;
                stream.Dispose();
                error = Errno.EAGAIN;
            }
            while (error == Errno.None);

            // No descriptor left, for one: the connection waits.
            _isPausing = true;
        }

        _ = RetryAsync();
        failed(error);
    }

    private async Task RetryAsync()
    {
        await Task.Delay(TimeSpan.FromMilliseconds(RetryMilliseconds), time);
        lock (_lock)
            _isPausing = false;
        _client?.Kick();
    }

    private void Serve(UnixStream stream)
    {
        try
        {
            serve(stream);
        }
        finally
        {
            lock (_lock)
            {
                _serving--;
                if (_isStopping && _serving == 0)
                    _served.TrySetResult();
            }

            // Who came meanwhile was told of by an edge that found nobody free.
            _client?.Kick();
        }
    }
}
