namespace Virtbus.Platform;

/// <summary>
/// A client's place on one poll thread. One that moves leaves its seat for good and gets another one, so that nothing that still names the old
/// one (a wake-up on its way, a list) can reach it.
/// </summary>
internal sealed class PollSeat
{
    private const int Closed = 0;
    private const int Free = 1;
    private const int Working = 2;
    private const int WorkingLast = 3;
    private const int Dead = 4;

    private int _state;
    private int _isKicked;

    internal PollSeat(string name, IPollWork work, PollThread thread, in PollOptions options)
    {
        Name = name;
        Work = work;
        Thread = thread;
        IntervalMilliseconds = options.IntervalMilliseconds;
        Spins = options.Spins;
    }

    internal string Name { get; }

    internal IPollWork Work { get; }

    internal PollThread Thread { get; }

    internal bool Spins { get; }

    /// <summary>Whether the thread is there for this seat, and ends with it; others may be guests there.</summary>
    internal bool OwnsThread { get; init; }

    internal int IntervalMilliseconds { get; }

    /// <summary>What wakes it; changed under the thread's lock, before the first turn.</summary>
    internal PollWatch[] Watches { get; set; } = [];

    /// <summary>Whether the thread counts it among its clients; under the thread's lock.</summary>
    internal bool IsCounted { get; set; }

    /// <summary>Whether a bug of the work ended it. Settled when it is dead.</summary>
    internal bool HasFailed { get; set; }

    /// <summary>The next one whose kick the thread has to take; the thread's, and before that the kicker's.</summary>
    internal PollSeat? NextKicked { get; set; }

    internal bool IsDead => Volatile.Read(ref _state) == Dead;

    // What follows is the thread's.
    internal AdaptiveSpin Spin = new();

    internal PollSeat? NextActive;

    internal bool IsActive;

    internal int ActiveWatches;

    internal bool IsArmed;

    internal bool IsTimed;

    internal ulong Signals;

    /// <summary>When the client had nothing to do for the first time since it did something; 0 while it has.</summary>
    internal long PauseStart;

    /// <summary>When it is worked on next without a signal.</summary>
    internal long NextTick;

    /// <summary>Marks it as kicked.</summary>
    /// <returns>False when it was already, and the thread has still to take that.</returns>
    internal bool TryMarkKicked() => Interlocked.Exchange(ref _isKicked, 1) == 0;

    /// <summary>The kick is taken; a full fence: what a later kick stands for is seen by the work that follows, or makes another kick.</summary>
    internal void UnmarkKicked() => Interlocked.Exchange(ref _isKicked, 0);

    /// <summary>Lets the thread work on it from now on; one that ended before stays so.</summary>
    internal void Open() => Interlocked.CompareExchange(ref _state, Free, Closed);

    /// <summary>Begins to work; by the thread.</summary>
    internal bool TryEnter() => Interlocked.CompareExchange(ref _state, Working, Free) == Free;

    /// <summary>Ends a turn; by the thread.</summary>
    internal void Exit()
    {
        if (Interlocked.CompareExchange(ref _state, Free, Working) != Working)
            Die();
    }

    /// <summary>Ends the last turn; by the thread.</summary>
    internal void Die()
    {
        lock (this)
        {
            Volatile.Write(ref _state, Dead);
            Monitor.PulseAll(this);
        }
    }

    /// <summary>
    /// Has it worked on no more. When the call returns, no call of the work is under way, but the one that this call is made in, if it is.
    /// </summary>
    internal void End()
    {
        while (true)
        {
            var state = Volatile.Read(ref _state);
            if (state == Dead || (state is Closed or Free && Interlocked.CompareExchange(ref _state, Dead, state) == state))
                return;
            if (state == WorkingLast || Interlocked.CompareExchange(ref _state, WorkingLast, Working) == Working)
                break;
        }

        // From a call of the work itself: the turn ends with that call.
        if (Thread.IsCurrent)
            return;
        lock (this)
        {
            while (_state != Dead)
                Monitor.Wait(this);
        }
    }

    /// <summary>Whether the calling thread is in a call of the work.</summary>
    internal bool IsInWork => Volatile.Read(ref _state) is Working or WorkingLast && Thread.IsCurrent;
}
