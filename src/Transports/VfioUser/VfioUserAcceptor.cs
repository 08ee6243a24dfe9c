using System.Collections.Concurrent;
using Virtbus.Platform;

namespace Virtbus.Transports.VfioUser;

/// <summary>
/// One thread that waits for connections on the sockets of any number of servers, so that a device that nobody has open costs no thread.
/// It ends with its last server.
/// </summary>
internal sealed class VfioUserAcceptor : IDisposable
{
    private const ulong WakeToken = 0;

    private readonly Epoll _epoll = new();
    private readonly EventFd _wake = new();
    private readonly ConcurrentDictionary<ulong, Action> _callbacks = new();
    private readonly ManualResetEventSlim _ended = new(initialState: false);
    private ulong _lastToken;
    private volatile bool _stopping;

    /// <exception cref="VirtbusException">The host has no descriptor or no thread left.</exception>
    internal VfioUserAcceptor()
    {
        try
        {
            _epoll.Add(_wake.Descriptor, WakeToken, edge: true);
            ServiceThread.Start("vfio-user accept", Run, 256 << 10);
        }
        catch
        {
            _ended.Dispose();
            _epoll.Dispose();
            _wake.Dispose();
            throw;
        }
    }

    /// <summary>Names a server, before its socket is watched.</summary>
    /// <param name="ready">Called on the acceptor's thread when a connection waits. It must not block.</param>
    internal ulong Register(Action ready)
    {
        var token = Interlocked.Increment(ref _lastToken);
        _callbacks[token] = ready;
        return token;
    }

    /// <summary>Begins to wait for a connection on a socket, or does so again.</summary>
    /// <exception cref="VirtbusException">The host does not take it (ENOMEM, ENOSPC).</exception>
    internal void Watch(ulong token, FileDescriptor descriptor) => _epoll.Add(descriptor, token, edge: false);

    /// <summary>Waits no longer.</summary>
    internal void Unwatch(FileDescriptor descriptor) => _epoll.Remove(descriptor);

    internal void Unregister(ulong token) => _callbacks.TryRemove(token, out _);

    public void Dispose()
    {
        _stopping = true;
        _wake.Signal();
        _ended.Wait();
        _ended.Dispose();
        _epoll.Dispose();
        _wake.Dispose();
    }

    private void Run()
    {
        Span<ulong> tokens = stackalloc ulong[8];
        while (!_stopping)
        {
            var count = _epoll.Wait(tokens, Timeout.Infinite);
            foreach (var token in tokens[..count])
            {
                // What fails for one server is that server's; the others' connections are taken all the same.
                if (_callbacks.TryGetValue(token, out var ready))
                    ServiceThread.Guard("vfio-user accept", ready);
            }
        }

        _ended.Set();
    }
}
