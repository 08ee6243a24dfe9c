using Virtbus.Platform;

namespace Virtbus.Drivers.NicVdpa;

/// <summary>The way of one queue's notifications to the user's eventfd.</summary>
internal sealed class CallLine
{
    private readonly Lock _gate = new();
    private EventFd? _call;

    /// <summary>Signals the user; on the thread of the queue, or of the adapter's events.</summary>
    internal void Signal()
    {
        lock (_gate)
            _call?.Signal();
    }

    /// <summary>Sets the eventfd; the one before is not used any more when this returns.</summary>
    internal void Set(EventFd? call)
    {
        lock (_gate)
            _call = call;
    }
}
