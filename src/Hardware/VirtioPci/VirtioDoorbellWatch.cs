using Virtbus.Platform;

namespace Virtbus.Hardware.VirtioPci;

/// <summary>Listens on a poll thread to eventfds of an old driver whose queues do not run.</summary>
internal sealed class VirtioDoorbellWatch : IPollWork, IDisposable
{
    private readonly EventFd?[] _signals;
    private readonly Action<VirtioDoorbellWatch, int> _notify;
    private readonly string _name;
    private readonly PollClient _client;

    /// <summary>Begins to listen.</summary>
    /// <param name="device">The device's name.</param>
    /// <param name="signals">The eventfds by queue, as they are now; open until this is disposed.</param>
    /// <param name="notify">Told which queue, on a thread of the pool: it may wait.</param>
    /// <exception cref="VirtbusException">The host has no room for it.</exception>
    internal VirtioDoorbellWatch(string device, EventFd?[] signals, Action<VirtioDoorbellWatch, int> notify)
    {
        (_name, _signals, _notify) = (device + "-doorbells", [.. signals], notify);
        _client = PollThreads.Shared.Attach(_name, this, [.. _signals.OfType<EventFd>().Select(static s => new PollSource(s.Descriptor, 0, IsEdge: true))], default);
    }

    /// <summary>Ends it. What it has told may come still.</summary>
    public void Dispose() => _client.Detach();

    bool IPollWork.Work(ulong signals)
    {
        for (var i = 0; i < _signals.Length; i++)
        {
            var queue = i;
            if (_signals[i] is { } signal && signal.TryRead(out _))
                ThreadPool.UnsafeQueueUserWorkItem(_ => ServiceThread.Guard(_name, () => _notify(this, queue)), null);
        }

        return false;
    }

    bool IPollWork.PrepareToSleep() => false;

    void IPollWork.Awake()
    {
    }
}
