using Virtbus.Memory;
using Virtbus.Platform;
using Virtbus.Transports.VhostUser;
using Virtbus.Wire.VhostUser;
using static Virtbus.Wire.VhostUser.VhostUserRequest;
using static Virtbus.Tests.FrontEnd;

namespace Virtbus.Tests.Transports.VhostUser;

/// <summary>Messages packed by hand that no good front end sends: each gets an error or a closed connection, a log line, and leaves nothing.</summary>
public sealed class BadMessageTests : IDisposable
{
    private readonly VhostUserFixture _fixture = new();
    private readonly int _descriptors;
    private readonly int _mappings;

    public BadMessageTests()
    {
        using (var warmUp = new FrontEnd(_fixture.Socket))
        {
            warmUp.Connect();
            warmUp.ReadSector(0);
        }

        _fixture.WaitIdle(1);
        _descriptors = Kernel.DescriptorsBefore();
        _mappings = Kernel.Mappings;
    }

    public void Dispose()
    {
        // Whatever came: the next front end is served and nothing is left of those before.
        using (var next = new FrontEnd(_fixture.Socket))
        {
            next.Connect();
            next.ReadSector(0);
        }

        _fixture.WaitIdle(_fixture.Server.Connections);
        Assert.Equal(_descriptors, Kernel.Descriptors);
        Assert.Equal(_mappings, Kernel.Mappings);
        _fixture.Dispose();
    }

    private void Closes(Action<FrontEnd> send, string why)
    {
        using (var front = new FrontEnd(_fixture.Socket))
        {
            send(front);
            front.ExpectClosed();
        }

        _fixture.Log.WaitFor(1004, why);
        Assert.Contains("connection closed", _fixture.Log.Text, StringComparison.Ordinal);
    }

    private void Refuses(Func<FrontEnd, ulong?> ask, string why)
    {
        using var front = new FrontEnd(_fixture.Socket);
        front.Connect();
        Assert.NotEqual(0u, ask(front));
        _fixture.Log.WaitFor(1004, why);
        // An error that the protocol can tell does not end the session.
        front.ReadSector(0);
    }

    public static TheoryData<string, byte[]> Headers => new()
    {
        { "version other than 1", Message(GET_FEATURES, [], 0) },
        { "version other than 1", Message(GET_FEATURES, [], 2) },
        { "unknown flags", Message(GET_FEATURES, [], 0x11) },
        { "reply came", Message(GET_FEATURES, [], 5) },
        { "no request", Message(default, []) },
        { "not known", Message((VhostUserRequest)200, []) },
        { "not known", Message((VhostUserRequest)7, []) },
        { "larger than 4096", [1, 0, 0, 0, 1, 0, 0, 0, 1, 0x10, 0, 0] },
        { "larger than 4096", [1, 0, 0, 0, 1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff] },
        { "size that the request does not have", Message(GET_FEATURES, [0]) },
        { "size that the request does not have", Message(SET_FEATURES, new byte[7]) },
        { "size that the request does not have", Message(SET_VRING_ADDR, new byte[41]) },
        { "size that the request does not have", Message(SET_MEM_TABLE, new byte[7]) },
        { "size that the request does not have", Message(SET_MEM_TABLE, [.. Number(2), .. new byte[32]]) },
        { "size that the request does not have", Message(SET_MEM_TABLE, [.. Number(0x8000001), .. new byte[32]]) },
        { "size that the request does not have", Message(GET_CONFIG, [.. State(0, 60), 0, 0, 0, 0]) },
        { "size that the request does not have", Message(GET_CONFIG, [.. State(0, 0xfffffff4)]) },
        { "size that the request does not have", Message(GET_CONFIG, [.. State(0, 300), 0, 0, 0, 0, .. new byte[300]]) },
        { "descriptor is missing", Message(SET_VRING_KICK, Number(0)) },
        { "descriptor is missing", Message(ADD_MEM_REG, Region(0, 4096, 0)) },
        { "descriptor is missing", Message(SET_BACKEND_REQ_FD, []) },
        { "descriptor is missing", Message(SET_MEM_TABLE, [.. Number(1), .. new byte[32]]) },
        { "not below the number of queues", Message(GET_VRING_BASE, State(2, 0)) },
        { "not below the number of queues", Message(SET_VRING_CALL, Number(0x102)) },
        { "feature was taken that was not offered", Message(SET_FEATURES, Number(1UL << 40)) },
        { "protocol feature was taken", Message(SET_PROTOCOL_FEATURES, Number(1UL << 19)) },
        { "in the middle of a message", Message(SET_FEATURES, [])[..5] },
        { "in the middle of a message", Message(SET_FEATURES, Number(0))[..15] },
    };

