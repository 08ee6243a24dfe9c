using Virtbus.Platform;

namespace Virtbus.Remote.Pci;

/// <summary>
/// A set of eventfds that is one client of the poll threads, however many they are. Each signal is told once, so that nothing has to be read. Add and
/// remove from any thread.
/// </summary>
internal sealed class RemoteSignals : IPollWork, IDisposable
{
    private const int Batch = 8;

    private readonly Epoll _set = new();
    private readonly Action<ulong> _signalled;
    private readonly PollClient _client;

    /// <summary>Makes an empty set.</summary>
    /// <param name="name">What it is called.</param>
    /// <param name="mayWait">Whether what is done on a signal may wait for a peer: then it has a thread of its own, so that nobody waits with it.</param>
    /// <param name="signalled">Told of a signal by its token.</param>
    /// <exception cref="VirtbusException">The host has no descriptor or no thread left.</exception>
    internal RemoteSignals(string name, bool mayWait, Action<ulong> signalled)
    {
        _signalled = signalled;
        try
        {
            // As long as a signal is not taken, the set is readable.
            _client = PollThreads.Shared.Attach(name, this, [new PollSource(_set.Descriptor, 0, IsEdge: false)], new PollOptions { OwnThread = mayWait });
        }
        catch
        {
            _set.Dispose();
            throw;
        }
    }

    /// <summary>Takes nothing more. When it returns, nothing is told any more, but by the call that this is made in.</summary>
    public void Dispose()
    {
        _client.Detach();
        _set.Dispose();
    }

    internal void Add(EventFd signal, ulong token) => _set.Add(signal.Descriptor, token, edge: true);

    internal void Remove(EventFd signal) => _set.Remove(signal.Descriptor);

    bool IPollWork.Work(ulong signals)
    {
        Span<ulong> tokens = stackalloc ulong[Batch];
        var count = _set.Wait(tokens, 0);
        foreach (var token in tokens[..count])
            _signalled(token);
        return count == Batch;
    }

    bool IPollWork.PrepareToSleep() => false;

    void IPollWork.Awake()
    {
    }
}
