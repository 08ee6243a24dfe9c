using System.Net.Sockets;
using Virtbus.Platform;

namespace Virtbus.Daemon.Clients;

/// <summary>
/// A client's connection that carries bytes. Descriptors that come along are let go of, and nobody waits for their close: the runtime's own receive
/// would have the kernel close them on the thread that receives, and a peer chooses how long that takes. One thread waits and one sends at a time; any may receive.
/// </summary>
internal sealed class ClientSocket : IDisposable
{
    private readonly Socket _socket;
    private readonly UnixStream _stream;
    private readonly PeerDescriptors _peers;

    /// <param name="socket">The connection, which belongs to this object then.</param>
    /// <param name="peers">Among whose descriptors those count that the client sends.</param>
    /// <exception cref="VirtbusException">EMFILE: the process has no descriptor left; the connection stays the caller's.</exception>
    public ClientSocket(Socket socket, PeerDescriptors peers)
    {
        _stream = UnixStream.Duplicate(socket.SafeHandle, peers);
        _socket = socket;
        _peers = peers;
    }

    /// <summary>The process that connected; 0 when it is not known.</summary>
    public int Process => _stream.PeerProcess;

    /// <summary>That process's name.</summary>
    public string ProcessName => PeerProcess.NameOf(_stream);

    /// <summary>How many bytes wait to be received.</summary>
    /// <exception cref="SocketException">The client went.</exception>
    public int Available => _socket.Available;

    /// <summary>Waits until there is something to receive, or the connection is over.</summary>
    /// <param name="stop">Ends the wait.</param>
    /// <exception cref="SocketException">The client went.</exception>
    public async ValueTask WaitAsync(CancellationToken stop) => await _socket.ReceiveAsync(Memory<byte>.Empty, stop);

    /// <summary>Receives what is there.</summary>
    /// <param name="buffer">Where the bytes go.</param>
    /// <param name="error">
    /// The errno when the answer is negative: EAGAIN when there is nothing; EMFILE when the socket's clients have as many descriptors as they may, or sent
    /// more with the bytes, which are lost.
    /// </param>
    /// <returns>Bytes received, 0 at the end, or -1.</returns>
    public int Receive(Span<byte> buffer, out Errno error)
    {
        error = Errno.EMFILE;
        if (_peers.IsFull)
            return -1;
        var descriptors = new List<FileDescriptor>();
        var count = _stream.Receive(buffer, descriptors, out error);
        foreach (var descriptor in descriptors)
            descriptor.Dispose();
        return count;
    }

    /// <summary>Sends all of some bytes.</summary>
    /// <param name="bytes">The bytes.</param>
    /// <param name="stop">Ends the wait for room.</param>
    /// <exception cref="SocketException">The client went.</exception>
    public async ValueTask SendAsync(ReadOnlyMemory<byte> bytes, CancellationToken stop)
    {
        while (!bytes.IsEmpty)
            bytes = bytes[await _socket.SendAsync(bytes, stop)..];
    }

    /// <summary>Ends the connection both ways: who waits on it goes on. Safe from any thread.</summary>
    public void Shutdown() => _stream.Shutdown();

    public void Dispose()
    {
        // The stream last: its close is the one that counts, and it waits for nothing.
        _socket.Dispose();
        _stream.Dispose();
    }
}
