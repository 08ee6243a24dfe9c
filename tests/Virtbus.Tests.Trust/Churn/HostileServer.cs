using System.Net.Sockets;
using System.Text;

namespace Virtbus.Tests.Trust;

/// <summary>A server of vfio-user that answers whoever connects with what makes no sense, or not at all.</summary>
internal sealed class HostileServer : IDisposable
{
    private readonly Socket _listener = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
    private readonly Random _random;
    private readonly Thread _thread;

    public HostileServer(string path, Random random)
    {
        Path = path;
        _random = random;
        _listener.Bind(new UnixDomainSocketEndPoint(path));
        _listener.Listen(4);
        _thread = new Thread(Serve) { IsBackground = true, Name = "hostile server" };
        _thread.Start();
    }

    /// <summary>Path of its socket.</summary>
    public string Path { get; }

    public void Dispose()
    {
        _listener.Dispose();
        _thread.Ends("the hostile server");
        File.Delete(Path);
    }

    private void Serve()
    {
        while (true)
        {
            try
            {
                using var socket = _listener.Accept();
                socket.ReceiveTimeout = socket.SendTimeout = 1000;
                Answer(socket);
            }
            catch (SocketException) when (!_listener.SafeHandle.IsClosed)
            {
                // The daemon gave the connection up.
            }
            catch (Exception e) when (e is SocketException or ObjectDisposedException)
            {
                return;
            }
        }
    }

    private void Answer(Socket socket)
    {
        var buffer = new byte[4096];
        if (socket.Receive(buffer) == 0)
            return;
        byte[] version = [0, 0, 1, 0, .. Encoding.ASCII.GetBytes("{\"capabilities\":{\"max_msg_fds\":8}}\0")];
        const uint Reply = 1;
        switch (_random.Next(4))
        {
            case 0:
                // Noise.
                _random.NextBytes(buffer);
                socket.Send(buffer);
                return;
            case 1:
                // Requests of its own without end, and no answer.
                var ask = HostilePeer.VfioMessage(11, new byte[16]);
                for (var i = 0; i < 10_000; i++)
                    socket.Send(ask);
                return;
            case 2:
                // The greeting, and an error for all else.
                socket.Send(HostilePeer.VfioMessage(1, version, Reply, id: 1));
                while (socket.Receive(buffer) > 0)
                    socket.Send(HostilePeer.VfioMessage(BitConverter.ToUInt16(buffer, 2), [], Reply | 0x20, BitConverter.ToUInt16(buffer)));
                return;
            default:
                // Nothing, until it has had enough.
                socket.Receive(buffer);
                return;
        }
    }
}
