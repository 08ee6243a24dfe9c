using System.Net.Sockets;
using Microsoft.Extensions.Logging;
using Virtbus.Platform;
using Virtbus.Subsystems;

namespace Virtbus.Daemon.Provisioning;

/// <summary>
/// The far end of a serial port or a console: a Unix socket that carries the text both ways. One client at a time; a newer one takes the line over, as when
/// somebody else sits down at a terminal. What the guest says while nobody is there is lost.
/// </summary>
internal sealed partial class SerialConsole : IDeviceEndpoint, IAsyncDisposable
{
    private static readonly TimeSpan AcceptRetry = TimeSpan.FromSeconds(1);
    private readonly ITextPort _port;
    private readonly ILogger _log;
    private readonly TimeProvider _time;
    private readonly UnixListener _listener;
    private readonly Socket _socket;
    private readonly CancellationTokenSource _stop = new();
    private readonly Task _serving;
    private SerialLine? _line;
    private long _connections;

    /// <summary>Opens the socket.</summary>
    /// <param name="port">The port.</param>
    /// <param name="path">The socket's path.</param>
    /// <param name="log">Where it tells that it can't accept a client.</param>
    /// <param name="time">The clock.</param>
    /// <exception cref="VirtbusException">As <see cref="UnixListener.Listen"/>.</exception>
    public SerialConsole(ITextPort port, string path, ILogger log, TimeProvider time)
    {
        _port = port;
        _log = log;
        _time = time;
        _listener = UnixListener.Listen(path);
        // The listener owns the descriptor and sees to the file; the socket only waits on it.
        _socket = new Socket(new SafeSocketHandle(_listener.Descriptor.Number, ownsHandle: false));
        _serving = ServeAsync(_stop.Token);
    }

    /// <summary>The socket's path.</summary>
    public string Path => _listener.Path;

    /// <summary>Whether a client is there.</summary>
    public bool IsConnected => Connection is not null;

    /// <inheritdoc/>
    public EndpointConnection? Connection => Volatile.Read(ref _line) is { IsOver: false } line ? line.Connection : null;

    /// <inheritdoc/>
    public long Connections => Interlocked.Read(ref _connections);

    /// <summary>0: text is never wrong.</summary>
    public long BadMessages => 0;

    /// <summary>None: text is never wrong.</summary>
    public string? Hint => null;

    public async ValueTask DisposeAsync()
    {
        await _stop.CancelAsync();
        await _serving;
        _socket.Dispose();
        _listener.Dispose();
    }

    private async Task ServeAsync(CancellationToken stop)
    {
        try
        {
            while (true)
            {
                var client = await AcceptAsync(stop);
                if (_line is { } before)
                    await before.DisposeAsync();
                try
                {
                    Volatile.Write(ref _line, new SerialLine(_port, client, _listener.Peers, _time.GetUtcNow()));
                    Interlocked.Increment(ref _connections);
                }
                catch (VirtbusException e)
                {
                    client.Dispose();
                    AcceptFailed(_log, Path, e.Message);
                    await Task.Delay(AcceptRetry, _time, stop);
                }
            }
        }
        catch (OperationCanceledException)
        {
            // Expected: the port goes.
            if (_line is { } last)
                await last.DisposeAsync();
        }
    }

    private async Task<Socket> AcceptAsync(CancellationToken stop)
    {
        while (true)
        {
            try
            {
                return await _socket.AcceptAsync(stop);
            }
            catch (SocketException e)
            {
                // No descriptor left, for one: the client waits.
                AcceptFailed(_log, Path, e.Message);
                await Task.Delay(AcceptRetry, _time, stop);
            }
        }
    }

    [LoggerMessage(621, LogLevel.Warning, "{Path} can't take a client: {Reason}; it is tried again")]
    private static partial void AcceptFailed(ILogger log, string path, string reason);
}
