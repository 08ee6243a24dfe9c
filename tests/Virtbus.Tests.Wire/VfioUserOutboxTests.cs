using Virtbus.Platform;
using Virtbus.Wire.VfioUser;
using static Virtbus.Tests.WireMessages;
using static Virtbus.Wire.VfioUser.VfioUserCommand;

namespace Virtbus.Tests.Wire;

/// <summary>Answers that gather and go out together, and a peer that makes no room for them.</summary>
public sealed class VfioUserOutboxTests : IDisposable
{
    private readonly int _descriptors = Kernel.DescriptorsBefore();
    private readonly UnixStream _peer;
    private readonly UnixStream _near;

    public VfioUserOutboxTests() => (_near, _peer) = UnixStream.CreatePair();

    public void Dispose()
    {
        _peer.Dispose();
        Assert.Equal(_descriptors, Kernel.Descriptors);
    }

    private VfioUserChannel Open(TimeSpan? timeout = null) => new(_near, headerByHeader: false, timeout ?? Deadline.Limit);

    private static void Put(VfioUserOutbox outbox, int size, byte value)
    {
        Assert.True(outbox.TryReserve(size, out var bytes));
        Assert.Equal(size, bytes.Length);
        bytes.Fill(value);
        outbox.Commit(size);
    }

    /// <summary>What the peer gets at once: how many of which byte, with how many descriptors; "" for nothing.</summary>
    private string Sent()
    {
        var buffer = new byte[4 << 20];
        List<FileDescriptor> descriptors = [];
        var text = "";
        while (_peer.Receive(buffer, descriptors, out _) is > 0 and var count)
        {
            for (var at = 0; at < count;)
            {
                var run = buffer.AsSpan(at, count - at).IndexOfAnyExcept(buffer[at]);
                run = run < 0 ? count - at : run;
                text += $"{run}x{buffer[at]} ";
                at += run;
            }

            text += descriptors.Count == 0 ? "" : $"+{descriptors.Count} ";
            descriptors.ForEach(descriptor => descriptor.Dispose());
            descriptors.Clear();
        }

        return text.TrimEnd();
    }

    [Fact]
    public void Answers_go_when_they_are_to_or_when_there_is_no_room()
    {
        using var channel = Open();
        var outbox = new VfioUserOutbox(channel);
        Assert.True(outbox.TryFlush());
        Put(outbox, 16, 1);
        Put(outbox, 20, 2);
        Assert.Equal("", Sent());
        Assert.True(outbox.TryFlush());
        Assert.Equal("16x1 20x2", Sent());
        Assert.True(outbox.TryFlush());
        Assert.Equal("", Sent());
        // What was reserved and not kept does not go.
        Assert.True(outbox.TryReserve(100, out _));
        Assert.True(outbox.TryFlush());
        Assert.Equal("", Sent());
        // Just as much as there is room for, and one byte more.
        Put(outbox, 100, 3);
        Put(outbox, (64 << 10) - 100, 4);
        Assert.Equal("", Sent());
        Put(outbox, 1, 5);
        Assert.Equal("100x3 65436x4", Sent());
        Assert.Equal((64 << 10) - 1, outbox.Reserved.Length);
        Assert.True(outbox.TryFlush());
        Assert.Equal("1x5", Sent());
    }

    [Fact]
    public void Large_message_gets_its_room()
    {
        using var channel = Open();
        var outbox = new VfioUserOutbox(channel);
        Put(outbox, 10, 1);
        Assert.True(outbox.TryReserve(VfioUserProtocol.MaxMessage, out var bytes));
        Assert.Equal("10x1", Sent());
        Assert.Equal(VfioUserProtocol.MaxMessage, bytes.Length);
        bytes[..70_000].Fill(2);
        outbox.Commit(70_000);
        Assert.True(outbox.TryFlush());
        Assert.Equal("70000x2", Sent());
    }

