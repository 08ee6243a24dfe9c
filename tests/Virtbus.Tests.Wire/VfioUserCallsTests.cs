using Virtbus.Platform;
using Virtbus.Wire.VfioUser;
using static Virtbus.Tests.WireMessages;
using static Virtbus.Wire.VfioUser.VfioUserCommand;

namespace Virtbus.Tests.Wire;

/// <summary>Which ids requests get, and whose a reply is.</summary>
public sealed class VfioUserCallsTests
{
    private const int Max = VfioUserCalls.MaxCalls;
    private static readonly Fault _late = new(Errno.ETIMEDOUT, "late");
    private readonly VfioUserCalls _calls = new();

    private VfioUserCall Add(int count = 1, VfioUserCommand command = REGION_READ, IVfioUserRun? batch = null)
    {
        var call = new VfioUserCall { Batch = batch };
        Assert.True(_calls.TryAdd(call, command, count, out var fault), fault.Message);
        Assert.Equal((Fault.None, command, count, count), (fault, call.Command, call.Count, call.Outstanding));
        return call;
    }

    private Errno Deliver(int id, VfioUserCommand command = REGION_READ, byte[]? payload = null, uint flags = 1, Errno error = Errno.None, List<FileDescriptor>? descriptors = null)
    {
        var bytes = Message(command, payload ?? [], flags, (ushort)id);
        VfioUserMessage.WriteHeader(bytes, (ushort)id, command, bytes.Length, flags, error);
        Assert.Equal(_calls.TryDeliver(new VfioUserMessage(bytes, descriptors), out var fault), fault == Fault.None);
        return fault.Errno;
    }

    [Fact]
    public void Ids_follow_each_other_around_their_end()
    {
        for (var i = 0; i < 70_000; i++)
        {
            var call = Add();
            Assert.Equal((ushort)i, call.FirstId);
            Assert.Equal((Errno.None, 0), (Deliver(i), call.Outstanding));
        }

        Assert.Equal(long.MaxValue, _calls.Oldest());
        var run = Add(Max);
        Assert.Equal(70_000 - 65_536, run.FirstId);
        for (var i = Max - 1; i >= 0; i--)
            Assert.Equal(Errno.None, Deliver(70_000 + i));
        Assert.Equal(0, run.Outstanding);
    }

    [Theory]
    [InlineData(1, Max)]
    [InlineData(Max, 1)]
    [InlineData(2, Max / 2)]
    public void No_more_are_under_way_than_there_are_ids(int count, int times)
    {
        var all = Enumerable.Range(0, times).Select(_ => Add(count)).ToList();
        Assert.False(_calls.TryAdd(new VfioUserCall(), REGION_READ, 1, out var fault));
        Assert.Equal(Errno.ENOBUFS, fault.Errno);
        // One reply makes room for one request and not for two.
        Assert.Equal(Errno.None, Deliver(all[0].FirstId));
        Assert.False(_calls.TryAdd(new VfioUserCall(), REGION_READ, 2, out fault));
        Assert.Equal(Errno.ENOBUFS, fault.Errno);
        var last = Add();
        Assert.Equal(all[0].FirstId, last.FirstId % Max);
        // What is given up makes room too.
        _calls.GiveUp(last, _late);
        Assert.Equal(last.FirstId % Max, Add().FirstId % Max);
    }

    [Fact]
    public void Ids_that_are_under_way_from_a_turn_before_are_passed_over()
    {
        var first = Add();
        var second = Add();
        Assert.Equal(Errno.None, Deliver(0));
        for (var i = 2; i < Max; i++)
            Deliver(Add().FirstId);
        Assert.Equal(Max, Add().FirstId);
        Assert.Equal(Errno.None, Deliver(Max));
        // 1 is under way.
        Assert.Equal(Max + 2, Add().FirstId);
        Assert.Equal(Errno.None, Deliver(Max + 2));
        // All but that one in a run: it begins behind the one, a turn later.
        var run = Add(Max - 1);
        Assert.Equal((2 * Max) + 2, run.FirstId);
        Assert.Equal(Errno.None, Deliver(1));
        Assert.Equal((0, 0, Max - 1), (first.Outstanding, second.Outstanding, run.Outstanding));
        // And a short one behind it.
        for (var i = 0; i < Max - 1; i++)
            Assert.Equal(Errno.None, Deliver(run.FirstId + i));
        Assert.Equal(run.FirstId + Max - 1, Add(3).FirstId);
    }

