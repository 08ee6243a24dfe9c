using System.Net.Sockets;
using Microsoft.Extensions.Logging;
using Virtbus.Platform;

namespace Virtbus.Daemon.Clients;

/// <summary>Takes the connections of a socket whose clients send bytes.</summary>
/// <param name="listener">The socket; it stays the caller's, who disposes it after this object.</param>
/// <param name="log">Where it is told that a connection can't be taken.</param>
/// <param name="time">The clock for another try.</param>
internal sealed partial class ClientListener(UnixListener listener, ILogger log, TimeProvider time) : IDisposable
{
    private const int LinesPerSpan = 4;
    private static readonly TimeSpan LineSpan = TimeSpan.FromMinutes(1);
    private static readonly TimeSpan AcceptRetry = TimeSpan.FromSeconds(1);
    private readonly LogLimiter _limiter = new(time, LinesPerSpan, LineSpan);

    // The listener owns the descriptor and sees to the file; the socket only waits on it.
    private readonly Socket _socket = new(new SafeSocketHandle(listener.Descriptor.Number, ownsHandle: false));

    /// <summary>Takes the next connection; tries again when the host does not let it.</summary>
    /// <param name="stop">Ends the wait.</param>
    public async Task<ClientSocket> AcceptAsync(CancellationToken stop)
    {
        while (true)
        {
            Socket? socket = null;
            string reason;
            try
            {
                if (!listener.Peers.IsFull)
                {
                    socket = await _socket.AcceptAsync(stop);
                    return new ClientSocket(socket, listener.Peers);
                }

                // Even to turn one away takes a descriptor, for as long as the close of what it sent takes.
                reason = "its clients sent descriptors, as many as they may, whose close waits";
            }
            catch (Exception e) when (e is SocketException or VirtbusException)
            {
                // No descriptor left, for one: the next client waits.
                socket?.Dispose();
                reason = e.Message;
            }

            if (_limiter.TryTake(out _))
                AcceptFailed(log, listener.Path, reason);
            await Task.Delay(AcceptRetry, time, stop);
        }
    }

    public void Dispose() => _socket.Dispose();

    [LoggerMessage(621, LogLevel.Warning, "{Path} can't take a client: {Reason}; it is tried again")]
    private static partial void AcceptFailed(ILogger log, string path, string reason);
}
