namespace Virtbus.Platform;

/// <summary>How a client wants to be served by the poll threads.</summary>
public readonly record struct PollOptions
{
    /// <summary>A thread for this client alone, which ends with it: for work that may block, or that is to be delayed by nobody.</summary>
    public bool OwnThread { get; init; }

    /// <summary>
    /// Whether the thread looks for more work for some microseconds before the client sleeps, where past pauses were short. For clients whose
    /// peer saves a system call by it.
    /// </summary>
    public bool Spins { get; init; }

    /// <summary>How often the client is worked on although nothing woke it, in milliseconds; 0 for never. For one whose peer has no way to wake it.</summary>
    public int IntervalMilliseconds { get; init; }

    /// <summary>
    /// Which thread; null for the one of the pool with the fewest clients. As a guest on another client's own thread, this one is worked on
    /// until that client is detached, and may be held up by it.
    /// </summary>
    public PollThread? Thread { get; init; }
}
