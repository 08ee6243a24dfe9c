namespace Virtbus.Platform;

/// <summary>
/// Enter, leave, drain: counts who is inside of something that may be taken away. Who enters takes no lock and allocates nothing, and is refused
/// once it is closed; who closes it waits until everybody is out. For what lies on a data path, where a lock would make users wait for each other.
/// </summary>
/// <remarks>
/// All members may be called from any thread. Who is inside must leave without waiting for whoever closes. A thread that is inside closes only if
/// it counts its own stays (<c>own</c>). What was published before a close is seen by all who enter afterwards; who entered before may not have
/// seen it, and is waited for.
/// </remarks>
public sealed class UseGate
{
    private const int Closed = int.MinValue;
    private readonly object _left = new();
    private int _users;

    /// <summary>Makes a gate with nobody inside.</summary>
    /// <param name="isOpen">Whether it lets users in from the start.</param>
    public UseGate(bool isOpen = true) => _users = isOpen ? 0 : Closed;

    /// <summary>Whether it lets nobody in.</summary>
    public bool IsClosed => Volatile.Read(ref _users) < 0;

    /// <summary>How many are inside at the moment.</summary>
    public int Users => Volatile.Read(ref _users) & int.MaxValue;

    /// <summary>Goes in; to be ended by <see cref="Leave"/>.</summary>
    /// <returns>False when it is closed; there is nothing to leave then.</returns>
    public bool TryEnter()
    {
        if (IsClosed)
            return false;
        // Count and mark are one number: who closes counts this user, or this user finds it closed.
        if (Interlocked.Increment(ref _users) > 0)
            return true;
        Leave();
        return false;
    }

    /// <summary>Goes out.</summary>
    public void Leave()
    {
        if (Interlocked.Decrement(ref _users) >= 0)
            return;
        lock (_left)
            Monitor.PulseAll(_left);
    }

    /// <summary>Lets users in.</summary>
    public void Open() => Interlocked.And(ref _users, int.MaxValue);

    /// <summary>Lets nobody in any more, and waits for nobody.</summary>
    public void Shut() => Interlocked.Or(ref _users, Closed);

    /// <summary>Lets nobody in any more, and waits until everybody is out.</summary>
    /// <param name="own">How many of the stays are the caller's own, which it can't wait for.</param>
    public void Close(int own = 0)
    {
        Shut();
        TryWait(Timeout.Infinite, own);
    }

    /// <summary>Waits until everybody is out of a gate that is shut.</summary>
    /// <param name="milliseconds">How long at most; <see cref="Timeout.Infinite"/> for as long as it takes.</param>
    /// <param name="own">As for <see cref="Close"/>.</param>
    /// <returns>False when somebody is inside still.</returns>
    public bool TryWait(int milliseconds, int own = 0)
    {
        // Stays are short, as a rule.
        var spin = default(SpinWait);
        while (Users > own && !spin.NextSpinWillYield)
            spin.SpinOnce();
        lock (_left)
        {
            while (Users > own)
            {
                if (!Monitor.Wait(_left, milliseconds))
                    return Users <= own;
            }
        }
        return true;
    }
}
