using System.IO.Pipelines;
using System.Net.Sockets;
using Microsoft.AspNetCore.Connections;
using Virtbus.Daemon.Clients;
using Virtbus.Platform;

namespace Virtbus.Daemon.Api;

/// <summary>One client's connection with the control interface, as the HTTP server wants it: two pipes, with the client's socket behind them.</summary>
internal sealed class ControlConnection : DefaultConnectionContext
{
    private const int ChunkSize = 4 << 10;
    private readonly ClientSocket _client;
    private readonly Action _closed;
    private readonly Pipe _requests = new(PipeOptions.Default);
    private readonly Pipe _answers = new(PipeOptions.Default);
    private readonly CancellationTokenSource _over = new();
    private readonly Task _receiving;
    private readonly Task _sending;

    /// <param name="client">The client; it belongs to the connection.</param>
    /// <param name="id">What the server calls the connection.</param>
    /// <param name="closed">Called once, when it is over.</param>
    public ControlConnection(ClientSocket client, string id, Action closed)
        : base(id)
    {
        _client = client;
        _closed = closed;
        Transport = new Ends(_requests.Reader, _answers.Writer);
        ConnectionClosed = _over.Token;
        _receiving = ReceiveAsync();
        _sending = SendAsync();
    }

    /// <inheritdoc/>
    public override void Abort(ConnectionAbortedException abortReason)
    {
        _client.Shutdown();
        _answers.Reader.CancelPendingRead();
    }

    /// <summary>Sends what the server has written, and closes.</summary>
    public override async ValueTask DisposeAsync()
    {
        await _requests.Reader.CompleteAsync();
        await _answers.Writer.CompleteAsync();
        await _sending;
        await _receiving;
        _client.Dispose();
        _over.Dispose();
        _closed();
        await base.DisposeAsync();
    }

    private async Task ReceiveAsync()
    {
        Exception? error = null;
        try
        {
            while (true)
            {
                await _client.WaitAsync(CancellationToken.None);
                var count = _client.Receive(_requests.Writer.GetSpan(ChunkSize), out var errno);
                if (errno == Errno.EAGAIN)
                    continue;
                if (count <= 0)
                    break;
                _requests.Writer.Advance(count);
                if (await _requests.Writer.FlushAsync() is not { IsCanceled: false, IsCompleted: false })
                    break;
            }
        }
        catch (SocketException e)
        {
            error = new ConnectionResetException(e.Message, e);
        }
        await _requests.Writer.CompleteAsync(error);
        // Whatever is done for the client can end: nobody waits for the answer.
        await _over.CancelAsync();
    }

    private async Task SendAsync()
    {
        try
        {
            while (true)
            {
                var read = await _answers.Reader.ReadAsync();
                if (read.IsCanceled)
                    break;
                foreach (var part in read.Buffer)
                    await _client.SendAsync(part, CancellationToken.None);
                _answers.Reader.AdvanceTo(read.Buffer.End);
                if (read.IsCompleted)
                    break;
            }
        }
        catch (SocketException)
        {
            // Expected: the client went. The end of what it sends tells the server.
        }
        await _answers.Reader.CompleteAsync();
        // Who receives goes on, though it may wait for the server to read on.
        _client.Shutdown();
        _requests.Writer.CancelPendingFlush();
    }

    private sealed record Ends(PipeReader Input, PipeWriter Output) : IDuplexPipe;
}
