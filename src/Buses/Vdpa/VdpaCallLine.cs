using Virtbus.Platform;

namespace Virtbus.Buses.Vdpa;

/// <summary>
/// The way of one queue's notifications to the user's eventfd. The user shares that eventfd, and can fill it and make it blocking; then a
/// write to it hangs, until it is read. The queue's own thread may: whoever wants to exchange the eventfd, or to stop that queue, reads it
/// meanwhile.
/// </summary>
/// <param name="isShared">Whether who signals works for others too, and so may not hang.</param>
public sealed class VdpaCallLine(bool isShared)
{
    private const int StuckInterval = 100;
    private readonly Lock _gate = new();
    private EventFd? _call;
    private int _muted;
    private bool _isPending;

    /// <summary>Signals the user; on the queue's thread, or when it is shared on that of who works for others too.</summary>
    public void Signal()
    {
        lock (_gate)
        {
            if (_muted > 0)
                _isPending = true;
            else if (isShared)
                _call?.Signal();
            else
                _call?.SignalByWrite();
        }
    }

    /// <summary>Sets the eventfd; the one before is not used any more when this returns.</summary>
    /// <param name="call">The eventfd, which stays the caller's; null for none.</param>
    public void Set(EventFd? call)
    {
        Enter();
        _call = call;
        _gate.Exit();
    }

    /// <summary>Keeps notifications back, so that the queue's thread never hangs in one. As often as it is called <see cref="Unmute"/> has to be.</summary>
    public void Mute()
    {
        Enter();
        _muted++;
        _gate.Exit();
    }

    /// <summary>Lets notifications through again, the one that was kept back first.</summary>
    public void Unmute()
    {
        lock (_gate)
        {
            if (--_muted > 0 || !_isPending)
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
