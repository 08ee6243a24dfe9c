using System.Buffers.Binary;
using Virtbus.Memory;
using Virtbus.Platform;
using Virtbus.Transports.VhostUser;
using static Virtbus.Tests.DataPath.FrontEnd;
using static Virtbus.Transports.VhostUser.VhostUserRequest;

namespace Virtbus.Tests.DataPath;

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
            _fixture.Log.WaitFor(1012, "start QEMU with share=on");
            Assert.Contains("-object memory-backend-memfd,id=mem,size=SIZE,share=on", _fixture.Server.Hint, StringComparison.Ordinal);
        }
        _fixture.WaitIdle(1);
        Assert.NotNull(_fixture.Server.Hint);

        using var next = Connected();
        Assert.Null(_fixture.Server.Hint);
        // An address beside the memory that is shared is another mistake.
        Assert.NotEqual(0u, next.Ask(SET_VRING_ADDR, Numbers(0, 0x1000, 0x2000, 0x3000, 0), 9));
        Assert.Null(_fixture.Server.Hint);
        Assert.Equal(1, _fixture.Log.Count(1012));
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
            Assert.Equal(ProcessName.Escape(System.IO.File.ReadAllText("/proc/self/comm").TrimEnd('\n')), first.Name);
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

    [Fact]
    public void Disabled_ring_rests_and_looks_at_its_ring_when_enabled_again()
    {
        using var front = Connected();
        front.ReadSector(0);
        front.Do(SET_VRING_ENABLE, State(0, 0));
        front.AddRead(0, 512);
        Assert.Equal(1, front.Ring.UsedIndex);
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
        var (descriptors, mappings) = (Kernel.Descriptors, Kernel.Mappings);
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
        front.Do(SET_VRING_BASE, State(0, front.Ring.UsedIndex));
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
        front.Ring.AddHead(RingSize + 1);
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
        int descriptors = Kernel.Descriptors, mappings = Kernel.Mappings;
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
        int descriptors = Kernel.Descriptors, mappings = Kernel.Mappings;
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
