using System.Net.Sockets;
using System.Runtime.InteropServices;

namespace Virtbus.Vm;

/// <summary>Waits for QEMU to connect a virtio port. The socket's name is abstract and random, so no file can be left behind.</summary>
internal sealed class PortListener : IDisposable
{
    private const int SolSocket = 1;
    private const int SoPeerCredentials = 17;

    private readonly Socket _listener = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);

    /// <summary>Listens.</summary>
    /// <param name="name">The abstract name, without the NUL in front.</param>
    public PortListener(string name)
    {
        _listener.Bind(new UnixDomainSocketEndPoint($"\0{name}"));
        _listener.Listen();
    }

    /// <summary>Takes the connection of the given process. Others may find the name; they are turned away.</summary>
    public async Task<NetworkStream> AcceptAsync(int processId, CancellationToken cancellation)
    {
        while (true)
        {
            Socket socket = await _listener.AcceptAsync(cancellation);
            if (PeerOf(socket) == processId)
                return new NetworkStream(socket, ownsSocket: true);
            socket.Dispose();
        }
    }

    /// <inheritdoc/>
    public void Dispose() => _listener.Dispose();

    // struct ucred: pid, uid, gid.
    private static int PeerOf(Socket socket)
    {
        Span<int> credentials = stackalloc int[3];
        socket.GetRawSocketOption(SolSocket, SoPeerCredentials, MemoryMarshal.AsBytes(credentials));
        return credentials[0];
    }
}
