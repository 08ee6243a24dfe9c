using System.Buffers.Binary;
using Virtbus.Memory;
using Virtbus.Platform;
using Virtbus.Transports.VhostUser;
using Virtbus.Wire.VhostUser;
using static Virtbus.Wire.VhostUser.VhostUserRequest;
using static Virtbus.Tests.FrontEnd;

namespace Virtbus.Tests.Transports.VhostUser;

[Collection(nameof(ServiceThread))]
public sealed class VhostUserServerTests : IDisposable
{
    private readonly VhostUserFixture _fixture = new();

    public void Dispose() => _fixture.Dispose();

    private FrontEnd Connected()
    {
        var front = new FrontEnd(_fixture.Socket);
        front.Connect();
        return front;
    }

    [Fact]
    public void Front_end_reads_the_disk()
    {
        using var front = Connected();
        for (var i = 0; i < 100; i++)
            front.ReadSector((ulong)i);
        Deadline.Until(() => front.Call.TryRead(out _), "the call");
        Assert.True(_fixture.Server.IsConnected);
        Assert.Equal(100u, _fixture.Server.GetQueueCounters(0).Requests);
        Assert.Equal(51200u, _fixture.Server.GetQueueCounters(0).Bytes);
        Assert.NotEqual(0u, _fixture.Server.PeerFeatures);
        Assert.NotEqual(0u, _fixture.Server.PeerProtocolFeatures);
    }

    [Fact]
    public void Front_end_that_shares_no_memory_is_told_how_to_start_until_the_next_one_comes()
    {
        // What QEMU 7.2 and 11 send with memory of their own: rings, and no region before them.
        using (var front = new FrontEnd(_fixture.Socket))
        {
            var features = front.Ask(GET_FEATURES, [])!.Value;
            front.Send(SET_FEATURES, Number(features & ~(1UL << 30)));
            Assert.Null(_fixture.Server.Hint);
            front.Send(SET_VRING_NUM, State(0, RingSize));
            front.Send(SET_VRING_BASE, State(0, 0));
            front.Send(SET_VRING_ADDR, front.RingAddress());
            front.ExpectClosed();
            _fixture.Log.WaitFor(1016, "start QEMU with share=on");
            Assert.Contains("-object memory-backend-memfd,id=mem,size=SIZE,share=on", _fixture.Server.Hint, StringComparison.Ordinal);
        }
        _fixture.WaitIdle(1);
        Assert.NotNull(_fixture.Server.Hint);

        using var next = Connected();
        Assert.Null(_fixture.Server.Hint);
        // An address beside the memory that is shared is another mistake.
        Assert.NotEqual(0u, next.Ask(SET_VRING_ADDR, Numbers(0, 0x1000, 0x2000, 0x3000, 0), 9));
        Assert.Null(_fixture.Server.Hint);
        Assert.Equal(1, _fixture.Log.Count(1016));
    }

    [Fact]
    public void Server_tells_who_is_connected_and_what_came_from_it()
    {
        Assert.Null(_fixture.Server.Connection);
        var before = TimeProvider.System.GetUtcNow();
        using (var front = Connected())
        {
            var first = _fixture.Server.Connection!;
            Assert.Equal((Environment.ProcessId, 0L, 1), (first.Process, first.BadMessages, first.Maps));
            Assert.Equal(PrintableText.Escape(System.IO.File.ReadAllText("/proc/self/comm").TrimEnd('\n')), first.Name);
            Assert.InRange(first.Since, before, TimeProvider.System.GetUtcNow());
            Assert.NotEqual(0u, front.Ask(SET_VRING_NUM, State(0, 3), 9));
            var second = _fixture.Server.Connection!;
            Assert.Equal((first.Messages + 1, 1L), (second.Messages, second.BadMessages));
        }
        _fixture.WaitIdle(1);
        Assert.Null(_fixture.Server.Connection);
        Assert.Equal((1L, 1L), (_fixture.Server.Connections, _fixture.Server.BadMessages));
        using var next = Connected();
        Assert.Equal(0, _fixture.Server.Connection!.BadMessages);
    }

