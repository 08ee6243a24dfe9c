using System.Net.Sockets;
using Virtbus.Daemon.Clients;
using Virtbus.Platform;

namespace Virtbus.Tests.Cli;

/// <summary>A client's connection, whose bytes two threads may receive: one waits for text, another drops what was sent for the user before.</summary>
public sealed class ClientSocketTests
{
    [Fact]
    public async Task Two_threads_receive_each_byte_once()
    {
        const int Count = 200_000;
        var folder = Directory.CreateTempSubdirectory("vb").FullName;
        var path = Path.Combine(folder, "socket");
        using var listening = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        listening.Bind(new UnixDomainSocketEndPoint(path));
        listening.Listen();
        using var client = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        await client.ConnectAsync(new UnixDomainSocketEndPoint(path));
        using var socket = new ClientSocket(await listening.AcceptAsync(), new PeerDescriptors());
        var receivers = Enumerable.Range(0, 2).Select(_ => Task.Run(() =>
        {
            var (buffer, sum) = (new byte[64], 0);
            while (true)
            {
                var count = socket.Receive(buffer, out var error);
                if (count > 0)
                    sum += count;
                else if (error != Errno.EAGAIN)
                    return sum;
            }
        })).ToList();
        for (var sent = 0; sent < Count; sent += 100)
            await client.SendAsync(new byte[100]);
        client.Shutdown(SocketShutdown.Send);
        var sums = await Task.WhenAll(receivers).WaitAsync(TestFabric.Deadline);
        Assert.Equal(Count, sums.Sum());
        Directory.Delete(folder, recursive: true);
    }
}
