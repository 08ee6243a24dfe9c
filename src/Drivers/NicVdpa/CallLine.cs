using Virtbus.Platform;

namespace Virtbus.Drivers.NicVdpa;

/// <summary>
/// The way of one queue's notifications to the user's eventfd. The user shares that eventfd, and can fill it and make it blocking; then a
/// write to it hangs, until it is read. A queue's own thread may: whoever wants to exchange the eventfd, or to stop that queue, reads it
/// meanwhile. A thread that works for others too may not.
/// </summary>
/// <param name="isShared">Whether who signals is known to work for others too; else the calling thread is asked.</param>
internal sealed class CallLine(bool isShared)
{
    private const int StuckInterval = 100;
    private readonly Lock _gate = new();
    private EventFd? _call;
    private bool _isMuted;
    private bool _isPending;

    /// <summary>Signals the user; on the queue's thread, or on that of the adapter's events when it is shared.</summary>
    internal void Signal()
    {
        lock (_gate)
        {
            if (_isMuted)
                _isPending = true;
            else if (isShared || PollThread.IsSharedCurrent)
                _call?.Signal();
            else
                _call?.SignalByWrite();
        }
    }

    /// <summary>Sets the eventfd; the one before is not used any more when this returns.</summary>
    internal void Set(EventFd? call)
    {
        Enter();
        _call = call;
        _gate.Exit();
    }

    /// <summary>Keeps notifications back, so that the queue's thread never hangs in one.</summary>
    internal void Mute()
    {
        Enter();
        _isMuted = true;
        _gate.Exit();
    }

    /// <summary>Lets notifications through again, the one that was kept back first.</summary>
    internal void Unmute()
    {
        lock (_gate)
        {
            _isMuted = false;
            if (!_isPending)
                return;
            _isPending = false;
            // Emptied first: with room in it a signal does not wait.
            _call?.TryRead(out _);
            _call?.Signal();
        }
    }

    private void Enter()
    {
        while (!_gate.TryEnter(StuckInterval))
            Volatile.Read(ref _call)?.TryRead(out _);
    }
}
