namespace Virtbus.Platform;

/// <summary>
/// The way of one source of notifications to a user's eventfd. It can be exchanged and muted while signals come: when such a call returns,
/// nobody signals the eventfd before, and its descriptor may be closed. Who signals takes no lock, allocates nothing and waits for nobody.
/// </summary>
/// <remarks>
/// What is inside of the line is short: it reads, tests and signals, and calls nothing else. So who waits for it to be empty never waits for
/// itself, wherever it was called from. A line that is not shared may hang in a write, as <see cref="EventFd.SignalByWrite"/> says, and is
/// freed by a read of whoever waits.
/// </remarks>
/// <param name="isShared">
/// Whether who signals is known to work for others too, and so may not hang in one user's eventfd; else the calling thread is asked.
/// </param>
public sealed class SignalLine(bool isShared = true)
{
    // In milliseconds.
    private const int StuckInterval = 100;
    private readonly Lock _control = new();
    private volatile Slot _slot = new(null, isMuted: false);
    private int _mutes;
    private int _isPending;

    /// <summary>Signals the user; what comes while muted is kept, once. Any thread.</summary>
    public void Signal()
    {
        using var use = Use();
        use.Signal();
    }

    /// <summary>Goes into the line: until the answer is disposed, whoever exchanges the eventfd waits. For who has something to look at first.</summary>
    public SignalUse Use()
    {
        while (true)
        {
            var slot = _slot;
            if (slot.Gate.TryEnter())
                return new SignalUse(this, slot);
        }
    }

    /// <summary>Sets the eventfd; the one before is not used any more when this returns.</summary>
    /// <param name="call">The eventfd; stays the caller's. Null for none: then signals are lost.</param>
    public void Set(EventFd? call)
    {
        lock (_control)
            Replace(new Slot(call, _slot.IsMuted));
    }

    /// <summary>Keeps signals back, until as many calls of <see cref="Unmute"/>. When this returns, nobody hangs in one.</summary>
    public void Mute()
    {
        lock (_control)
        {
            _mutes++;
            Replace(new Slot(_slot.Call, isMuted: true));
        }
    }

    /// <summary>Lets signals through again, the one that was kept back first.</summary>
    public void Unmute()
    {
        lock (_control)
        {
            if (--_mutes > 0)
                return;
            Replace(new Slot(_slot.Call, isMuted: false));
            // Whoever found the line muted has left it, so the mark is there.
            if (Interlocked.Exchange(ref _isPending, 0) == 0 || _slot.Call is not { } call)
                return;
            // Emptied first: with room in it a signal does not wait.
            call.TryRead(out _);
            call.Signal();
        }
    }

    /// <summary>Waits until those are out who went in before this call: they may not have seen what the caller changed.</summary>
    public void Drain()
    {
        Interlocked.MemoryBarrier();
        if (_slot.Gate.Users == 0)
            return;
        lock (_control)
            Replace(new Slot(_slot.Call, _slot.IsMuted));
    }

    internal void Signal(Slot slot)
    {
        if (slot.IsMuted)
            Interlocked.Exchange(ref _isPending, 1);
        else if (slot.Call is not { } call)
            return;
        else if (!isShared && !PollThread.IsSharedCurrent)
            call.SignalByWrite();
        else
            call.Signal();
    }

    // Under the control lock. Those who come from here on find the new slot, so the wait ends.
    private void Replace(Slot next)
    {
        var old = _slot;
        _slot = next;
        old.Gate.Shut();
        // The user may have filled the eventfd that it shares, and made it blocking. If it was only slow, what was taken is given back.
        while (!old.Gate.TryWait(StuckInterval))
        {
            if (old.Call is { } call && call.TryRead(out _))
                call.Signal();
        }
    }

    /// <summary>The eventfd of a while, with those who are at it.</summary>
    internal sealed class Slot(EventFd? call, bool isMuted)
    {
        public readonly EventFd? Call = call;
        public readonly bool IsMuted = isMuted;
        public readonly UseGate Gate = new();
    }
}
