using System.Net.Sockets;
using System.Runtime.InteropServices;
using Virtbus.Hardware.Serial;
using Virtbus.Platform;
using Virtbus.Subsystems;

namespace Virtbus.Daemon.Provisioning;

/// <summary>One client's connection with a serial port. It is over when the client has closed and the guest has taken all that it sent.</summary>
internal sealed class SerialLine : ISerialPeer, IAsyncDisposable
{
    private const int BufferSize = 64 << 10;
    private const int ChunkSize = 4 << 10;
    private const int SolSocket = 1;
    private const int SoPeerCredentials = 17;
    private readonly SerialPort _port;
    private readonly Socket _client;
    private readonly CancellationTokenSource _stop = new();
    private readonly SemaphoreSlim _room = new(0);
    private readonly SemaphoreSlim _filled = new(0);
    private readonly Lock _lock = new();
    private readonly byte[] _text = new byte[BufferSize];
    private readonly Task _talk;
    private int _begin;
    private int _count;
    private bool _isRefusing;

    /// <summary>Connects the client.</summary>
    /// <param name="port">The port, to which nobody is connected.</param>
    /// <param name="client">The client; it belongs to the line.</param>
    /// <param name="since">Now.</param>
    public SerialLine(SerialPort port, Socket client, DateTimeOffset since)
    {
        var process = PeerOf(client);
        Connection = new EndpointConnection(process, ProcessName.Of(process), since, 0, 0, 0);
        _port = port;
        _client = client;
        if (!port.TryConnect(this, out var fault))
            throw new InvalidOperationException(fault.Message);
        _talk = TalkAsync(_stop.Token);
    }

    /// <summary>Who is connected. Text has no messages to count.</summary>
    public EndpointConnection Connection { get; }

    /// <summary>Whether the connection has ended.</summary>
    public bool IsOver => _talk.IsCompleted;

    public int Receive(ReadOnlySpan<byte> bytes)
    {
        lock (_lock)
        {
            var taken = Math.Min(bytes.Length, BufferSize - _count);
            var end = (_begin + _count) % BufferSize;
            var first = Math.Min(taken, BufferSize - end);
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

    public async ValueTask DisposeAsync()
    {
        await _stop.CancelAsync();
        await _talk;
    }

    // struct ucred: process, user and group.
    private static int PeerOf(Socket client)
    {
        Span<int> credentials = stackalloc int[3];
        client.GetRawSocketOption(SolSocket, SoPeerCredentials, MemoryMarshal.AsBytes(credentials));
        return credentials[0];
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
        _port.Disconnect(this);
        await over.CancelAsync();
        await sending;
        _client.Dispose();
    }

    private async Task ReceiveAsync(CancellationToken over)
    {
        var buffer = new byte[ChunkSize];
        int count;
        while ((count = await _client.ReceiveAsync(buffer, over)) > 0)
        {
            for (var sent = 0; sent < count;)
            {
                sent += _port.TrySend(buffer.AsSpan(sent, count - sent));
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
                {
                    for (var sent = 0; sent < count;)
                        sent += await _client.SendAsync(chunk.AsMemory(sent, count - sent), over);
                }
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
            var first = Math.Min(taken, BufferSize - _begin);
            _text.AsSpan(_begin, first).CopyTo(chunk);
            _text.AsSpan(0, taken - first).CopyTo(chunk.AsSpan(first));
            _begin = (_begin + taken) % BufferSize;
            _count -= taken;
            resume = _isRefusing && taken > 0;
            _isRefusing &= !resume;
        }
        if (resume)
            _port.Resume();
        return taken;
    }
}
