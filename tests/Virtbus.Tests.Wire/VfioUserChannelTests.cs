using Virtbus.Platform;
using Virtbus.Wire.VfioUser;
using static Virtbus.Tests.WireMessages;
using static Virtbus.Wire.VfioUser.VfioUserCommand;

namespace Virtbus.Tests.Wire;

/// <summary>Threads that read one socket for each other, and how that ends.</summary>
public sealed class VfioUserChannelTests : IDisposable
{
    private static readonly TimeSpan Long = Deadline.Limit;
    private readonly int _descriptors = Kernel.DescriptorsBefore();
    private UnixStream? _peer;

    public void Dispose()
    {
        _peer?.Dispose();
        Assert.Equal(_descriptors, Kernel.Descriptors);
    }

    private VfioUserChannel Open(VfioUserCommandHandler? handler = null, TimeSpan? timeout = null)
    {
        _peer?.Dispose();
        var (near, far) = UnixStream.CreatePair();
        _peer = far;
        return new VfioUserChannel(near, headerByHeader: false, timeout ?? Long, handler);
    }

    private void Send(byte[] bytes, params ReadOnlySpan<FileDescriptor> descriptors) => Assert.Equal(bytes.Length, _peer!.Send(bytes, descriptors, out _));

    private byte[] Receive(int count)
    {
        var bytes = new byte[count];
        for (var have = 0; have < count;)
        {
            Assert.True(Polling.Wait(_peer!.Descriptor, forWriting: false, cancel: null, Deadline.Milliseconds), $"{have} bytes of {count} came");
            var got = _peer.Receive(bytes.AsSpan(have), [], out _);
            Assert.True(got > 0, $"the stream ends after {have} bytes of {count}");
            have += got;
        }

        return bytes;
    }

    private static VfioUserCall Begin(VfioUserChannel channel, VfioUserCommand command = REGION_READ)
    {
        var call = channel.Rent();
        Assert.True(channel.TryBegin(call, command, 1, out var fault), fault.Message);
        return call;
    }