    [Fact]
    public void Run_needs_ids_without_a_gap()
    {
        var all = Enumerable.Range(0, Max).Select(_ => Add()).ToList();
        foreach (var at in new[] { 10, 11, 13, 14, 20 })
            Deliver(at);
        Assert.False(_calls.TryAdd(new VfioUserCall(), REGION_READ, 3, out var fault));
        Assert.Equal(Errno.ENOBUFS, fault.Errno);
        Deliver(12);
        Assert.Equal(Max + 10, Add(5).FirstId);
        Assert.Equal((1, 0), (all[9].Outstanding, all[14].Outstanding));
    }

    [Fact]
    public void Reply_goes_to_its_request_with_payload_and_descriptors()
    {
        using var signal = new EventFd();
        var (one, other) = (Add(), Add(1, DEVICE_GET_INFO));
        List<FileDescriptor> list = [signal.Descriptor];
        Assert.Equal(Errno.None, Deliver(1, DEVICE_GET_INFO, Longs([.. Enumerable.Range(0, 20).Select(i => (ulong)i)]), descriptors: list));
        Assert.Equal((1, 0, 160, 19UL, Fault.None), (one.Outstanding, other.Outstanding, other.Reply.Length, other.Read<ulong>(152), other.Fault));
        Assert.Equal([signal.Descriptor], other.Descriptors);
        Assert.Empty(list);
        Assert.Equal(Errno.None, Deliver(0, payload: Words(7)));
        Assert.Equal((0, 4, 7u), (one.Outstanding, one.Reply.Length, one.Read<uint>()));
        // Each is answered once.
        Assert.Equal(Errno.EPROTO, Deliver(0));
        // Used again, it is as new, and a shorter reply is all there is.
        Assert.True(_calls.TryAdd(other, REGION_READ, 1, out _));
        Assert.Equal(Errno.None, Deliver(other.FirstId, payload: Words(8)));
        Assert.Equal((4, 8u), (other.Reply.Length, other.Read<uint>()));
    }

    [Fact]
    public void Reply_to_nothing_and_reply_to_something_else_are_told_of()
    {
        Assert.Equal(Errno.EPROTO, Deliver(0));
        var call = Add(2);
        Assert.Equal(Errno.EPROTO, Deliver(2));
        Assert.Equal(Errno.EPROTO, Deliver(Max));
        Assert.Equal(Errno.EPROTO, Deliver(-1));
        Assert.Equal(Errno.EPROTO, Deliver(1, REGION_WRITE));
        Assert.Equal(2, call.Outstanding);
        Assert.Equal(Errno.None, Deliver(1));
    }

    [Theory]
    [InlineData(Errno.EINVAL, Errno.EINVAL)]
    [InlineData(Errno.None, Errno.EIO)]
    public void Refusal_is_the_calls_fault_and_stores_nothing(Errno error, Errno seen)
    {
        var call = Add(2);
        Assert.Equal(Errno.None, Deliver(0, payload: Words(1), flags: 0x21, error: error));
        Assert.Equal((seen, 1, 0), (call.Fault.Errno, call.Outstanding, call.Reply.Length));
        // The first one counts.
        Assert.Equal(Errno.None, Deliver(1, flags: 0x21, error: Errno.ENOENT));
        Assert.Equal((seen, 0), (call.Fault.Errno, call.Outstanding));
        Assert.True(_calls.TryAdd(call, REGION_READ, 1, out _));
        Assert.Equal(Fault.None, call.Fault);
    }

    [Fact]
    public void Replies_of_a_run_go_where_it_says_by_their_place_in_it()
    {
        Add();
        var run = new Run();
        var call = Add(4, REGION_WRITE, run);
        Assert.Equal(Errno.None, Deliver(2, DMA_WRITE, Words(11)));
        Assert.Equal(Errno.EPROTO, Deliver(3, DMA_WRITE));
        Assert.Equal(Errno.None, Deliver(4, flags: 0x21, command: DMA_WRITE, error: Errno.EPERM));
        Assert.Equal((Errno.EPERM, 2), (call.Fault.Errno, call.Outstanding));
        Assert.Equal(Errno.None, Deliver(1, DMA_READ, []));
        Assert.Equal(Errno.None, Deliver(3, DMA_READ, flags: 0x21));
        Assert.Equal(["1: 0b000000", "3 failed EPERM", "0: ", "2 failed EIO"], run.Seen);
        Assert.Equal((Errno.EPERM, 0, 0), (call.Fault.Errno, call.Outstanding, call.Reply.Length));
        // Too short, with nothing before it.
        var shorter = Add(2, REGION_WRITE, run);
        Assert.Equal(Errno.None, Deliver(shorter.FirstId, DMA_READ, []));
        Assert.Equal((Errno.EPROTO, 1), (shorter.Fault.Errno, shorter.Outstanding));
    }

