using System.Net.Sockets;
using Virtbus.Daemon.Clients;
using Virtbus.Hardware.Serial;
using Virtbus.Models.VirtioConsole;
using Virtbus.Platform;
using Virtbus.Subsystems;

namespace Virtbus.Daemon.Provisioning;

/// <summary>One client's connection with a serial port or a console. It is over when the client has closed and the guest has taken all that it sent.</summary>
internal sealed class SerialLine : ISerialPeer, IConsolePeer, IAsyncDisposable
{
    private const int ChunkSize = 4 << 10;
    private readonly ITextPort _port;
    private readonly ClientSocket _client;
    private readonly CancellationTokenSource _stop = new();
    private readonly SemaphoreSlim _room = new(0);
    private readonly SemaphoreSlim _filled = new(0);
    private readonly Lock _lock = new();
    private readonly byte[] _text;
    private Task _talk = Task.CompletedTask;
    private int _begin;
    private int _count;
    private bool _isRefusing;

    private SerialLine(ITextPort port, ClientSocket client, DateTimeOffset since)
    {
        _port = port;
        _text = new byte[port.Backlog];
        _client = client;
        Connection = new EndpointConnection(client.Process, client.ProcessName, since, 0, 0, 0);
    }

    /// <summary>Connects a client.</summary>
    /// <param name="port">The port, to which none is connected.</param>
    /// <param name="client">The client; it belongs to the line, if there is one.</param>
    /// <param name="since">Now.</param>
    /// <param name="line">The line.</param>
    /// <param name="fault">Why there is none: a program of the fabric has the port.</param>
    public static bool TryStart(ITextPort port, ClientSocket client, DateTimeOffset since, out SerialLine? line, out Fault fault)
    {
        line = new SerialLine(port, client, since);
        if (!port.TryConnect(line, out fault))
        {
            line = null;
            return false;
        }

        line._talk = line.TalkAsync(line._stop.Token);
        return true;
    }

    /// <summary>Who is connected. Text has no messages to count.</summary>
    public EndpointConnection Connection { get; }

    /// <summary>Whether the connection has ended.</summary>
    public bool IsOver => _talk.IsCompleted;

    public int Receive(ReadOnlySpan<byte> bytes)
    {
        lock (_lock)
        {
            var taken = Math.Min(bytes.Length, _text.Length - _count);
            var end = (_begin + _count) % _text.Length;
            var first = Math.Min(taken, _text.Length - end);
            bytes[..first].CopyTo(_text.AsSpan(end));
            bytes[first..taken].CopyTo(_text);
            if (_count == 0 && taken > 0)
                _filled.Release();
            _count += taken;
            _isRefusing |= taken < bytes.Length;
            return taken;
        }
    }

    public void CanSend() => _room.Release();

    public void DropUnsent()
    {
        Span<byte> dropped = stackalloc byte[ChunkSize];
        try
        {
            // No more than there is now, or a client that goes on sending would never let it end.
            var left = _client.Available;
            while (left > 0 && _client.Receive(dropped[..Math.Min(left, ChunkSize)], out _) is > 0 and var count)
                left -= count;
        }
        catch (Exception e) when (e is SocketException or ObjectDisposedException)
        {
            // Expected: the client went.
        }
    }

    public async ValueTask DisposeAsync()
    {
        await _stop.CancelAsync();
        await _talk;
    }

    private async Task TalkAsync(CancellationToken stop)
    {
        // Its first step calls the port; who makes the line shall not wait for that.
        await Task.Yield();
        using var over = CancellationTokenSource.CreateLinkedTokenSource(stop);
        var sending = SendAsync(over.Token);
        try
        {
            await ReceiveAsync(over.Token);
        }
        catch (Exception e) when (e is SocketException or OperationCanceledException)
        {
            // Expected: the client went, or another one takes the line over.
        }
        finally
        {
            _port.Disconnect(this);
            await over.CancelAsync();
            await sending;
            _client.Dispose();
        }
    }

    private async Task ReceiveAsync(CancellationToken over)
    {
        var buffer = new byte[ChunkSize];
        while (true)
        {
            await _client.WaitAsync(over);
            // The count of resets has to be that of the moment at which bytes are taken.
            var resets = _port.Resets;
            var count = _client.Receive(buffer, out var error);
            if (error is Errno.EAGAIN)
                continue;
            if (count <= 0)
                return;
            for (var sent = 0; sent < count;)
            {
                sent += _port.TrySend(buffer.AsSpan(sent, count - sent), resets);
                if (sent < count)
                    await _room.WaitAsync(over);
            }
        }
    }

    private async Task SendAsync(CancellationToken over)
    {
        var chunk = new byte[ChunkSize];
        try
        {
            while (true)
            {
                await _filled.WaitAsync(over);
                int count;
                while ((count = Take(chunk)) > 0)
                    await _client.SendAsync(chunk.AsMemory(0, count), over);
            }
        }
        catch (Exception e) when (e is SocketException or OperationCanceledException)
        {
            // Expected: the client went. What it sent before may still be on its way to the guest, so that end is told by reading.
        }
    }

    private int Take(byte[] chunk)
    {
        int taken;
        bool resume;
        lock (_lock)
        {
            taken = Math.Min(_count, chunk.Length);
            var first = Math.Min(taken, _text.Length - _begin);
            _text.AsSpan(_begin, first).CopyTo(chunk);
            _text.AsSpan(0, taken - first).CopyTo(chunk.AsSpan(first));
            _begin = (_begin + taken) % _text.Length;
            _count -= taken;
            resume = _isRefusing && taken > 0;
            _isRefusing &= !resume;
        }
        if (resume)
            _port.Resume();
        return taken;
    }
}
