using System.Net;
using Virtbus.Platform;

namespace Virtbus.Tests.Platform;

public class TcpListenerTests
{
    [Theory]
    [InlineData("127.0.0.1")]
    [InlineData("::1")]
    public void Connection_carries_bytes_and_knows_its_peer(string address)
    {
        using var listener = TcpListener.Listen(new IPEndPoint(IPAddress.Parse(address), 0));
        Assert.Equal(IPAddress.Parse(address), listener.EndPoint.Address);
        Assert.NotEqual(0, listener.EndPoint.Port);
        Assert.Null(listener.TryAccept(out var error));
        Assert.Equal(Errno.EAGAIN, error);
        using var client = TcpListener.TryConnect(listener.EndPoint, out error)!;
        Assert.Equal(Errno.None, error);
        Assert.True(Virtbus.Platform.Polling.Wait(listener.Descriptor, forWriting: false, cancel: null, Deadline.Milliseconds));
        using var server = listener.TryAccept(out error)!;
        Assert.Equal(IPAddress.Parse(address), server.PeerAddress!.Address);
        Assert.NotEqual(listener.EndPoint.Port, server.PeerAddress.Port);
        Assert.Equal(listener.EndPoint, client.PeerAddress);
        Assert.Equal(3, client.Send([1, 2, 3], [], out _));
        var bytes = new byte[8];
        Assert.True(Virtbus.Platform.Polling.Wait(server.Descriptor, forWriting: false, cancel: null, Deadline.Milliseconds));
        Assert.Equal(3, server.Receive(bytes, [], out _));
        Assert.Equal([1, 2, 3], bytes[..3]);
        Assert.Equal(-1, server.Receive(bytes, [], out error));
        Assert.Equal(Errno.EAGAIN, error);
        client.Dispose();
        Assert.True(Virtbus.Platform.Polling.Wait(server.Descriptor, forWriting: false, cancel: null, Deadline.Milliseconds));
        Assert.Equal(0, server.Receive(bytes, [], out _));
    }

    [Fact]
    public void Address_that_is_taken_or_not_there_is_said_to_be()
    {
        using var first = TcpListener.Listen(new IPEndPoint(IPAddress.Loopback, 0));
        Assert.Equal(Errno.EADDRINUSE, Assert.Throws<VirtbusException>(() => TcpListener.Listen(first.EndPoint)).Errno);
        // 192.0.2.0/24 is for documents (RFC 5737).
        var missing = Assert.Throws<VirtbusException>(() => TcpListener.Listen(new IPEndPoint(IPAddress.Parse("192.0.2.1"), 0)));
        Assert.Equal(Errno.EADDRNOTAVAIL, missing.Errno);
        Assert.Contains("has no address 192.0.2.1", missing.Message, StringComparison.Ordinal);
        var place = first.EndPoint;
        first.Dispose();
        Assert.Null(TcpListener.TryConnect(place, out var error));
        Assert.Equal(Errno.ECONNREFUSED, error);
        // What is left of a connection keeps nobody from the address.
        using var again = TcpListener.Listen(place);
        Assert.Equal(place, again.EndPoint);
    }

    [Fact]
    public void Runs_are_sent_in_their_order_as_far_as_there_is_room()
    {
        var (first, second) = UnixStream.CreatePair();
        using (first)
        using (second)
        {
            using var buffer = new AlignedBuffer(1 << 20, 4096);
            buffer.Take(1 << 20).AsSpan().Fill(7);
            buffer.Take(3).AsSpan().Fill(5);
            var rest = new IoVector(buffer.Take(1).Address + 4096, 1 << 19);
            var sent = first.SendRuns([buffer.Take(3), rest], out var error);
            Assert.InRange(sent, 4, (1 << 19) + 2);
            Assert.Equal(-1, first.SendRuns([rest], out error));
            Assert.Equal(Errno.EAGAIN, error);
            var bytes = new byte[4];
            Assert.Equal(4, second.Receive(bytes, [], out _));
            Assert.Equal([5, 5, 5, 7], bytes);
            second.Dispose();
            // What is unread may close slowly, so another thread closes it: until then there is no room.
            var last = Errno.None;
            Deadline.Until(() => first.SendRuns([rest], out last) == -1 && last != Errno.EAGAIN, "the end of the other side");
            Assert.Equal(-1, first.SendRuns([rest], out error));
            Assert.Equal(Errno.EPIPE, error);
        }
    }
}