    [Fact]
    public void Replies_to_what_was_given_up_are_passed_over_and_no_others()
    {
        var call = Add(3);
        var other = Add();
        Assert.Equal(Errno.None, Deliver(1));
        _calls.GiveUp(call, _late);
        Assert.Equal((0, Errno.ETIMEDOUT), (call.Outstanding, call.Fault.Errno));
        Assert.Equal(Errno.None, Deliver(0));
        Assert.Equal(Errno.None, Deliver(2));
        Assert.Equal(Errno.EPROTO, Deliver(2));
        Assert.Equal(Errno.None, Deliver(3));
        Assert.Equal(0, other.Outstanding);
        // Nothing more is under way, so all ids are free; and what failed before keeps its own reason.
        var last = Add(Max);
        Deliver(last.FirstId, flags: 0x21, error: Errno.EPERM);
        _calls.GiveUp(last, _late);
        Assert.Equal(Errno.EPERM, last.Fault.Errno);
        Add(Max);
    }

    [Fact]
    public void Requests_for_memory_are_given_up_by_their_addresses()
    {
        Assert.False(_calls.GiveUp(0, ulong.MaxValue, _late));
        var top = Add();
        (top.Address, top.Length) = (ulong.MaxValue, 1);
        var call = Add();
        (call.Address, call.Length) = (0x1000, 0x100);
        var none = Add();
        (none.Address, none.Length) = (0x1000, 0);
        foreach (var (start, last) in new[] { (0UL, 0xfffUL), (0x1100UL, 0x2000UL) })
        {
            Assert.True(_calls.GiveUp(start, last, _late));
            Assert.Equal((1, 1, 1), (top.Outstanding, call.Outstanding, none.Outstanding));
        }

        foreach (var (start, last) in new[] { (0UL, 0x1000UL), (0x10ffUL, 0x2000UL), (0x1010UL, 0x1010UL), (0UL, ulong.MaxValue - 1) })
        {
            Assert.True(_calls.GiveUp(start, last, _late));
            Assert.Equal((1, 0, 1), (top.Outstanding, call.Outstanding, none.Outstanding));
            Assert.True(_calls.TryAdd(call, REGION_READ, 1, out _));
        }

        _calls.GiveUp(ulong.MaxValue, ulong.MaxValue, _late);
        Assert.Equal((0, 1, 1), (top.Outstanding, call.Outstanding, none.Outstanding));
    }

    [Fact]
    public void Oldest_is_the_one_that_waits_longest()
    {
        Assert.Equal(long.MaxValue, _calls.Oldest());
        var before = Environment.TickCount64;
        var (first, second, third) = (Add(), Add(2), Add());
        Assert.InRange(first.Since, before, Environment.TickCount64);
        (first.Since, second.Since, third.Since) = (5, 3, 4);
        Assert.Equal(3, _calls.Oldest());
        Deliver(second.FirstId);
        Assert.Equal(3, _calls.Oldest());
        Deliver(second.FirstId + 1);
        Assert.Equal(4, _calls.Oldest());
        _calls.GiveUp(third, _late);
        Assert.Equal(5, _calls.Oldest());
        Deliver(first.FirstId);
        Assert.Equal(long.MaxValue, _calls.Oldest());
    }

    [Fact]
    public void Request_is_put_together_where_there_is_room()
    {
        var call = new VfioUserCall();
        call.Request(64)[63] = 1;
        Assert.Equal((64, 1), (call.Request(64).Length, call.Request(64)[63]));
        Assert.Equal(65, call.Request(65).Length);
        Assert.Equal(10, call.Request(10).Length);
        call.Store(new byte[64]);
        call.Store(new byte[65]);
        Assert.Equal(65, call.Reply.Length);
    }

    /// <summary>A run of writes and reads in turns.</summary>
    private sealed class Run : IVfioUserRun
    {
        internal List<string> Seen { get; } = [];

        public VfioUserCommand CommandOf(int index) => index % 2 == 0 ? DMA_READ : DMA_WRITE;

        public void Fail(int index, Errno error) => Seen.Add($"{index} failed {error}");

        public bool TryStore(int index, ReadOnlySpan<byte> payload)
        {
            Seen.Add($"{index}: {Convert.ToHexStringLower(payload)}");
            return !payload.IsEmpty;
        }
    }
}
