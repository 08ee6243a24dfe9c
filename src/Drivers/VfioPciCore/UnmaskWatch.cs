using Virtbus.Platform;

namespace Virtbus.Drivers.VfioPci;

/// <summary>
/// Waits for an eventfd by which a user unmasks its line. Few users do, so each has a thread of its own: the unmasking is a register access, and a
/// function that is elsewhere answers that when it likes.
/// </summary>
internal sealed class UnmaskWatch : IPollWork, IDisposable
{
    private readonly EventFd _signal;
    private readonly PollClient _client;
    private readonly Action _unmask;

    /// <summary>Begins to wait.</summary>
    /// <param name="signal">The eventfd; it belongs to the watch.</param>
    /// <param name="name">Whose line it is.</param>
    /// <param name="unmask">Called on the watch's own thread.</param>
    /// <exception cref="VirtbusException">The host has no descriptor or no thread left; the eventfd is closed.</exception>
    public UnmaskWatch(EventFd signal, string name, Action unmask)
    {
        _signal = signal;
        _unmask = unmask;
        try
        {
            _client = PollThreads.Shared.Attach($"unmask {name}", this, [new PollSource(signal.Descriptor, 0, IsEdge: true)], new PollOptions { OwnThread = true });
        }
        catch
        {
            _signal.Dispose();
            throw;
        }
    }

    /// <summary>Ends the wait; nothing is unmasked after the return.</summary>
    public void Dispose()
    {
        _client.Detach();
        _signal.Dispose();
    }

    bool IPollWork.Work(ulong signals)
    {
        // Read, so that a user who polls the eventfd sees that it was taken; what came before anybody listened counts as well.
        if (!_signal.TryRead(out _))
            return false;
        _unmask();
        return true;
    }

    bool IPollWork.PrepareToSleep() => false;

    void IPollWork.Awake()
    {
    }
}