    [Fact]
    public void Offers_what_it_does()
    {
        using var front = new FrontEnd(_fixture.Socket);
        var features = front.Ask(GET_FEATURES, []);
        Assert.Equal(_fixture.Device.DeviceFeatures | (1UL << 30), features);
        // MQ, REPLY_ACK, BACKEND_REQ, CONFIG, RESET_DEVICE, CONFIGURE_MEM_SLOTS, STATUS.
        Assert.Equal(0x1a229u, front.Ask(GET_PROTOCOL_FEATURES, []));
        Assert.Equal(2u, front.Ask(GET_QUEUE_NUM, []));
        Assert.Equal(509u, front.Ask(GET_MAX_MEM_SLOTS, []));
    }

    [Theory]
    [InlineData(57)]
    [InlineData(60)]
    [InlineData(96)]
    public void Configuration_space_is_read_in_the_size_asked_for(int size)
    {
        using var front = new FrontEnd(_fixture.Socket);
        front.Send(GET_CONFIG, [.. State(0, (uint)size), 0, 0, 0, 0, .. new byte[size]]);
        var reply = front.Receive(GET_CONFIG)!;
        Assert.Equal(12 + size, reply.Length);
        Assert.Equal(2048u, BinaryPrimitives.ReadUInt64LittleEndian(reply.AsSpan(12)));
    }

    [Fact]
    public void Configuration_space_out_of_bounds_gets_an_empty_reply()
    {
        using var front = new FrontEnd(_fixture.Socket);
        front.Send(GET_CONFIG, [.. State(90, 8), 0, 0, 0, 0, .. new byte[8]]);
        Assert.Empty(front.Receive(GET_CONFIG)!);
        front.Send(GET_CONFIG, [.. State(0xffffffff, 8), 0, 0, 0, 0, .. new byte[8]]);
        Assert.Empty(front.Receive(GET_CONFIG)!);
    }

    [Fact]
    public void Written_configuration_reaches_the_device()
    {
        using var front = Connected();
        front.Do(SET_CONFIG, [.. State(32, 1), 0, 0, 0, 0, 0]);
        Assert.NotEqual(0u, front.Ask(SET_CONFIG, [.. State(0, 1), 0, 0, 0, 0, 0], 9));
        front.ReadSector(0);
    }

    [Fact]
    public void Write_through_stays_for_its_front_end_and_for_the_next_ones()
    {
        var counting = new CountingBackend();
        using var fixture = new VhostUserFixture(counting);
        using (var first = new FrontEnd(fixture.Socket))
        {
            Assert.Equal(1, first.ReadMode());
            first.Connect();
            first.WriteSector(0);
            Assert.Equal(0, counting.Flushes);
            first.Do(SET_CONFIG, [.. State(32, 1), 0, 0, 0, 0, 0]);
            first.WriteSector(0);
            Assert.Equal(1, counting.Flushes);
            // Pause and resume of QEMU 7.2.
            Reset(first, byRequest: false);
            first.Do(SET_VRING_ENABLE, State(0, 0));
            first.Ask(GET_VRING_BASE, State(0, 0));
            StartRing(first, 2, fixture.Device.DeviceFeatures);
            first.WriteSector(0);
            Assert.Equal(2, counting.Flushes);
            Reset(first, byRequest: true);
            Assert.Equal(0, first.ReadMode());
            StartRing(first, 3, fixture.Device.DeviceFeatures);
            first.WriteSector(0);
            Assert.Equal(3, counting.Flushes);
        }

        // A new one sees what is in force.
        using (var second = new FrontEnd(fixture.Socket))
        {
            Assert.Equal(0, second.ReadMode());
            second.Connect();
            second.WriteSector(0);
            Assert.Equal(4, counting.Flushes);
            second.Do(SET_CONFIG, [.. State(32, 1), 0, 0, 0, 0, 1]);
            second.WriteSector(0);
            Assert.Equal(4, counting.Flushes);
        }

        // The first one is back, and goes by what it knows.
        using (var again = new FrontEnd(fixture.Socket))
        {
            again.Connect();
            again.WriteSector(0);
            Assert.Equal(5, counting.Flushes);
            Assert.Equal(0, again.ReadMode());
            again.WriteSector(0);
            Assert.Equal(6, counting.Flushes);
        }

        using var third = new FrontEnd(fixture.Socket);
        Assert.Equal(1, third.ReadMode());
        third.Connect();
        third.WriteSector(0);
        Assert.Equal(6, counting.Flushes);
    }