    [Theory]
    [MemberData(nameof(Headers))]
    public void Bad_message_closes_the_connection(string why, byte[] message)
    {
        var ends = why.StartsWith("in the middle", StringComparison.Ordinal);
        if (ends)
        {
            using (var front = new FrontEnd(_fixture.Socket))
                front.SendRaw(message);
            _fixture.Log.WaitFor(1004, why);
        }
        else
        {
            Closes(front => front.SendRaw(message), why);
        }
    }

    [Theory]
    [InlineData(0u, 8u, 1)]
    [InlineData(1u, 0u, 1)]
    [InlineData(12u, 8u, 2)]
    [InlineData(12u, 8u, 32)]
    [InlineData(37u, 40u, 2)]
    public void Surplus_descriptors_close_the_connection_and_are_closed(uint request, uint size, int count)
    {
        var target = request == 0 ? SET_FEATURES : (VhostUserRequest)request;
        Closes(front => front.Send(target, new byte[size], 1, [.. Enumerable.Repeat(front.Kick.Descriptor, count)]), "more descriptors came");
    }

    [Fact]
    public void Descriptors_in_the_middle_of_a_message_close_the_connection()
    {
        Closes(
            front =>
            {
                var message = Message(SET_FEATURES, Number(0));
                front.SendRaw(message.AsSpan(0, 12));
                front.SendRaw(message.AsSpan(12), front.Kick.Descriptor);
            },
            "in the middle of a message");
    }

    public static TheoryData<string, uint, byte[]> Refused => new()
    {
        { "not below the number of queues", (uint)SET_VRING_NUM, State(2, 16) },
        { "not below the number of queues", (uint)SET_VRING_ENABLE, State(0xffffffff, 1) },
        { "no power of two", (uint)SET_VRING_NUM, State(1, 0) },
        { "no power of two", (uint)SET_VRING_NUM, State(1, 100) },
        { "no power of two", (uint)SET_VRING_NUM, State(1, 2048) },
        { "has 16 bits", (uint)SET_VRING_BASE, State(1, 0x10000) },
        { "enabled by 1", (uint)SET_VRING_ENABLE, State(1, 2) },
        { "lies in no shared region", (uint)SET_VRING_ADDR, Numbers(1, 0, 0, 0, 0) },
        { "lies in no shared region", (uint)SET_VRING_ADDR, Numbers(1, UserBase, UserBase + MemorySize, UserBase, 0) },
        { "ring flag", (uint)SET_VRING_ADDR, Numbers(1 | (1UL << 32), UserBase, UserBase, UserBase, 0) },
        { "more than 8 bits", (uint)SET_STATUS, Number(0x100) },
        { "not known", (uint)22, new byte[32] },
        { "not known", (uint)31, new byte[24] },
        { "no such region", (uint)REM_MEM_REG, Region(GuestBase, MemorySize - 1, UserBase) },
        { "unknown bits", (uint)SET_VRING_CALL, Number(0x301) },
    };

    [Theory]
    [MemberData(nameof(Refused))]
    public void Request_that_makes_no_sense_gets_an_error_and_the_session_goes_on(string why, uint request, byte[] payload) =>
        Refuses(front => front.Ask((VhostUserRequest)request, payload, 9), why);

    [Theory]
    [InlineData(GuestBase + 0x1000, 4096, 0, 0, "overlaps another one")]
    [InlineData(0, 0x10000000000, 0, 0, "larger than its file")]
    [InlineData(0, 4096, 0, 0x40000, "larger than its file")]
    [InlineData(0, 4096, 0, 0xfffffffffffff000, "overflow")]
    [InlineData(0, 0, 0, 0, "no size")]
    [InlineData(0xfffffffffffff000, 0x2000, 0, 0, "wraps")]
    [InlineData(0, 4096, UserBase - 1, 0, "user addresses overlap")]
    public void Region_that_makes_no_sense_gets_an_error_and_the_session_goes_on(ulong start, ulong size, ulong user, ulong offset, string why) =>
        Refuses(front => front.Ask(ADD_MEM_REG, Region(start, size, user, offset), 9, front.File), why);

