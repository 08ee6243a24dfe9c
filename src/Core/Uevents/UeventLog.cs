namespace Virtbus.Core;

/// <summary>Numbers the fabric's events, keeps the newest ones, and hands them to subscribers. Safe from any thread.</summary>
/// <remarks>Most events are never looked at, so what is kept of one is its parts; it is put together for who asks for it.</remarks>
public sealed class UeventLog
{
    private const int FirstLength = 64;

    private readonly Lock _lock = new();
    private readonly int _capacity;

    // Grows to its capacity; from then on each event takes the place of the oldest.
    private Entry[] _history;
    private UeventSubscription[] _subscriptions = [];
    private UeventVariables? _spare;
    private long _seqnum;

    internal UeventLog(int capacity)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(capacity, 1);
        _capacity = capacity;
        _history = new Entry[Math.Min(capacity, FirstLength)];
    }

    /// <summary>The number of the newest event; 0 when there was none.</summary>
    public long Seqnum => Interlocked.Read(ref _seqnum);

    /// <summary>The events that are still kept, oldest first.</summary>
    /// <param name="after">Only events with a higher number.</param>
    public IReadOnlyList<Uevent> History(long after = 0)
    {
        lock (_lock)
        {
            var first = Math.Max(Math.Max(after, _seqnum - _capacity), 0) + 1;
            var events = new List<Uevent>();
            for (var n = first; n <= _seqnum; n++)
                events.Add(_history[Place(n)].ToUevent(n));
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

    /// <summary>A place for the variables of an event that is about to be emitted: that of a forgotten event, or a new one.</summary>
    internal UeventVariables NewVariables() => Interlocked.Exchange(ref _spare, null) ?? new UeventVariables();

    /// <summary>Emits an event for the object <paramref name="name"/> in <paramref name="folder"/>; the variables are the log's from now on.</summary>
    internal void Emit(UeventAction action, string folder, string name, string subsystem, UeventVariables? variables = null)
    {
        // Number and place in every queue are given under one lock, so no reader sees events out of order.
        lock (_lock)
        {
            var place = Place(++_seqnum);
            if (place == _history.Length)
                Array.Resize(ref _history, (int)Math.Min(_history.Length * 2L, _capacity));
            ref var entry = ref _history[place];
            if (entry.Variables is { } forgotten)
            {
                forgotten.Clear();
                Volatile.Write(ref _spare, forgotten);
            }
            entry = new Entry(action, folder, name, subsystem, variables);
            if (_subscriptions.Length == 0)
                return;
            var uevent = entry.ToUevent(_seqnum);
            foreach (var subscription in _subscriptions)
                subscription.Push(uevent);
        }
    }

    private int Place(long seqnum) => (int)((seqnum - 1) % _capacity);

    private readonly record struct Entry(UeventAction Action, string Folder, string Name, string Subsystem, UeventVariables? Variables)
    {
        public Uevent ToUevent(long seqnum) => new(seqnum, Action, Folder, Name, Subsystem, Variables?.ToArray() ?? []);
    }
}