    // QEMU hands a guest's write on whenever it comes.
    [Fact]
    public void Configuration_may_be_written_before_features_are_taken()
    {
        var counting = new CountingBackend();
        using var fixture = new VhostUserFixture(counting);
        using var front = new FrontEnd(fixture.Socket);
        front.Send(SET_PROTOCOL_FEATURES, Number(0x1a229));
        front.ReadMode();
        front.Do(SET_CONFIG, [.. State(32, 1), 0, 0, 0, 0, 0]);
        front.Connect();
        front.WriteSector(0);
        Assert.Equal(1, counting.Flushes);
    }

    [Fact]
    public void Stopped_ring_tells_its_base_and_goes_on_from_it()
    {
        using var front = Connected();
        for (var i = 0; i < 7; i++)
            front.ReadSector(0);
        // The second number is a left-over that DPDK sends.
        var reply = front.Ask(GET_VRING_BASE, State(0, 1));
        Assert.Equal(7UL << 32, reply);
        front.Do(SET_VRING_NUM, State(0, RingSize));
        front.Do(SET_VRING_BASE, State(0, 7));
        front.Do(SET_VRING_ADDR, front.RingAddress());
        front.AddRead(0, 512);
        front.Do(SET_VRING_KICK, Number(0), front.Kick.Descriptor);
        front.WaitUsed();
    }