    [Fact]
    public void Memory_table_with_overlapping_regions_changes_nothing()
    {
        var region = Region(GuestBase, 4096, UserBase)[8..];
        Refuses(front => front.Ask(SET_MEM_TABLE, [.. Number(2), .. region, .. region], 9, front.File, front.File), "overlap");
    }

    [Fact]
    public void Kick_that_is_no_eventfd_is_refused() =>
        Refuses(front => front.Ask(SET_VRING_KICK, Number(1), 9, front.File), "no eventfd");

    [Fact]
    public void Ring_that_leaves_its_region_does_not_start()
    {
        Refuses(
            front =>
            {
                front.Do(SET_VRING_NUM, State(1, 128));
                // The start lies inside, the end does not.
                front.Do(SET_VRING_ADDR, Numbers(1, UserBase + MemorySize - 16, UserBase, UserBase, 0));
                front.Do(SET_VRING_KICK, Number(1), front.Kick.Descriptor);
                return front.Ask(SET_VRING_ENABLE, State(1, 1), 9);
            },
            "is not all in the memory");
    }

    [Fact]
    public void Ring_that_is_not_aligned_does_not_start()
    {
        Refuses(
            front =>
            {
                front.Do(SET_VRING_NUM, State(1, 128));
                front.Do(SET_VRING_ADDR, Numbers(1, UserBase + 8, UserBase, UserBase, 0));
                front.Do(SET_VRING_KICK, Number(1), front.Kick.Descriptor);
                return front.Ask(SET_VRING_ENABLE, State(1, 1), 9);
            },
            "not aligned");
    }

    /// <summary>What the log says, the head, and for each descriptor address, length, flags and next.</summary>
    public static TheoryData<string, ushort, ulong[]> Rings => new()
    {
        { "longer than the queue size", 0, [GuestBase, 1, 1, 1, GuestBase, 1, 1, 0] },
        { "outside guest memory", 0, [0, 16, 0, 0] },
        { "outside guest memory", 0, [ulong.MaxValue - 8, 16, 0, 0] },
        { "outside guest memory", 0, [GuestBase, uint.MaxValue, 0, 0] },
        { "outside guest memory", 0, [GuestBase + MemorySize - 8, 16, 2, 0] },
        { "no length", 0, [GuestBase, 0, 0, 0] },
        { "beyond its table", 0, [GuestBase, 16, 1, 999] },
        { "multiple of 16", 0, [GuestBase + DataAt, 17, 4, 0] },
        { "no header or no status", 0, [GuestBase, 8, 0, 0] },
        { "beyond the queue size", 0xffff, [] },
    };

    [Theory]
    [MemberData(nameof(Rings))]
    public void Broken_ring_stops_its_queue_and_the_session_goes_on(string why, ushort head, ulong[] descriptors)
    {
        using var front = new FrontEnd(_fixture.Socket);
        front.Connect();
        for (var i = 0; i < descriptors.Length; i += 4)
            front.SplitRing.Writer.WriteDescriptor(i / 4, new Iova(descriptors[i]), (uint)descriptors[i + 1], (ushort)descriptors[i + 2], (ushort)descriptors[i + 3]);
        front.SplitRing.Writer.AddHead(head);
        front.Ring.Publish();
        front.Kick.Signal();
        Deadline.Until(() => front.Error.TryRead(out _), "the error eventfd");
        _fixture.Log.WaitFor(1005, why);
        Assert.Equal(0x40u, front.Ask(GET_STATUS, []));
        Assert.Equal(1u, _fixture.Server.GetQueueCounters(0).Errors);
    }

    [Fact]
    public void Bad_messages_do_not_fill_the_log()
    {
        using (var front = new FrontEnd(_fixture.Socket))
        {
            front.Connect();
            for (var i = 0; i < 200; i++)
                Assert.NotEqual(0u, front.Ask(SET_VRING_NUM, State(9, 9), 9));
        }

        Assert.Equal(20, _fixture.Log.Count(1004));
        Assert.Equal(200, _fixture.Server.BadMessages);
    }
}
