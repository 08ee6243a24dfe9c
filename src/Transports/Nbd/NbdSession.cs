using Virtbus.Platform;

namespace Virtbus.Transports.Nbd;

/// <summary>One connection of a client, from its connect to its going: the handshake, then requests. On a thread of its own.</summary>
internal sealed class NbdSession : IPeerSession
{
    private readonly NbdServer _server;
    private readonly UnixStream _stream;
    private readonly Lock _lock = new();
    private volatile NbdExport? _export;
    private string? _closed;
    private bool _isDisposed;

    internal NbdSession(NbdServer server, UnixStream stream, ConnectedPeer peer)
    {
        _server = server;
        _stream = stream;
        Peer = peer;
    }

    internal ConnectedPeer Peer { get; }

    /// <summary>Whether it was ended from outside.</summary>
    internal bool IsClosed => Volatile.Read(ref _closed) is not null;

    public string Run()
    {
        var stream = new NbdStream(_stream);
        NbdChoice? choice;
        // Who never ends the handshake gives its place to another one.
        using (_server.Time.CreateTimer(static s => ((NbdSession)s!).Close(new Fault(Errno.ETIMEDOUT, "it did not end the handshake in time")), this, _server.HandshakeTime, Timeout.InfiniteTimeSpan))
            choice = new NbdHandshake(_server, this, stream).Run();
        if (choice is null)
            return ReasonOf(stream);
        _export = choice.Export;
        try
        {
            if (stream.Ended is null)
            {
                using var transmission = new NbdTransmission(this, stream, choice);
                transmission.Run();
            }

            return ReasonOf(stream);
        }
        finally
        {
            choice.Export.Leave(this);
        }
    }

    public void Close(Fault reason)
    {
        lock (_lock)
        {
            if (_isDisposed)
                return;
            _closed ??= reason.Message;
            _stream.Shutdown();
        }
    }

    public void Dispose()
    {
        lock (_lock)
            _isDisposed = true;
    }

    /// <summary>The client sent what the protocol does not allow.</summary>
    internal void CountBadMessage()
    {
        Peer.CountBadMessage();
        _server.CountBadMessage();
        _export?.CountBadMessage();
    }

    private string ReasonOf(NbdStream stream)
    {
        lock (_lock)
            return _closed ?? stream.Ended ?? "it closed the connection";
    }
}
