namespace Virtbus.Pci;

/// <summary>Counts who uses the slot, so that an unplug can wait for them. Entering and leaving takes no lock and allocates nothing.</summary>
internal sealed class PortGate
{
    private const int Closed = int.MinValue;
    private readonly object _empty = new();
    private int _users = Closed;

    internal bool TryEnter()
    {
        var seen = Volatile.Read(ref _users);
        while (seen >= 0)
        {
            var found = Interlocked.CompareExchange(ref _users, seen + 1, seen);
            if (found == seen)
                return true;
            seen = found;
        }
        return false;
    }

    internal void Leave()
    {
        if (Interlocked.Decrement(ref _users) != Closed)
            return;
        lock (_empty)
            Monitor.PulseAll(_empty);
    }

    internal void Open() => Interlocked.And(ref _users, int.MaxValue);

    /// <summary>Lets nobody in any more, and waits until everybody is out. Not from a thread that is in.</summary>
    internal void Close()
    {
        Interlocked.Or(ref _users, Closed);
        lock (_empty)
        {
            while (Volatile.Read(ref _users) != Closed)
                Monitor.Wait(_empty);
        }
    }
}
