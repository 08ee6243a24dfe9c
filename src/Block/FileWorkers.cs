using Virtbus.Platform;

namespace Virtbus.Block;

/// <summary>
/// A few threads that may wait for a file, for hosts without io_uring. Started when they are first needed. What waits for them is bounded by
/// the depth of the channels: each transfer has one place in flight.
/// </summary>
internal sealed class FileWorkers(string name) : IDisposable
{
    internal const int MaxThreads = 4;
    private readonly object _gate = new();
    private readonly List<ServiceThread> _threads = [];
    private FileTransfer? _first;
    private FileTransfer? _last;
    private int _idle;
    private bool _stopping;

    /// <summary>Hands a transfer over; <see cref="FileChannel.Work"/> does it there.</summary>
    /// <returns>False when the host has no thread at all.</returns>
    internal bool TryAdd(FileTransfer transfer)
    {
        lock (_gate)
        {
            if (_idle == 0 && _threads.Count < MaxThreads && ServiceThread.TryStart($"{name}-io{_threads.Count}", Run) is { } thread)
                _threads.Add(thread);
            if (_threads.Count == 0)
                return false;
            transfer.Next = null;
            if (_last is null)
                _first = transfer;
            else
                _last.Next = transfer;
            _last = transfer;
            Monitor.Pulse(_gate);
            return true;
        }
    }

    /// <summary>Ends the threads. Channels are gone: nothing waits.</summary>
    public void Dispose()
    {
        lock (_gate)
        {
            _stopping = true;
            Monitor.PulseAll(_gate);
        }

        foreach (var thread in _threads)
            thread.Join();
    }

    private void Run()
    {
        while (TryTake() is { } transfer)
            transfer.Channel.Work(transfer);
    }

    private FileTransfer? TryTake()
    {
        lock (_gate)
        {
            while (_first is null && !_stopping)
            {
                _idle++;
                Monitor.Wait(_gate);
                _idle--;
            }

            if (_first is not { } transfer)
                return null;
            _first = transfer.Next;
            if (_first is null)
                _last = null;
            return transfer;
        }
    }
}
