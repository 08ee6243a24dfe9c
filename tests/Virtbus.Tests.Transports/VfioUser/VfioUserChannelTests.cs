using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;
using Virtbus.Remote.Pci.VfioUser;
using Virtbus.Wire.VfioUser;
using static Virtbus.Tests.WireClient;

namespace Virtbus.Tests.Transports.VfioUser;

/// <summary>Threads that read one socket for each other.</summary>
[Collection(WireCollection.Name)]
public sealed class VfioUserChannelTests
{
    private static readonly TimeSpan Long = TimeSpan.FromSeconds(20);

    [Fact]
    public void Request_that_another_thread_received_while_answers_were_sent_is_taken()
    {
        var (near, far) = UnixStream.CreatePair();
        using var peer = far;
        using var channel = new VfioUserChannel(near, headerByHeader: false, Deadline.Limit);
        channel.Share();
        var outbox = new VfioUserOutbox(channel);
        // More than the socket holds: the sending goes on until the peer reads.
        const int Answers = 1 << 20;
        Assert.True(outbox.TryReserve(Answers, out _));
        outbox.Commit(Answers);
        var taken = default(VfioUserCommand);
        var server = new Thread(() => taken = channel.TryTake(outbox, out var message) ? message.Command : default) { IsBackground = true };
        server.Start();
        Assert.True(Polling.Wait(peer.Descriptor, forWriting: false, cancel: null, (int)Long.TotalMilliseconds), "no answer is sent");

        // An engine of the device waits for memory meanwhile. Its reply and the client's next request come together, and nothing after them.
        var call = channel.Rent();
        Assert.True(channel.TryBegin(call, VfioUserCommand.DMA_READ, 1, out var fault), fault.Message);
        byte[] both = [.. Message(VfioUserCommand.REGION_READ, Access(0, 0, 4), 0, 7), .. Message(VfioUserCommand.DMA_READ, Longs(0, 0), 1, call.FirstId)];
        Assert.Equal(both.Length, peer.Send(both, [], out _));
        Assert.True(channel.TryWait(call, (int)Long.TotalMilliseconds, out fault), fault.Message);
        channel.Return(call);

        var buffer = new byte[1 << 16];
        for (var read = 0; read < Answers;)
        {
            Assert.True(Polling.Wait(peer.Descriptor, forWriting: false, cancel: null, (int)Long.TotalMilliseconds), $"{read} bytes of the answers came");
            read += peer.Receive(buffer, [], out _);
        }

        Assert.True(server.Join(Long), "the request lies there, and its server waits for another one");
        Assert.Equal(VfioUserCommand.REGION_READ, taken);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void Memory_that_throws_ends_the_connection_and_holds_up_no_dispose(bool twin)
    {
        using var fixture = new WireFixture();
        var client = fixture.Connect(new VfioUserClientOptions { TwinSocket = twin });
        Assert.True(client.TryMapDma(new IovaRange(new Iova(Base), 0x1000), new Throwing(), DmaAccess.ReadWrite, out var fault), fault.Message);
        // The one who happens to read meets it: a thread of the client, or the caller.
        Record.Exception(() =>
        {
            client.TryWrite(0, WireDevice.DmaAddress, BitConverter.GetBytes(Base), out _);
            client.TryWrite(0, WireDevice.DmaLength, BitConverter.GetBytes(4), out _);
            client.TryWrite(0, WireDevice.DmaCommand, BitConverter.GetBytes(WireDevice.ReadThere), out _);
        });
        WireFixture.Until(() => !client.IsConnected, "the end of the connection");
        Task.Run(client.Dispose, TestContext.Current.CancellationToken).Ends("the dispose", () => fixture.Log.Text);
        fixture.WaitIdle(1);
    }

    [Fact]
    public void Requests_of_the_peer_do_not_make_a_wait_longer()
    {
        const int Requests = 20, Milliseconds = 300;
        var (near, far) = UnixStream.CreatePair();
        using var peer = far;
        var (handled, end) = (0, long.MaxValue);
        using var channel = new VfioUserChannel(near, headerByHeader: false, Deadline.Limit, (in VfioUserMessage _, out Fault none) =>
        {
            none = Fault.None;
            handled++;
            // The first takes all the time that there is.
            while (Environment.TickCount64 <= end)
            {
            }

            return true;
        });
        Assert.Equal(Requests * 32, peer.Send([.. Enumerable.Range(0, Requests).SelectMany(i => Message(VfioUserCommand.DMA_READ, Longs(0, 0), 0, (ushort)i))], [], out _));
        var call = channel.Rent();
        Assert.True(channel.TryBegin(call, VfioUserCommand.REGION_READ, 1, out var fault), fault.Message);
        end = call.Since + Milliseconds;
        Assert.False(channel.TryWait(call, Milliseconds, out fault));
        Assert.Equal((Errno.ETIMEDOUT, 1), (fault.Errno, handled));
        channel.Return(call);
    }

    private sealed class Throwing : IRemoteMemory
    {
        public bool TryRead(Iova address, Span<byte> destination, out Fault fault) => throw new InvalidOperationException("bug");

        public bool TryWrite(Iova address, ReadOnlySpan<byte> source, out Fault fault) => throw new InvalidOperationException("bug");
    }
}
