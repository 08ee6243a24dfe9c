using Virtbus.Platform;
using Virtbus.Wire.VfioUser;

namespace Virtbus.Remote.Pci.VfioUser;

/// <summary>
/// Watches over a client's connection: serves the server's requests for memory, notices that it is gone, and ends the connection when an answer is late.
/// </summary>
/// <remarks>
/// It keeps a thread of its own, because it waits for the peer: it sends answers for which the server may leave no room, stands behind callers who read
/// the socket for all, and reaches memory that may be another process's. On a poll thread everybody there would wait with it, the server's own queue
/// perhaps, if that is in this process.
/// </remarks>
internal sealed class VfioUserWatch(VfioUserChannel channel, TimeSpan patience, Action? lost) : IDisposable
{
    private const ulong SocketToken = 1;
    private const ulong TwinToken = 2;
    private const ulong WakeToken = 3;
    private const int TickMilliseconds = 1000;

    private readonly EventFd _wake = new();
    private readonly Epoll _epoll = new();
    private readonly ManualResetEventSlim _ended = new(initialState: true);
    private VfioUserChannel? _twin;
    private volatile bool _isStopping;

    /// <summary>Begins, with the clock only; once.</summary>
    /// <exception cref="VirtbusException">The host has no thread left.</exception>
    internal void Start()
    {
        _epoll.Add(_wake.Descriptor, WakeToken, edge: true);
        _ended.Reset();
        try
        {
            ServiceThread.Start("vfio-user client", Run, 256 << 10);
        }
        catch
        {
            _ended.Set();
            throw;
        }
    }

    /// <summary>Serves the requests on the second socket too.</summary>
    internal void AddTwin(VfioUserChannel twin)
    {
        Volatile.Write(ref _twin, twin);
        _epoll.Add(twin.Descriptor, TwinToken, edge: false);
    }

    /// <summary>Looks at the first socket too: for requests between the answers, or only for its end when none come there.</summary>
    internal void AddSocket(bool hasRequests) => _epoll.Add(channel.Descriptor, SocketToken, edge: false, onlyHangUp: !hasRequests);

    /// <summary>Ends the watch. The channel is closed already. Not from the watch's own callback.</summary>
    internal void Stop()
    {
        _isStopping = true;
        _wake.Signal();
        _ended.Wait();
    }

    public void Dispose()
    {
        _epoll.Dispose();
        _wake.Dispose();
        _ended.Dispose();
    }

    private void Run()
    {
        try
        {
            RunUntilClosed();
        }
        catch (Exception e)
        {
            // Without a watch nobody would answer the server or notice that it is gone.
            var reason = new Fault(Errno.EIO, e.Message);
            channel.Close(reason);
            _twin?.Close(reason);
            throw;
        }
        finally
        {
            _twin?.Close(channel.End);
            if (!_isStopping && lost is not null)
                ServiceThread.Guard("vfio-user client", lost);
            _ended.Set();
        }
    }

    private void RunUntilClosed()
    {
        Span<ulong> tokens = stackalloc ulong[4];
        var milliseconds = (long)patience.TotalMilliseconds;
        while (!_isStopping && !channel.IsClosed)
        {
            var count = _epoll.Wait(tokens, TickMilliseconds);
            foreach (var token in tokens[..count])
            {
                // What the server asks for is answered here, and it may leave no room for the answers: not beyond the end of a call's time.
                var deadline = Math.Min(Environment.TickCount64, channel.OldestCall()) + milliseconds;
                if (token == SocketToken)
                    channel.Poll(deadline);
                else if (token == TwinToken)
                    _twin!.Poll(deadline);
            }

            // Without the second socket the device cannot reach memory any more.
            if (_twin is { IsClosed: true } twin)
                channel.Close(twin.End);
            if (Environment.TickCount64 - channel.OldestCall() > milliseconds)
                channel.Close(new Fault(Errno.ETIMEDOUT, "the server does not answer"));
        }
    }
}
