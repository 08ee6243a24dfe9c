namespace Virtbus.Core;

/// <summary>
/// A subscriber's queue of events. Bounded: a subscriber that is slow loses the oldest and is told how many
/// (<see cref="UeventBatch.Lost"/>). One reader at a time.
/// </summary>
public sealed class UeventSubscription : IDisposable
{
    private readonly UeventLog _log;
    private readonly Lock _lock = new();
    private readonly Queue<Uevent> _queue = new();
    private readonly int _capacity;
    private long _lost;
    private TaskCompletionSource? _waiting;
    private bool _closed;

    internal UeventSubscription(UeventLog log, int capacity)
    {
        _log = log;
        _capacity = capacity;
    }

    /// <summary>Waits for events and takes all that are there.</summary>
    /// <param name="cancellationToken">Ends the wait.</param>
    /// <returns>The events, and how many were lost before them; empty when the subscription was disposed.</returns>
    public async ValueTask<UeventBatch> ReadAsync(CancellationToken cancellationToken = default)
    {
        while (true)
        {
            TaskCompletionSource waiting;
            lock (_lock)
            {
                if (_queue.Count > 0 || _closed)
                {
                    var batch = new UeventBatch(_lost, [.. _queue]);
                    _queue.Clear();
                    _lost = 0;
                    return batch;
                }
                waiting = _waiting ??= new(TaskCreationOptions.RunContinuationsAsynchronously);
            }
            await waiting.Task.WaitAsync(cancellationToken);
        }
    }

    /// <summary>Ends the subscription; a waiting reader gets an empty batch.</summary>
    public void Dispose()
    {
        _log.Remove(this);
        lock (_lock)
        {
            _closed = true;
            _queue.Clear();
            Wake();
        }
    }

    internal void Push(Uevent uevent)
    {
        lock (_lock)
        {
            if (_closed)
                return;
            if (_queue.Count == _capacity)
            {
                _queue.Dequeue();
                _lost++;
            }
            _queue.Enqueue(uevent);
            Wake();
        }
    }

    private void Wake()
    {
        _waiting?.TrySetResult();
        _waiting = null;
    }
}
