using System.Net.Sockets;
using System.Text;
using Microsoft.Extensions.Logging;
using Virtbus.Daemon.Clients;
using Virtbus.Platform;
using Virtbus.Subsystems;

namespace Virtbus.Daemon.Provisioning;

/// <summary>
/// The far end of a serial port or a console: a Unix socket that carries the text both ways. One client at a time; a newer one takes the line over, as when
/// somebody else sits down at a terminal. What the guest says while nobody is there is lost.
/// </summary>
internal sealed class SerialConsole : IDeviceEndpoint, IAsyncDisposable
{
    private readonly ITextPort _port;
    private readonly TimeProvider _time;
    private readonly UnixListener _listener;
    private readonly ClientListener _clients;
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
        _time = time;
        _listener = UnixListener.Listen(path);
        _clients = new ClientListener(_listener, log, time);
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
        _clients.Dispose();
        _listener.Dispose();
    }

    // It is a person, who reads it.
    private static async Task RefuseAsync(ClientSocket client, Fault fault, CancellationToken stop)
    {
        try
        {
            await client.SendAsync(Encoding.UTF8.GetBytes(fault.Message + "\r\n"), stop);
        }
        catch (SocketException)
        {
            // Expected: the client went.
        }
        finally
        {
            client.Dispose();
        }
    }

    private async Task ServeAsync(CancellationToken stop)
    {
        try
        {
            while (true)
            {
                var client = await _clients.AcceptAsync(stop);
                if (_line is { } before)
                    await before.DisposeAsync();
                if (SerialLine.TryStart(_port, client, _time.GetUtcNow(), out var line, out var fault))
                {
                    Volatile.Write(ref _line, line);
                    Interlocked.Increment(ref _connections);
                    continue;
                }

                await RefuseAsync(client, fault, stop);
            }
        }
        catch (OperationCanceledException)
        {
            // Expected: the port goes.
            if (_line is { } last)
                await last.DisposeAsync();
        }
    }
}