    // What QEMU 7.2 sends at stop and cont; newer ones send the reset last.
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Ring_that_a_reset_stopped_tells_its_base_until_there_is_a_new_one(bool byRequest)
    {
        using var front = Connected();
        for (var i = 0; i < 7; i++)
            front.ReadSector(0);
        Reset(front, byRequest);
        front.Do(SET_VRING_ENABLE, State(0, 0));
        Assert.Equal(7UL << 32, front.Ask(GET_VRING_BASE, State(0, 0)));
        Reset(front, byRequest);
        Assert.Equal(7UL << 32, front.Ask(GET_VRING_BASE, State(0, 0)));
        Assert.Equal(1u, front.Ask(GET_VRING_BASE, State(1, 0)));

        front.AddRead(0, 512);
        StartRing(front, 7);
        front.WaitUsed();
        front.ReadSector(0);
        // Not one of those before it ran again.
        Assert.Equal(9u, _fixture.Device.GetQueueCounters(0).Requests);
        Assert.Equal(9UL << 32, front.Ask(GET_VRING_BASE, State(0, 0)));
        front.Do(SET_VRING_BASE, State(0, 5));
        Assert.Equal(5UL << 32, front.Ask(GET_VRING_BASE, State(0, 0)));
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Ring_started_after_a_reset_without_a_base_begins_at_its_first_entry(bool byRequest)
    {
        using var front = Connected();
        front.ReadSector(0);
        front.ReadSector(0);
        Reset(front, byRequest);
        Assert.Equal(2UL << 32, front.Ask(GET_VRING_BASE, State(0, 0)));
        front.Memory.Write(0, new byte[(int)HeaderAt]);
        front.ClearRing();
        StartRing(front, null);
        front.ReadSector(0);
        Assert.Equal(1UL << 32, front.Ask(GET_VRING_BASE, State(0, 0)));
    }

    private static void Reset(FrontEnd front, bool byRequest)
    {
        if (byRequest)
            front.Do(RESET_DEVICE, []);
        else
            front.Do(SET_STATUS, Number(0));
    }

    private static void StartRing(FrontEnd front, ushort? index, ulong features = 1UL << 29 | 1UL << 32)
    {
        front.Do(SET_FEATURES, Number(1UL << 30 | features));
        front.Do(SET_VRING_NUM, State(0, RingSize));
        if (index is { } begin)
            front.Do(SET_VRING_BASE, State(0, begin));
        front.Do(SET_VRING_ADDR, front.RingAddress());
        front.Do(SET_VRING_KICK, Number(0), front.Kick.Descriptor);
        front.Do(SET_VRING_CALL, Number(0), front.Call.Descriptor);
        front.Do(SET_VRING_ENABLE, State(0, 1));
    }

    [Fact]
    public void Disabled_ring_rests_and_looks_at_its_ring_when_enabled_again()
    {
        using var front = Connected();
        front.ReadSector(0);
        front.Do(SET_VRING_ENABLE, State(0, 0));
        front.AddRead(0, 512);
        Assert.Equal(1, front.SplitRing.Writer.UsedIndex);
        front.Kick.TryRead(out _);
        front.Do(SET_VRING_ENABLE, State(0, 1));
        front.WaitUsed();
    }

    [Fact]
    public void Call_eventfd_may_be_replaced_while_the_ring_runs_and_is_signalled_once()
    {
        using var front = Connected();
        front.ReadSector(0);
        using var other = new EventFd();
        front.Do(SET_VRING_CALL, Number(0), other.Descriptor);
        Assert.True(other.TryRead(out _));
        front.ReadSector(0);
        Deadline.Until(() => other.TryRead(out _), "the call on the new eventfd");
        front.Do(SET_VRING_CALL, Number(0x100));
        front.ReadSector(0);
        Assert.False(other.TryRead(out _));
    }

    [Theory]
    [InlineData(SET_VRING_KICK)]
    [InlineData(SET_VRING_CALL)]
    [InlineData(SET_VRING_ERR)]
    public void Eventfd_that_is_replaced_is_closed(object request)
    {
        using var front = Connected();
        front.ReadSector(0);
        using var first = new EventFd();
        using var second = new EventFd();
        front.Do((VhostUserRequest)request, Number(0), first.Descriptor);
        var before = Kernel.DescriptorsBefore();
        for (var i = 0; i < 32; i++)
            front.Do((VhostUserRequest)request, Number(0), i % 2 == 0 ? second.Descriptor : first.Descriptor);
        Assert.Equal(before, Kernel.Descriptors);
    }

    [Fact]
    public void Ring_without_a_kick_descriptor_is_polled()
    {
        using var front = Connected();
        front.Do(SET_VRING_KICK, Number(0x100));
        front.ReadSector(0);
        front.ReadSector(0);
    }

    [Fact]
    public void Memory_comes_and_goes_while_the_ring_runs()
    {
        using var front = Connected();
        using var more = HostMemory.Allocate("virtbus-test", 8192, out var file);
        front.ReadSector(0);
        front.Do(ADD_MEM_REG, Region(0x9000_0000, 8192, 0x9000_0000), file);
        front.Memory.Write(HeaderAt, Numbers(0, 0));
        front.Ring.Add([Buffer(HeaderAt, 16, false), new(new Iova(0x9000_0000), 8192 - 512, true), Buffer(StatusAt, 1, true)]);
        if (front.Ring.Publish())
            front.Kick.Signal();
        front.WaitUsed();
        // A descriptor may come with the removal; it is closed.
        front.Do(REM_MEM_REG, Region(0x9000_0000, 8192, 0x9000_0000), file);
        Assert.NotEqual(0u, front.Ask(REM_MEM_REG, Region(0x9000_0000, 8192, 0x9000_0000), 9));
        front.ReadSector(0);
        file.Dispose();
    }

    [Theory]
    [InlineData(true, 0)]
    [InlineData(false, 1)]
    public void Memory_that_may_shrink_is_told_of_once_where_that_ends_the_process(bool sealedSize, int lines)
    {
        using var front = Connected();
        using var file = MemoryFile.Create("virtbus-test", 8192, sealedSize);
        front.Do(ADD_MEM_REG, Region(0x9000_0000, 4096, 0x9000_0000), file);
        front.Do(ADD_MEM_REG, Region(0xa000_0000, 4096, 0xa000_0000), file);
        Assert.Equal(Mapping.IsGuardSupported ? 0 : lines, _fixture.Log.Count(1010));
    }

    [Fact]
    public void Front_end_that_shrinks_its_memory_loses_its_session_and_no_more()
    {
        Assert.SkipUnless(Mapping.IsGuardSupported, "no guard on this architecture: shrinking ends the process");
        var (descriptors, mappings) = (Kernel.DescriptorsBefore(), Kernel.Mappings);
        using (var front = Connected())
        using (var file = MemoryFile.Create("virtbus-test", 8192, sealedSize: false))
        {
            front.Do(ADD_MEM_REG, Region(0x9000_0000, 8192, 0x9000_0000), file);
            front.ReadSector(0);
            Assert.Equal(0, Libc.ftruncate(file, 0));
            // The device writes there what it read.
            front.AddRead(0, 512, 0x9000_0000);
            front.ExpectClosed();
        }

        _fixture.WaitIdle(1);
        Assert.Equal(1, _fixture.Log.Count(1011));
        using (var next = Connected())
            next.ReadSector(0);
        _fixture.WaitIdle(2);
        Assert.Equal((descriptors, mappings), (Kernel.Descriptors, Kernel.Mappings));
    }

    [Fact]
    public void Front_end_that_shares_huge_files_takes_no_other_ones_reserve()
    {
        var budget = new MappingBudget(4096, 1UL << 41);
        using var fixture = new VhostUserFixture(mappings: budget);
        using var others = new VhostUserFixture(mappings: budget);
        using var calm = new FrontEnd(others.Socket);
        Deadline.Until(() => others.Server.IsConnected, "the first front end");
        using (var greedy = new FrontEnd(fixture.Socket))
        {
            greedy.Connect();
            var (refused, at) = (0, 1UL << 48);
            for (var size = 1UL << 46; size >= 4096; size /= 2)
            {
                using var file = MemoryFile.Create("virtbus-huge", size);
                var answer = (Errno)greedy.Ask(ADD_MEM_REG, Region(at, size, at), 9, file)!.Value;
                Assert.True(answer is Errno.None or Errno.ENOSPC, $"{answer} for {size}");
                refused += answer == Errno.ENOSPC ? 1 : 0;
                at += size;
            }

            Assert.True(refused > 5, $"{refused} refused");
            calm.Connect();
            calm.ReadSector(0);
            greedy.ReadSector(0);
        }

        fixture.WaitIdle(1);
        Deadline.Until(() => budget.Mappings == budget.AccountMappings, "what the greedy one had");
    }

    [Fact]
    public void Front_end_that_nothing_can_be_reserved_for_is_turned_away_until_another_one_goes()
    {
        var budget = new MappingBudget(1, 1UL << 40);
        using var fixture = new VhostUserFixture(mappings: budget);
        using var others = new VhostUserFixture(mappings: budget);
        using (var first = new FrontEnd(fixture.Socket))
        {
            first.Connect();
            using var late = new FrontEnd(others.Socket);
            late.ExpectClosed();
            others.Log.WaitFor(1012, "vm.max_map_count");
        }

        fixture.WaitIdle(1);
        others.WaitIdle(1);
        using var next = new FrontEnd(others.Socket);
        next.Connect();
        next.ReadSector(0);
    }

    public static TheoryData<string, uint, byte[]> RefusedSetUps => new()
    {
        { "an address in no region", (uint)SET_VRING_ADDR, Numbers(0, 0x1000, UserBase, UserBase, 0) },
        { "a ring beyond its region's end", (uint)SET_VRING_ADDR, Numbers(0, UserBase + MemorySize - 16, UserBase, UserBase, 0) },
        { "a ring that is not aligned", (uint)SET_VRING_ADDR, Numbers(0, UserBase + 8, UserBase, UserBase, 0) },
        { "a ring flag", (uint)SET_VRING_ADDR, Numbers(1UL << 32, UserBase, UserBase, UserBase, 0) },
        { "a size that is no power of two", (uint)SET_VRING_NUM, Numbers(3UL << 32) },
        { "a base of more than 16 bits", (uint)SET_VRING_BASE, Numbers(0x10000UL << 32) },
        { "an enable that is neither", (uint)SET_VRING_ENABLE, Numbers(2UL << 32) },
        { "a feature that is not offered", (uint)SET_FEATURES, Numbers(1UL << 62) },
        { "a status of more than 8 bits", (uint)SET_STATUS, Numbers(0x100) },
    };

    [Theory]
    [MemberData(nameof(RefusedSetUps))]
    public void Refused_request_leaves_a_ring_running(string what, uint request, byte[] payload)
    {
        using var front = Connected();
        front.ReadSector(0);
        Assert.True(front.Ask((VhostUserRequest)request, payload, 9) is not null and not 0, what);
        front.ReadSector(1);
    }

    [Fact]
    public void Ring_waits_while_its_region_is_taken_out_and_put_back()
    {
        using var front = Connected();
        front.ReadSector(0);
        front.Do(REM_MEM_REG, Region(GuestBase, MemorySize, UserBase));
        front.AddRead(0, 512);
        front.Do(ADD_MEM_REG, Region(GuestBase, MemorySize, UserBase), front.File);
        front.WaitUsed();
        front.ReadSector(0);
        Assert.Equal(0, _fixture.Log.Count(1005));
    }

    [Fact]
    public void Memory_table_replaces_all_regions_while_the_ring_runs()
    {
        using var front = Connected();
        front.ReadSector(0);
        for (var i = 0; i < 5; i++)
        {
            front.Do(SET_MEM_TABLE, [.. Number(1), .. Region(GuestBase, MemorySize, UserBase)[8..]], front.File);
            front.ReadSector(0);
        }
    }

    [Fact]
    public void Device_reset_keeps_the_session_and_its_memory()
    {
        using var front = Connected();
        front.ReadSector(0);
        front.Do(RESET_DEVICE, []);
        Assert.Equal(0, _fixture.Device.Status);
        Restart(front);
        front.Do(SET_STATUS, Number(0xb));
        Assert.Equal(0xbu, front.Ask(GET_STATUS, [], 9));
        front.Do(SET_STATUS, Number(0));
        Assert.Equal(0, _fixture.Device.Status);
        Restart(front);
    }

    private static void Restart(FrontEnd front)
    {
        front.Do(SET_FEATURES, Number(1UL << 30 | 1UL << 29 | 1UL << 32));
        front.Do(SET_VRING_NUM, State(0, RingSize));
        front.Do(SET_VRING_ADDR, front.RingAddress());
        front.Do(SET_VRING_BASE, State(0, front.SplitRing.Writer.UsedIndex));
        front.Do(SET_VRING_KICK, Number(0), front.Kick.Descriptor);
        front.Do(SET_VRING_ENABLE, State(0, 1));
        front.ReadSector(0);
    }

    [Fact]
    public void Front_end_without_protocol_features_has_its_rings_enabled_at_once()
    {
        using var front = new FrontEnd(_fixture.Socket, eventIndex: false);
        front.Send(SET_OWNER, []);
        front.Send(SET_FEATURES, Number(1UL << 32));
        front.Send(SET_MEM_TABLE, [.. Number(1), .. Region(GuestBase, MemorySize, UserBase)[8..]], 1, front.File);
        front.Send(SET_VRING_NUM, State(0, RingSize));
        front.Send(SET_VRING_BASE, State(0, 0));
        front.Send(SET_VRING_ADDR, front.RingAddress());
        front.Send(SET_VRING_CALL, Number(0), 1, front.Call.Descriptor);
        front.Send(SET_VRING_KICK, Number(0), 1, front.Kick.Descriptor);
        front.ReadSector(0);
    }

    [Fact]
    public void Change_of_configuration_is_announced_on_the_back_end_channel()
    {
        using var front = Connected();
        var (ours, theirs) = UnixStream.CreatePair();
        front.Do(SET_BACKEND_REQ_FD, [], theirs.Descriptor);
        theirs.Dispose();
        // A broken ring sets DEVICE_NEEDS_RESET, of which the driver is told by a change of configuration.
        front.SplitRing.Writer.AddHead(RingSize + 1);
        front.Ring.Publish();
        front.Kick.Signal();
        using var never = new EventFd();
        Assert.True(Polling.Wait(ours.Descriptor, forWriting: false, never, Deadline.Milliseconds));
        var message = new byte[12];
        Assert.Equal(12, ours.Receive(message, [], out _));
        Assert.Equal(2u, BinaryPrimitives.ReadUInt32LittleEndian(message));
        ours.Dispose();
    }

    [Fact]
    public void Next_front_end_is_served_after_the_first_and_nothing_of_it_is_left()
    {
        using (var warmUp = Connected())
            warmUp.ReadSector(0);
        _fixture.WaitIdle(1);
        int descriptors = Kernel.DescriptorsBefore(), mappings = Kernel.Mappings;
        for (var i = 2; i < 12; i++)
        {
            using (var front = Connected())
                front.ReadSector(0);
            _fixture.WaitIdle(i);
            Assert.Equal(descriptors, Kernel.Descriptors);
            Assert.Equal(mappings, Kernel.Mappings);
        }

        Assert.False(_fixture.Server.IsConnected);
        Assert.Equal(11, _fixture.Server.Connections);
    }

    [Fact]
    public void Second_front_end_waits_until_the_first_is_gone()
    {
        var first = Connected();
        using var second = new FrontEnd(_fixture.Socket);
        second.Send(GET_QUEUE_NUM, []);
        first.ReadSector(0);
        Assert.Equal(1, _fixture.Server.Connections);
        first.Dispose();
        Assert.Equal(2u, BinaryPrimitives.ReadUInt64LittleEndian(second.Receive(GET_QUEUE_NUM)!));
    }

    [Fact]
    public void Stop_drops_the_front_end_and_frees_all()
    {
        using (var warmUp = new VhostUserFixture())
        using (var front = new FrontEnd(warmUp.Socket))
            front.Connect();
        int descriptors = Kernel.DescriptorsBefore(), mappings = Kernel.Mappings;
        var fixture = new VhostUserFixture();
        var socket = fixture.Socket;
        using (var front = new FrontEnd(socket))
        {
            front.Connect();
            front.ReadSector(0);
            fixture.Dispose();
            front.ExpectClosed();
        }

        Assert.False(File.Exists(socket));
        Assert.Equal(descriptors, Kernel.Descriptors);
        Assert.Equal(mappings, Kernel.Mappings);
        Assert.Equal(1, fixture.Log.Count(1001));
    }

    [Fact]
    public void Front_ends_that_come_and_go_fill_no_log()
    {
        for (var i = 1; i <= 100; i++)
        {
            new FrontEnd(_fixture.Socket).Dispose();
            _fixture.WaitIdle(i);
        }

        Assert.Equal(100, _fixture.Server.Connections);
        Assert.InRange(_fixture.Log.Count(1002) + _fixture.Log.Count(1003), 2, 40);
        Assert.Equal(_fixture.Log.Count(1002), _fixture.Log.Count(1003));
    }

    [Fact]
    public void Lines_that_were_left_out_are_counted_and_told_of_with_the_next_one()
    {
        var clock = new StandingClock();
        using var fixture = new VhostUserFixture(time: clock);
        for (var i = 1; i <= 30; i++)
        {
            new FrontEnd(fixture.Socket).Dispose();
            fixture.WaitIdle(i);
        }

        Assert.Equal(20, fixture.Log.Count(1002) + fixture.Log.Count(1003));
        Assert.Equal(0, fixture.Log.Count(1013));
        clock.Seconds = 11;
        new FrontEnd(fixture.Socket).Dispose();
        fixture.WaitIdle(31);
        Assert.Equal((1, 22), (fixture.Log.Count(1013), fixture.Log.Count(1002) + fixture.Log.Count(1003)));
        Assert.Contains(": 40 lines left out before this", fixture.Log.Text, StringComparison.Ordinal);
    }

    [Fact]
    public void Front_end_without_a_thread_is_turned_away_and_the_next_one_is_served()
    {
        ServiceThread.Refuses = name => name == "vhost-user";
        try
        {
            using var front = new FrontEnd(_fixture.Socket);
            Assert.ThrowsAny<Exception>(front.Connect);
            Deadline.Until(() => _fixture.Log.Count(1008) == 1, "a line about it");
        }
        finally
        {
            ServiceThread.Refuses = null;
        }

        using var next = new FrontEnd(_fixture.Socket);
        next.Connect();
        next.ReadSector(0);
    }

    [Fact]
    public void Queue_without_a_thread_is_refused_and_starts_when_there_is_room_again()
    {
        // Its back end may block, so that its queues want threads of their own.
        using var backend = new CountingBackend();
        using var fixture = new VhostUserFixture(backend);
        using var front = new FrontEnd(fixture.Socket);
        ServiceThread.Refuses = name => name.Contains("-vq", StringComparison.Ordinal);
        try
        {
            Assert.ThrowsAny<Exception>(front.Connect);
        }
        finally
        {
            ServiceThread.Refuses = null;
        }

        front.Do(SET_VRING_ENABLE, State(0, 0));
        front.Do(SET_VRING_ENABLE, State(0, 1));
        front.ReadSector(0);
    }

    [Fact]
    public async Task Exception_on_a_thread_of_the_service_is_told_and_ends_that_thread_only()
    {
        var told = new TaskCompletionSource<string>();
        ServiceThread.Unhandled = (name, exception) => told.TrySetResult($"{name}: {exception.Message}");
        try
        {
            ServiceThread.Start("some", static () => throw new InvalidOperationException("bug")).Join();
            Assert.Equal("some: bug", await told.Task.WaitAsync(TimeSpan.FromSeconds(10), TestContext.Current.CancellationToken));

            // Who is told of it fails too: that ends nothing more.
            var untold = ServiceThread.Untold;
            ServiceThread.Unhandled = static (_, _) => throw new IOException("full");
            ServiceThread.Start("some", static () => throw new InvalidOperationException("bug")).Join();
            Assert.Equal(untold + 1, ServiceThread.Untold);
        }
        finally
        {
            ServiceThread.Unhandled = null;
        }
    }

    [Fact]
    public void Front_end_that_fills_its_call_eventfd_and_makes_it_blocking_does_not_hold_up_the_stop()
    {
        var front = Connected();
        front.ReadSector(0);
        Blocking.Fill(front.Call);
        front.AddRead(0, 512);
        front.WaitUsed();
        front.Dispose();
        _fixture.WaitIdle(1);
    }
}
