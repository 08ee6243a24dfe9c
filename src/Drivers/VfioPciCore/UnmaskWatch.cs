using Virtbus.Platform;

namespace Virtbus.Drivers.VfioPci;

/// <summary>Waits on an eventfd by which a user unmasks its line. Few users do, so each has a thread of its own that sleeps in poll.</summary>
internal sealed class UnmaskWatch : IDisposable
{
    private readonly EventFd _signal;
    private readonly EventFd _end = new();
    private readonly ServiceThread _thread;
    private readonly Action _unmask;

    /// <summary>Begins to wait.</summary>
    /// <param name="signal">The eventfd; it belongs to the watch.</param>
    /// <param name="name">For the thread's name.</param>
    /// <param name="unmask">Called on the watch's thread.</param>
    /// <exception cref="VirtbusException">The host has no descriptor or no thread left; the eventfd is closed.</exception>
    public UnmaskWatch(EventFd signal, string name, Action unmask)
    {
        _signal = signal;
        _unmask = unmask;
        try
        {
            _thread = ServiceThread.Start($"unmask {name}", Run);
        }
        catch
        {
            _signal.Dispose();
            _end.Dispose();
            throw;
        }
    }

    /// <summary>Ends the wait; nothing is unmasked after the return.</summary>
    public void Dispose()
    {
        _end.Signal();
        _thread.Join();
        _signal.Dispose();
        _end.Dispose();
    }

    private void Run()
    {
        while (Polling.Wait(_signal.Descriptor, forWriting: false, _end))
        {
            if (_signal.TryRead(out _))
                _unmask();
        }
    }
}
