namespace Virtbus.Platform;

/// <summary>
/// A client of the poll threads: the handle by which its owner kicks, moves and detaches it. It is on one thread at a time. Safe from any thread.
/// </summary>
public sealed class PollClient
{
    private readonly Lock _lock = new();
    private readonly Lock _moves = new();
    private readonly string _name;
    private readonly IPollWork _work;
    private readonly PollSource[] _sources;
    private readonly PollOptions _options;
    private PollSeat _seat;
    private bool _isDetached;

    private PollClient(string name, IPollWork work, PollSource[] sources, in PollOptions options, PollThread thread, bool ownsThread)
    {
        _name = name;
        _work = work;
        _sources = sources;
        _options = options;
        _seat = new PollSeat(name, work, thread, options) { OwnsThread = ownsThread };
    }

    /// <summary>The thread that the client is on; the last one when it is detached.</summary>
    public PollThread Thread => Volatile.Read(ref _seat).Thread;

    /// <summary>Whether the client is served no more: it was detached, or its work threw.</summary>
    public bool IsOver => Volatile.Read(ref _isDetached) || Volatile.Read(ref _seat).IsDead;

    internal static PollClient Attach(string name, IPollWork work, ReadOnlySpan<PollSource> sources, in PollOptions options, PollThread thread, bool ownsThread)
    {
        var client = new PollClient(name, work, sources.ToArray(), options, thread, ownsThread);
        thread.Add(client._seat, client._sources);
        client._seat.Open();
        // Its first turn comes without a signal: what was there before anybody listened is found by that.
        thread.Kick(client._seat);
        return client;
    }

    /// <summary>
    /// Asks for a turn, as a signal of a source does. No lock, no allocation, and no system call while the client's thread is awake. One that is
    /// detached ignores it.
    /// </summary>
    public void Kick()
    {
        // A seat that is left at this moment needs no kick: the next one begins with a turn, which sees what this kick is for.
        var seat = Volatile.Read(ref _seat);
        if (!seat.IsDead)
            seat.Thread.Kick(seat);
    }

    /// <summary>
    /// Ends the service. When the call returns, no call of the work is under way and none comes any more; it waits for at most the batch that
    /// is under way. From a call of the work itself it returns at once, and that call is the last one. Once more does nothing.
    /// </summary>
    public void Detach()
    {
        PollSeat seat;
        bool isFirst;
        lock (_lock)
        {
            seat = _seat;
            isFirst = !_isDetached;
            Volatile.Write(ref _isDetached, true);
        }

        // Outside of the lock: the work that is waited for may call this too.
        seat.End();
        seat.Thread.Remove(seat);
        if (isFirst && seat.OwnsThread)
            seat.Thread.End();
    }

    /// <summary>
    /// Has another thread serve the client from now on. Returns when the old one does not any more; no signal and no kick is lost. Not from a
    /// call of the client's own work.
    /// </summary>
    /// <param name="thread">A thread of a pool.</param>
    /// <exception cref="VirtbusException">The host takes no more descriptors into that thread's set; the client goes on where it was.</exception>
    public void MoveTo(PollThread thread)
    {
        ArgumentNullException.ThrowIfNull(thread);
        lock (_moves)
            Move(thread, ownsThread: false);
    }

    /// <summary>Gives the client a thread of its own from now on, as <see cref="MoveTo"/> does.</summary>
    /// <exception cref="VirtbusException">EAGAIN: the host has no room for another thread; the client goes on where it was.</exception>
    public void MoveToOwnThread()
    {
        lock (_moves)
        {
            if (IsOver || Volatile.Read(ref _seat).OwnsThread)
                return;
            var thread = PollThread.Start(_name, isOwn: true);
            try
            {
                if (!Move(thread, ownsThread: true))
                    thread.End();
            }
            catch
            {
                thread.End();
                throw;
            }
        }
    }

    private bool Move(PollThread thread, bool ownsThread)
    {
        var old = _seat;
        if (old.Thread == thread || IsOver)
            return false;
        if (old.IsInWork)
            throw new InvalidOperationException("A client's own work cannot move it: the new thread would begin before that work has ended.");
        // In the new set before it leaves the old one, so that a host without room changes nothing.
        var next = new PollSeat(_name, _work, thread, _options) { OwnsThread = ownsThread };
        thread.Add(next, _sources);
        old.End();
        bool isMoved;
        lock (_lock)
        {
            // It may have failed, or been detached, in its last turn.
            isMoved = !_isDetached && !old.HasFailed;
            if (isMoved)
            {
                Volatile.Write(ref _seat, next);
                next.Open();
            }
        }

        if (isMoved)
        {
            // What was signalled or kicked in between is found by this turn.
            thread.Kick(next);
        }
        else
        {
            next.End();
            thread.Remove(next);
        }

        old.Thread.Remove(old);
        if (old.OwnsThread)
            old.Thread.End();
        return isMoved;
    }
}