    private static Thread Start(Action work)
    {
        var thread = new Thread(() => work()) { IsBackground = true };
        thread.Start();
        return thread;
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void Requests_are_taken_in_their_order_and_answered_before_more_is_waited_for(bool isShared)
    {
        using var channel = Open();
        if (isShared)
            channel.Share();
        var outbox = new VfioUserOutbox(channel);
        // Runs and single ones, with replies to nothing that is waited for in none of them.
        foreach (var run in new[] { 1, 2, VfioUserPace.Run, 1, 3 * VfioUserPace.Run, 1, 1 })
        {
            Send([.. Enumerable.Range(0, run).SelectMany(i => Message(REGION_WRITE, Access(0, (ulong)i, 4, 1, 2, 3, 4), id: (ushort)i))]);
            for (var i = 0; i < run; i++)
            {
                Assert.True(channel.TryTake(outbox, out var message));
                Assert.Equal((REGION_WRITE, i, (ulong)i, 20), (message.Command, message.Id, message.Read<ulong>(), message.Payload.Length));
                Assert.True(outbox.TryReserve(16, out var reply));
                VfioUserMessage.WriteHeader(reply, message.Id, REGION_WRITE, 16, 1);
                outbox.Commit(16);
            }

            var waiter = Start(() => channel.TryTake(outbox, out _));
            Assert.Equal(Enumerable.Range(0, run).SelectMany(i => Message(REGION_WRITE, [], 1, (ushort)i)), Receive(16 * run));
            Send(Message(DEVICE_RESET, []));
            waiter.Ends("the next request");
        }

        Assert.False(channel.IsClosed);
    }

    [Theory]
    [InlineData("", Errno.ECONNRESET)]
    [InlineData("00000a001000", Errno.EBADMSG)]
    [InlineData("00000a001100000000000000000000", Errno.EBADMSG)]
    [InlineData("00000a00200000000000000000000000" + "00", Errno.EBADMSG)]
    [InlineData("00000a000f0000000000000000000000", Errno.EBADMSG)]
    [InlineData("00000a00210010000000000000000000", Errno.EMSGSIZE)]
    [InlineData("00000a00100000000100000000000000", Errno.EPROTO)]
    public void End_says_why(string hex, Errno expected)
    {
        foreach (var (isShared, isCalled) in new[] { (false, false), (true, false), (true, true) })
        {
            using var channel = Open();
            if (isShared)
                channel.Share();
            if (hex.Length > 0)
                Send(Convert.FromHexString(hex));
            _peer!.Dispose();
            if (isCalled)
            {
                var call = Begin(channel);
                Assert.False(channel.TryWait(call, Deadline.Milliseconds, out var fault));
                Assert.Equal(expected, fault.Errno);
                channel.Return(call);
            }
            else
            {
                Assert.False(channel.TryTake(new VfioUserOutbox(channel), out _));
            }

            Assert.Equal((true, expected), (channel.IsClosed, channel.End.Errno));
            Assert.False(channel.TryTake(new VfioUserOutbox(channel), out _));
            Assert.False(channel.TryBegin(new VfioUserCall(), REGION_READ, 1, out var late));
            Assert.Equal(expected, late.Errno);
            // The first reason counts.
            channel.Close(new Fault(Errno.EPERM, "later"));
            Assert.Equal(expected, channel.End.Errno);
        }
    }

    [Fact]
    public void Client_that_sends_no_more_gets_its_answers_still()
    {
        using var channel = Open();
        var outbox = new VfioUserOutbox(channel);
        Send([.. Enumerable.Range(0, VfioUserPace.Run + 1).SelectMany(i => Message(DEVICE_RESET, [], id: (ushort)i))]);
        Assert.Equal(0, Libc.shutdown(_peer!.Descriptor, 1));
        for (var i = 0; i <= VfioUserPace.Run; i++)
        {
            Assert.True(channel.TryTake(outbox, out var message));
            Assert.True(outbox.TryReserve(16, out var reply));
            VfioUserMessage.WriteHeader(reply, message.Id, DEVICE_RESET, 16, 1);
            outbox.Commit(16);
        }

        Assert.False(channel.TryTake(outbox, out _));
        Assert.Equal((VfioUserPace.Run + 1) * 16, Receive((VfioUserPace.Run + 1) * 16).Length);
    }

    [Fact]
    public void Replies_reach_their_callers_whoever_reads()
    {
        const int Callers = 4, Rounds = 200;
        using var channel = Open();
        channel.Share();
        var outbox = new VfioUserOutbox(channel);
        var taken = 0;
        var server = Start(() =>
        {
            while (channel.TryTake(outbox, out _))
                taken++;
        });
        var wrong = 0;
        var callers = Enumerable.Range(0, Callers).Select(number => Start(() =>
        {
            for (var i = 0; i < Rounds; i++)
            {
                var call = Begin(channel, DMA_READ);
                channel.TrySend(Message(DMA_READ, Longs((ulong)((number << 16) + i)), id: call.FirstId), default);
                if (!channel.TryWait(call, Deadline.Milliseconds, out _) || call.Read<ulong>() != (ulong)((number << 16) + i))
                    Interlocked.Increment(ref wrong);
                channel.Return(call);
            }
        })).ToList();
        // Each is answered with what it asked for, and asked something itself.
        for (var i = 0; i < Callers * Rounds; i++)
        {
            var request = Receive(24);
            var reply = Message(DMA_READ, request[16..], 1, BitConverter.ToUInt16(request));
            Send([.. Message(REGION_WRITE, Access(0, 0, 4, 1, 2, 3, 4)), .. reply]);
        }

        callers.ForEach(caller => caller.Ends("a caller"));
        Assert.Equal(0, wrong);
        Deadline.Until(() => Volatile.Read(ref taken) == Callers * Rounds, "the peer's requests");
        channel.Close(Fault.None);
        server.Ends("the server");
        Assert.Equal(long.MaxValue, channel.OldestCall());
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Peer_that_does_not_answer_is_waited_for_so_long_and_may_be_late(bool isWatched)
    {
        using var channel = Open(static (in VfioUserMessage _, out Fault none) => (none = Fault.None) == Fault.None, TimeSpan.FromMilliseconds(50));
        var call = Begin(channel);
        Assert.Equal(call.Since, channel.OldestCall());
        Fault fault;
        if (isWatched)
        {
            var waiter = Start(() => Assert.False(channel.TryWait(call, out _)));
            // Somebody else has the clock.
            Deadline.Until(() => channel.OldestCall() + 50 < Environment.TickCount64, "the end of its time");
            channel.Close(new Fault(Errno.ETIMEDOUT, "the peer does not answer"));
            waiter.Ends("the call");
            Assert.Equal(Errno.ETIMEDOUT, call.Fault.Errno);
            return;
        }

        Assert.False(channel.TryWait(call, 50, out fault));
        Assert.InRange(Environment.TickCount64 - call.Since, 50, long.MaxValue);
        Assert.Equal((Errno.ETIMEDOUT, false, long.MaxValue), (fault.Errno, channel.IsClosed, channel.OldestCall()));
        // What comes late is passed over, and the next reply is its own call's.
        var next = Begin(channel);
        Send([.. Message(REGION_READ, Words(1), 1, call.FirstId), .. Message(REGION_READ, Words(2), 1, next.FirstId)]);
        Assert.True(channel.TryWait(next, Deadline.Milliseconds, out fault), fault.Message);
        Assert.Equal(2u, next.Read<uint>());
        // Watched, the end of the time is the channel's.
        var last = Begin(channel);
        last.Since -= 60;
        Assert.False(channel.TryWait(last, out fault));
        Assert.Equal((Errno.ETIMEDOUT, true, Errno.ETIMEDOUT), (fault.Errno, channel.IsClosed, channel.End.Errno));
    }

    [Fact]
    public void Handler_answers_the_peer_while_something_else_is_waited_for()
    {
        VfioUserChannel? channel = null;
        using var opened = channel = Open((in VfioUserMessage message, out Fault fault) =>
        {
            fault = message.Command == DEVICE_RESET ? new Fault(Errno.EPERM, "no") : Fault.None;
            return fault == Fault.None && channel!.TryAnswer(Message(message.Command, Words(9), 1, message.Id));
        });
        var call = Begin(channel);
        Send([.. Message(DMA_READ, Longs(0, 0), id: 5), .. Message(REGION_READ, Words(3), 1, call.FirstId), .. Message(DMA_READ, Longs(0, 0), id: 6)]);
        Assert.True(channel.TryWait(call, Deadline.Milliseconds, out var fault), fault.Message);
        Assert.Equal(3u, call.Read<uint>());
        Assert.Equal([.. Message(DMA_READ, Words(9), 1, 5), .. Message(DMA_READ, Words(9), 1, 6)], Receive(40));
        // Without a call, by whoever polls.
        Send(Message(DMA_READ, Longs(0, 0), id: 7));
        channel.Poll(Environment.TickCount64 + Deadline.Milliseconds);
        Assert.Equal(Message(DMA_READ, Words(9), 1, 7), Receive(20));
        channel.Poll(Environment.TickCount64 + Deadline.Milliseconds);
        Assert.False(channel.IsClosed);
        Send(Message(DEVICE_RESET, []));
        channel.Poll(Environment.TickCount64 + Deadline.Milliseconds);
        Assert.Equal((true, Errno.EPERM), (channel.IsClosed, channel.End.Errno));
        channel.Poll(Environment.TickCount64 + Deadline.Milliseconds);
    }

    [Fact]
    public void Handler_that_throws_ends_the_connection()
    {
        using var channel = Open(static (in VfioUserMessage _, out Fault _) => throw new InvalidOperationException("bug"));
        var call = Begin(channel);
        Send(Message(DMA_READ, Longs(0, 0)));
        Assert.Throws<InvalidOperationException>(() => channel.TryWait(call, Deadline.Milliseconds, out _));
        Assert.Equal((true, Errno.EIO), (channel.IsClosed, channel.End.Errno));
    }

    [Fact]
    public void Socket_for_replies_takes_no_request()
    {
        var (near, far) = UnixStream.CreatePair();
        _peer = far;
        using var channel = VfioUserChannel.ForReplies(near, Long);
        var call = Begin(channel);
        Send(Message(REGION_READ, Words(4), 1, call.FirstId));
        Assert.True(channel.TryWait(call, Deadline.Milliseconds, out _));
        Assert.Equal(4u, call.Read<uint>());
        call = Begin(channel);
        Send(Message(DMA_READ, Longs(0, 0)));
        Assert.False(channel.TryWait(call, Deadline.Milliseconds, out var fault));
        Assert.Equal((Errno.EPROTO, true), (fault.Errno, channel.IsClosed));
    }

    // When it returns, the thread waits in a receive: it took the reply to the other call, and did that with the gate.
    private Thread StartReader(VfioUserChannel channel, VfioUserCall call, Action<Fault> ended)
    {
        var other = Begin(channel);
        var reader = Start(() =>
        {
            channel.TryWait(call, Deadline.Milliseconds * 10, out var fault);
            ended(fault);
        });
        Send(Message(REGION_READ, Words(0), 1, other.FirstId));
        Deadline.Until(() => channel.OldestCall() >= 0 && other.Outstanding == 0, "the other reply");
        channel.OldestCall();
        return reader;
    }

    [Fact]
    public void Memory_that_is_unmapped_is_waited_for_no_more()
    {
        using var channel = Open();
        channel.Share();
        channel.GiveUp(0, ulong.MaxValue, new Fault(Errno.ENOENT, "none"));
        var call = Begin(channel, DMA_READ);
        (call.Address, call.Length) = (0x1000, 0x1000);
        var fault = Fault.None;
        var waiter = StartReader(channel, call, ended => fault = ended);
        channel.GiveUp(0x2000, ulong.MaxValue, new Fault(Errno.ENOENT, "not that"));
        Assert.Equal(1, call.Outstanding);
        channel.GiveUp(0x1800, 0x1800, new Fault(Errno.ENOENT, "unmapped"));
        waiter.Ends("the call");
        Assert.Equal((Errno.ENOENT, "unmapped", false), (fault.Errno, fault.Message, channel.IsClosed));
    }

    [Fact]
    public void Who_polls_while_another_reads_leaves_it_to_that_one()
    {
        using var channel = Open();
        channel.Share();
        var call = Begin(channel);
        var fault = new Fault(Errno.EPERM, "not ended");
        var reader = StartReader(channel, call, ended => fault = ended);
        var before = Environment.TickCount64;
        channel.Poll(before + 50);
        Assert.InRange(Environment.TickCount64, before + 40, before + Deadline.Milliseconds);
        Send(Message(REGION_READ, Words(5), 1, call.FirstId));
        reader.Ends("the call");
        Assert.Equal((Fault.None, 5u), (fault, call.Read<uint>()));
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void Dispose_lets_those_go_on_who_wait(bool isServer)
    {
        var channel = Open();
        channel.Share();
        var call = Begin(channel);
        var fault = Fault.None;
        var waiter = StartReader(channel, call, ended => fault = ended);
        // The second one waits for the first to read.
        var isTaken = true;
        var server = isServer ? Start(() => isTaken = channel.TryTake(new VfioUserOutbox(channel), out _)) : null;
        Start(channel.Dispose).Ends("the dispose");
        waiter.Ends("the call");
        server?.Ends("the server");
        Assert.Equal((Errno.ECONNRESET, Errno.ECONNRESET, !isServer), (fault.Errno, channel.End.Errno, isTaken));
    }

    [Fact]
    public void Peer_that_goes_without_reading_what_was_sent_is_gone_as_any()
    {
        using var channel = Open();
        Assert.True(channel.TrySend(Message(DEVICE_RESET, []), default));
        _peer!.Dispose();
        Assert.False(channel.TryTake(new VfioUserOutbox(channel), out _));
        Assert.Equal(Errno.ECONNRESET, channel.End.Errno);
        // And one that is told to go.
        using var other = Open();
        other.Close(Fault.None);
        Assert.Equal((true, Errno.ECONNRESET), (other.IsClosed, other.End.Errno));
    }

    [Fact]
    public void Calls_are_made_once_and_used_again()
    {
        using var channel = Open();
        var calls = Enumerable.Range(0, 3).Select(_ => channel.Rent()).ToList();
        Assert.Equal(3, calls.Distinct().Count());
        calls.ForEach(channel.Return);
        Assert.Equal(calls.ToHashSet(), Enumerable.Range(0, 3).Select(_ => channel.Rent()).ToHashSet());
    }

    [Fact]
    public void Peer_that_asks_on_while_nobody_answers_loses_the_connection()
    {
        using var channel = Open();
        channel.Share();
        var call = Begin(channel);
        var flood = Start(() =>
        {
            var large = Message(REGION_WRITE, new byte[1 << 20]);
            for (var at = 0; ;)
            {
                var sent = _peer!.Send(large.AsSpan(at), default, out var error);
                if (sent < 0 && error != Errno.EAGAIN)
                    return;
                at = (at + Math.Max(0, sent)) % large.Length;
                Polling.Wait(_peer.Descriptor, forWriting: true, cancel: null, Deadline.Milliseconds);
            }
        });
        Assert.False(channel.TryWait(call, Deadline.Milliseconds, out var fault));
        Assert.Equal((Errno.ENOBUFS, true), (fault.Errno, channel.IsClosed));
        flood.Ends("the peer");
    }

    [Fact]
    public void Descriptors_that_nobody_took_are_closed()
    {
        using var signal = new EventFd();
        using (var channel = Open())
        {
            channel.Share();
            Send(Message(DMA_MAP, Map(Base, 4096)), signal.Descriptor);
            var call = Begin(channel, VERSION);
            Send(Message(VERSION, Version("{}"), 1, call.FirstId), signal.Descriptor, signal.Descriptor);
            // A channel without handler leaves the request where it is, and the reply's descriptors are its request's.
            Assert.True(channel.TryWait(call, Deadline.Milliseconds, out var fault), fault.Message);
            channel.Return(call);
            Assert.Empty(call.Descriptors);
        }

        using (var channel = Open(static (in VfioUserMessage _, out Fault none) => (none = Fault.None) == Fault.None))
        {
            var call = Begin(channel, VERSION);
            Send(Message(VERSION, Version("{}"), 1, call.FirstId), signal.Descriptor, signal.Descriptor);
            Assert.True(channel.TryWait(call, Deadline.Milliseconds, out var fault), fault.Message);
            Assert.Equal(2, call.Descriptors.Count);
            channel.Return(call);
            Assert.Empty(call.Descriptors);
            Assert.Same(call, channel.Rent());
            var before = Kernel.Descriptors;
            Send(Message(DMA_MAP, Map(Base, 4096)), [.. Enumerable.Repeat(signal.Descriptor, 32)]);
            channel.Poll(Environment.TickCount64 + Deadline.Milliseconds);
            Assert.Equal(before, Kernel.Descriptors);
            Send(Message(DMA_MAP, Map(Base, 4096)), signal.Descriptor);
            channel.Poll(Environment.TickCount64 + Deadline.Milliseconds);
        }

        _peer!.Dispose();
        signal.Dispose();
    }

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
        Assert.True(channel.TryBegin(call, DMA_READ, 1, out var fault), fault.Message);
        byte[] both = [.. Message(REGION_READ, Access(0, 0, 4), 0, 7), .. Message(DMA_READ, Longs(0, 0), 1, call.FirstId)];
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
        Assert.Equal(REGION_READ, taken);
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
        Assert.Equal(Requests * 32, peer.Send([.. Enumerable.Range(0, Requests).SelectMany(i => Message(DMA_READ, Longs(0, 0), 0, (ushort)i))], [], out _));
        var call = channel.Rent();
        Assert.True(channel.TryBegin(call, REGION_READ, 1, out var fault), fault.Message);
        end = call.Since + Milliseconds;
        Assert.False(channel.TryWait(call, Milliseconds, out fault));
        Assert.Equal((Errno.ETIMEDOUT, 1), (fault.Errno, handled));
        channel.Return(call);
    }
}
