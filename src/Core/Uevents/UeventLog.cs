namespace Virtbus.Core;

/// <summary>Numbers the fabric's events, keeps the newest ones, and hands them to subscribers. Safe from any thread.</summary>
public sealed class UeventLog
{
    private readonly Lock _lock = new();
    private readonly Uevent?[] _history;
    private UeventSubscription[] _subscriptions = [];
    private long _seqnum;

    internal UeventLog(int capacity)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(capacity, 1);
        _history = new Uevent?[capacity];
    }

    /// <summary>The number of the newest event; 0 when there was none.</summary>
    public long Seqnum => Interlocked.Read(ref _seqnum);

    /// <summary>The events that are still kept, oldest first.</summary>
    /// <param name="after">Only events with a higher number.</param>
    public IReadOnlyList<Uevent> History(long after = 0)
    {
        lock (_lock)
        {
            var first = Math.Max(Math.Max(after, _seqnum - _history.Length), 0) + 1;
            var events = new List<Uevent>();
            for (var n = first; n <= _seqnum; n++)
                events.Add(_history[n % _history.Length]!);
            return events;
        }
    }

    /// <summary>Subscribes to events from now on.</summary>
    /// <param name="capacity">How many events may wait for the reader; at least 1.</param>
    public UeventSubscription Subscribe(int capacity = 1024)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(capacity, 1);
        var subscription = new UeventSubscription(this, capacity);
        lock (_lock)
            _subscriptions = [.. _subscriptions, subscription];
        return subscription;
    }

    internal void Remove(UeventSubscription subscription)
    {
        lock (_lock)
            _subscriptions = [.. _subscriptions.Where(s => s != subscription)];
    }

    /// <summary>Emits an event for the object <paramref name="name"/> in <paramref name="folder"/>; the variables are the event's from now on.</summary>
    internal void Emit(UeventAction action, string folder, string name, string subsystem, UeventVariables? variables = null)
    {
        // Number and place in every queue are given under one lock, so no reader sees events out of order.
        lock (_lock)
        {
            var uevent = new Uevent(++_seqnum, action, folder, name, subsystem, variables);
            _history[_seqnum % _history.Length] = uevent;
            foreach (var subscription in _subscriptions)
                subscription.Push(uevent);
        }
    }
}
