namespace Virtbus.Platform;

/// <summary>
/// What a poll thread does for one client: a queue, a bridge, a watcher. All calls come from one thread at a time, the one that the client is
/// on; when it moves or is detached, the next caller sees all that this one did. No call may block, nor wait for what another client of the
/// pool does: the others of the thread stand still meanwhile. What may block asks for a thread of its own (<see cref="PollOptions.OwnThread"/>).
/// </summary>
/// <remarks>
/// A control thread may hold any lock of its own while it calls <see cref="PollClient.Detach"/>, provided that no call here takes that lock:
/// Detach waits for the call that is under way, and for nothing else.
/// </remarks>
public interface IPollWork
{
    /// <summary>Does one batch. Other clients get their turn between two batches, so its length is what they wait.</summary>
    /// <param name="signals">One bit for each source that signalled since the last call, by <see cref="PollSource.Bit"/>; mostly 0.</param>
    /// <returns>Whether there was anything to do; the next call then comes in the next pass.</returns>
    bool Work(ulong signals);

    /// <summary>
    /// Whether a look for more work can find any before a source tells of it, for a client that spins (<see cref="PollOptions.Spins"/>).
    /// </summary>
    bool MaySpin => true;

    /// <summary>Has the sources tell of what comes from now on: the client is about to sleep.</summary>
    /// <returns>True when something came meanwhile, so that it does not sleep.</returns>
    bool PrepareToSleep();

    /// <summary>
    /// When the client is to have a turn although nothing woke it, by <see cref="System.Diagnostics.Stopwatch.GetTimestamp"/>; <see cref="long.MaxValue"/>
    /// for never. Asked each time that it goes to sleep. The turn may come some ten microseconds late, and one too early as well.
    /// </summary>
    long DueAt => long.MaxValue;

    /// <summary>The client does not sleep any more, or after all did not: its sources need not tell of anything.</summary>
    void Awake();

    /// <summary>One of the other calls threw. Nothing is called any more after this one.</summary>
    /// <param name="exception">What was thrown.</param>
    /// <returns>Whether somebody was told of it; else <see cref="ServiceThread.Unhandled"/> is.</returns>
    bool Failed(Exception exception) => false;
}
