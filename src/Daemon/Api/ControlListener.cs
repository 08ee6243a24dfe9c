using System.Net;
using Microsoft.AspNetCore.Connections;
using Microsoft.Extensions.Logging;
using Virtbus.Daemon.Clients;
using Virtbus.Platform;

namespace Virtbus.Daemon.Api;

/// <summary>
/// The HTTP server's way to the control socket. The server's own lets the kernel close descriptors that come with a request on the thread that reads
/// it, often the one that takes connections, and such a close may wait.
/// </summary>
internal sealed partial class ControlListener : IConnectionListenerFactory, IConnectionListener
{
    private const int LinesPerSpan = 4;
    private static readonly TimeSpan LineSpan = TimeSpan.FromMinutes(1);
    private readonly ClientListener _clients;
    // At the limit of descriptors the runtime starts no thread any more, and ends. Each connection has two of them. One that is closed by its client
    // counts until that is noticed.
    private readonly int _mostConnections = Math.Max(Math.Min(PeerDescriptors.Reserve, PeerDescriptors.Ceiling / 3) / 2, PeerDescriptors.Ceiling / 8) / 2;
    private readonly string _path;
    private readonly ILogger _log;
    private readonly LogLimiter _limiter;
    private readonly CancellationTokenSource _unbound = new();
    private int _open;
    private long _taken;

    /// <param name="socket">The socket; it stays the caller's, and outlives this object.</param>
    /// <param name="log">Where it tells of connections that it closes.</param>
    /// <param name="time">The clock.</param>
    public ControlListener(UnixListener socket, ILogger log, TimeProvider time)
    {
        _clients = new ClientListener(socket, log, time);
        _path = socket.Path;
        _log = log;
        _limiter = new LogLimiter(time, LinesPerSpan, LineSpan);
    }

    /// <inheritdoc/>
    public EndPoint EndPoint { get; private set; } = new IPEndPoint(IPAddress.None, 0);

    /// <summary>Begins to listen.</summary>
    /// <param name="endpoint">What the server calls the socket.</param>
    /// <param name="cancellationToken">Not used: it does not wait.</param>
    public ValueTask<IConnectionListener> BindAsync(EndPoint endpoint, CancellationToken cancellationToken = default)
    {
        EndPoint = endpoint;
        return new ValueTask<IConnectionListener>(this);
    }

    /// <summary>Takes the next connection. One above the bound is closed at once.</summary>
    /// <param name="cancellationToken">Not used: <see cref="UnbindAsync"/> ends the wait.</param>
    /// <returns>The connection; null when no more is taken.</returns>
    public async ValueTask<ConnectionContext?> AcceptAsync(CancellationToken cancellationToken = default)
    {
        try
        {
            while (true)
            {
                var client = await _clients.AcceptAsync(_unbound.Token);
                if (Interlocked.Increment(ref _open) <= _mostConnections)
                    return new ControlConnection(client, $"control {++_taken}", () => Interlocked.Decrement(ref _open));
                Interlocked.Decrement(ref _open);
                client.Dispose();
                if (_limiter.TryTake(out var before))
                    TooMany(_log, _path, _mostConnections, before);
            }
        }
        catch (OperationCanceledException) when (_unbound.IsCancellationRequested)
        {
            return null;
        }
    }

    /// <summary>Takes no more connections.</summary>
    /// <param name="cancellationToken">Not used: it does not wait.</param>
    public async ValueTask UnbindAsync(CancellationToken cancellationToken = default) => await _unbound.CancelAsync();

    /// <inheritdoc/>
    public async ValueTask DisposeAsync()
    {
        await _unbound.CancelAsync();
        _clients.Dispose();
    }

    [LoggerMessage(502, LogLevel.Warning, "{Path} has {Most} connections, as many as it may; one more was closed, and {Before} before that were not told of")]
    private static partial void TooMany(ILogger log, string path, int most, long before);
}