    [Fact]
    public void Descriptors_go_with_a_message_of_their_own()
    {
        using var signal = new EventFd();
        using var channel = Open();
        var outbox = new VfioUserOutbox(channel);
        Put(outbox, 10, 1);
        Assert.True(outbox.TryReserve(20, out var bytes));
        bytes.Fill(2);
        Assert.True(outbox.TrySend(20, [signal.Descriptor, signal.Descriptor]));
        // The peer reads the plain bytes and those with descriptors in one go or two; they are two sends.
        Assert.Equal("10x1 20x2 +2", Sent());
        Assert.True(outbox.TryFlush());
        Assert.Equal("", Sent());
        Assert.True(outbox.TryReserve(30, out bytes));
        bytes.Fill(3);
        Assert.True(outbox.TrySend(30, [signal.Descriptor]));
        Assert.Equal("30x3 +1", Sent());
        signal.Dispose();
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void What_is_larger_than_the_socket_goes_in_pieces_with_its_descriptors_once(bool isShared)
    {
        using var signal = new EventFd();
        using var channel = Open();
        if (isShared)
            channel.Share();
        var bytes = new byte[4 << 20];
        new Random(5).NextBytes(bytes);
        var isSent = false;
        var sender = new Thread(() => isSent = channel.TrySend(bytes, [signal.Descriptor])) { IsBackground = true };
        sender.Start();
        var received = new byte[bytes.Length];
        List<FileDescriptor> descriptors = [];
        for (var have = 0; have < bytes.Length;)
        {
            Assert.True(Polling.Wait(_peer.Descriptor, forWriting: false, cancel: null, Deadline.Milliseconds), $"{have} bytes came");
            have += Math.Max(0, _peer.Receive(received.AsSpan(have), descriptors, out _));
        }

        sender.Ends("the sender");
        Assert.True(isSent);
        Assert.Single(descriptors).Dispose();
        Assert.True(bytes.AsSpan().SequenceEqual(received));
    }

    [Theory]
    [InlineData(Errno.ETIMEDOUT)]
    [InlineData(Errno.ECONNRESET)]
    [InlineData(Errno.EBADF)]
    public void Peer_that_takes_nothing_loses_the_connection(Errno expected)
    {
        using var gone = new EventFd();
        gone.Dispose();
        using var channel = Open(TimeSpan.FromMilliseconds(expected == Errno.ETIMEDOUT ? 50 : Deadline.Milliseconds));
        var outbox = new VfioUserOutbox(channel);
        if (expected == Errno.ECONNRESET)
            _peer.Dispose();
        Put(outbox, 100, 1);
        if (expected == Errno.EBADF)
        {
            Assert.False(outbox.TrySend(100, [gone.Descriptor]));
        }
        else
        {
            var before = Environment.TickCount64;
            Assert.False(channel.TrySend(new byte[4 << 20], default));
            Assert.InRange(Environment.TickCount64 - before, expected == Errno.ETIMEDOUT ? 50 : 0, Deadline.Milliseconds);
            Assert.False(outbox.TrySend(100, default));
        }

        Assert.Equal((true, expected), (channel.IsClosed, channel.End.Errno));
        Put(outbox, 100, 1);
        Assert.False(outbox.TryFlush());
        Put(outbox, 60_000, 2);
        Assert.False(outbox.TryReserve(60_000, out _));
    }

    [Fact]
    public void Answer_waits_for_room_no_longer_than_its_reader_may()
    {
        var answered = true;
        VfioUserChannel? channel = null;
        using var opened = channel = new VfioUserChannel(_near, headerByHeader: false, Deadline.Limit, (in VfioUserMessage _, out Fault none) =>
        {
            none = Fault.None;
            return answered = channel!.TryAnswer(new byte[4 << 20]);
        });
        _peer.Send(Message(DMA_READ, Longs(0, 0)), default, out _);
        var call = channel.Rent();
        Assert.True(channel.TryBegin(call, REGION_READ, 1, out _));
        Assert.False(channel.TryWait(call, 100, out var fault));
        Assert.Equal((false, Errno.ETIMEDOUT, Errno.ETIMEDOUT, true), (answered, fault.Errno, channel.End.Errno, channel.IsClosed));
        Assert.InRange(Environment.TickCount64 - call.Since, 100, Deadline.Milliseconds);
    }
}
