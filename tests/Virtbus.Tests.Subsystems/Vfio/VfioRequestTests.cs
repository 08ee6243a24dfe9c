using Virtbus.Memory.Dma;
using Virtbus.Platform;
using Virtbus.Subsystems.Vfio;

namespace Virtbus.Tests.Subsystems.Vfio;

/// <summary>What a handle lets through to a driver, and what it refuses (section 6.2 of the semantics, VS-11).</summary>
public sealed class VfioRequestTests
{
    private const VfioIrqSetFlags AllFlags = (VfioIrqSetFlags)0x3F;

    [Theory]
    [InlineData(0u, 0ul, 64, true)]
    [InlineData(0u, 63ul, 1, true)]
    [InlineData(0u, 64ul, 0, true)]
    [InlineData(0u, 64ul, 1, false)]
    [InlineData(0u, 60ul, 8, false)]
    [InlineData(0u, ulong.MaxValue, 1, false)]
    [InlineData(0u, ulong.MaxValue, 0, false)]
    [InlineData(1u, 0ul, 16, true)]
    [InlineData(1u, 0ul, 17, false)]
    [InlineData(2u, 0ul, 1, false)]
    [InlineData(3u, 0ul, 1, false)]
    [InlineData(uint.MaxValue, 0ul, 1, false)]
    public async Task Read_inside_a_readable_region_only(uint region, ulong offset, int length, bool ok)
    {
        var world = await VfioWorld.NewAsync();
        using var handle = world.Open();
        Assert.Equal(ok, handle.TryRead(region, offset, new byte[length], out var fault));
        Assert.Equal(ok ? Errno.None : Errno.EINVAL, fault.Errno);
    }

    [Theory]
    [InlineData(0u, 0ul, 64, true)]
    [InlineData(0u, 1ul, 64, false)]
    [InlineData(1u, 0ul, 1, false)]
    [InlineData(2u, 0ul, 1, false)]
    public async Task Write_inside_a_writable_region_only(uint region, ulong offset, int length, bool ok)
    {
        var world = await VfioWorld.NewAsync();
        using var handle = world.Open();
        Assert.Equal(ok, handle.TryWrite(region, offset, new byte[length], out var fault));
        Assert.Equal(ok ? Errno.None : Errno.EINVAL, fault.Errno);
    }

    [Fact]
    public async Task Driver_is_asked_once_for_a_region()
    {
        var world = await VfioWorld.NewAsync();
        using var handle = world.Open();
        for (var i = 0; i < 5; i++)
            Assert.True(handle.TryWrite(0, 0, [1], out _));
        Assert.True(handle.TryGetRegionInfo(0, out var info, out _));
        Assert.Equal(64ul, info!.Size);
        Assert.Single(world.Ops.Calls, c => c == "region 0");
        Assert.False(handle.TryGetRegionInfo(3, out _, out var fault));
        Assert.Equal(Errno.EINVAL, fault.Errno);
        Assert.False(handle.TryGetIrqInfo(2, out _, out fault));
        Assert.Equal(Errno.EINVAL, fault.Errno);
    }

    [Fact]
    public async Task Access_allocates_nothing()
    {
        var world = await VfioWorld.NewAsync();
        using var handle = world.Open();
        var bytes = new byte[4];
        for (var i = 0; i < 100; i++)
            handle.TryRead(0, 0, bytes, out _);
        var before = GC.GetAllocatedBytesForCurrentThread();
        for (var i = 0; i < 100; i++)
        {
            handle.TryRead(0, 0, bytes, out _);
            handle.TryWrite(0, 0, bytes, out _);
        }
        Assert.Equal(before, GC.GetAllocatedBytesForCurrentThread());
    }

    /// <summary>All 256 combinations of the low flag bits, and bits above, on both indexes: exactly one data and one action pass.</summary>
    [Fact]
    public async Task Exactly_one_data_and_one_action()
    {
        var world = await VfioWorld.NewAsync();
        using var handle = world.Open();
        using var eventFd = new EventFd();
        EventFd?[] eventFds = [eventFd];
        byte[] bools = [1];
        for (uint index = 0; index < 2; index++)
        {
            for (uint flags = 0; flags < 256; flags++)
            {
                var data = flags & 7;
                var action = flags & 0x38;
                var maskable = index == 0;
                var ok = flags < 0x40 && data is 1 or 2 or 4 && action is 8 or 0x10 or 0x20 && flags < 0x40 && (maskable || action == 0x20);
                var set = new VfioIrqSet { Flags = (VfioIrqSetFlags)flags, Index = index, Start = 0, Count = 1, Bools = bools, EventFds = eventFds };
                Assert.True(ok == handle.TrySetIrqs(set, out var fault), $"index {index}, flags 0x{flags:x}: {fault.Message}");
                Assert.Equal(ok ? Errno.None : Errno.EINVAL, fault.Errno);
            }
        }
        Assert.False(handle.TrySetIrqs(new VfioIrqSet { Flags = (VfioIrqSetFlags)0x80000021, Index = 0, Start = 0, Count = 1 }, out _));
        Assert.Equal((VfioIrqSetFlags)0x3F, AllFlags);
    }

    [Theory]
    [InlineData(1u, 0u, 4u, true)]
    [InlineData(1u, 3u, 1u, true)]
    [InlineData(1u, 3u, 2u, false)]
    [InlineData(1u, 4u, 1u, false)]
    [InlineData(1u, 1u, uint.MaxValue, false)]
    [InlineData(1u, uint.MaxValue, 1u, false)]
    [InlineData(1u, uint.MaxValue, uint.MaxValue, false)]
    [InlineData(1u, 0u, 5u, false)]
    [InlineData(2u, 0u, 1u, false)]
    [InlineData(uint.MaxValue, 0u, 1u, false)]
    public async Task Range_of_vectors_is_inside_the_index(uint index, uint start, uint count, bool ok)
    {
        var world = await VfioWorld.NewAsync();
        using var handle = world.Open();
        var set = new VfioIrqSet { Flags = VfioIrqSetFlags.DataNone | VfioIrqSetFlags.ActionTrigger, Index = index, Start = start, Count = count };
        Assert.Equal(ok, handle.TrySetIrqs(set, out var fault));
        Assert.Equal(ok ? Errno.None : Errno.EINVAL, fault.Errno);
    }

    [Theory]
    [InlineData(VfioIrqSetFlags.DataNone | VfioIrqSetFlags.ActionTrigger, 0u, true)]
    [InlineData(VfioIrqSetFlags.DataNone | VfioIrqSetFlags.ActionTrigger, 1u, false)]
    [InlineData(VfioIrqSetFlags.DataNone | VfioIrqSetFlags.ActionMask, 0u, false)]
    [InlineData(VfioIrqSetFlags.DataNone | VfioIrqSetFlags.ActionUnmask, 0u, false)]
    [InlineData(VfioIrqSetFlags.DataBool | VfioIrqSetFlags.ActionTrigger, 0u, false)]
    [InlineData(VfioIrqSetFlags.DataEventFd | VfioIrqSetFlags.ActionTrigger, 0u, false)]
    public async Task Count_0_disables_an_index_and_means_nothing_else(VfioIrqSetFlags flags, uint start, bool ok)
    {
        var world = await VfioWorld.NewAsync(new FakeOps { Irqs = [new(VfioIrqFlags.EventFd | VfioIrqFlags.Maskable, 2)] });
        using var handle = world.Open();
        Assert.Equal(ok, handle.TrySetIrqs(new VfioIrqSet { Flags = flags, Index = 0, Start = start, Count = 0 }, out var fault));
        Assert.Equal(ok ? Errno.None : Errno.EINVAL, fault.Errno);
    }

    [Theory]
    [InlineData(0, true)]
    [InlineData(1, false)]
    [InlineData(2, true)]
    [InlineData(3, false)]
    public async Task Eventfds_are_one_a_vector_or_none(int eventFds, bool ok)
    {
        var world = await VfioWorld.NewAsync();
        using var handle = world.Open();
        var set = new VfioIrqSet
        {
            Flags = VfioIrqSetFlags.DataEventFd | VfioIrqSetFlags.ActionTrigger,
            Index = 1,
            Start = 1,
            Count = 2,
            EventFds = new EventFd?[eventFds],
        };
        Assert.Equal(ok, handle.TrySetIrqs(set, out _));
    }

    [Theory]
    [InlineData(1, false)]
    [InlineData(2, true)]
    [InlineData(3, false)]
    public async Task Truth_values_are_one_a_vector(int bools, bool ok)
    {
        var world = await VfioWorld.NewAsync();
        using var handle = world.Open();
        var set = new VfioIrqSet { Flags = VfioIrqSetFlags.DataBool | VfioIrqSetFlags.ActionTrigger, Index = 1, Start = 1, Count = 2, Bools = new byte[bools] };
        Assert.Equal(ok, handle.TrySetIrqs(set, out _));
    }

    [Fact]
    public async Task Index_that_is_not_there_and_one_without_eventfds_are_refused()
    {
        var world = await VfioWorld.NewAsync(new FakeOps { Irqs = [new(VfioIrqFlags.EventFd, 0), new(VfioIrqFlags.None, 1)] });
        using var handle = world.Open();
        Assert.False(handle.TrySetIrqs(new VfioIrqSet { Flags = VfioIrqSetFlags.DataNone | VfioIrqSetFlags.ActionTrigger, Index = 0, Start = 0, Count = 0 }, out _));
        Assert.False(handle.TrySetIrqs(new VfioIrqSet { Flags = VfioIrqSetFlags.DataEventFd | VfioIrqSetFlags.ActionTrigger, Index = 1, Start = 0, Count = 1 }, out _));
        Assert.True(handle.TrySetIrqs(new VfioIrqSet { Flags = VfioIrqSetFlags.DataNone | VfioIrqSetFlags.ActionTrigger, Index = 1, Start = 0, Count = 1 }, out _));
    }

    [Theory]
    [InlineData(null, true)]
    [InlineData(0u, false)]
    [InlineData(1u, true)]
    [InlineData(0xFFFFFu, true)]
    [InlineData(0x100000u, false)]
    public async Task Pasid_has_20_bits_and_is_not_0(uint? pasid, bool ok)
    {
        var world = await VfioWorld.NewAsync();
        using var handle = world.Open();
        Assert.Equal(ok, handle.TryAttach(null, pasid, out var fault));
        Assert.Equal(ok ? Errno.None : Errno.EINVAL, fault.Errno);
    }

    [Fact]
    public async Task Reset_of_a_device_without_reset_is_EOPNOTSUPP()
    {
        var world = await VfioWorld.NewAsync(new FakeOps { CanReset = false });
        using var handle = world.Open();
        Assert.False(handle.TryReset(out var fault));
        Assert.Equal(Errno.EOPNOTSUPP, fault.Errno);
        Assert.DoesNotContain("reset", world.Ops.Calls);
    }

    [Fact]
    public async Task Doorbells_of_a_region_that_is_not_there_are_none()
    {
        var world = await VfioWorld.NewAsync();
        using var handle = world.Open();
        Assert.Single(handle.GetDoorbells(0));
        Assert.Empty(handle.GetDoorbells(3));
        Assert.True(handle.TryAttachDoorbell(0, new VfioDoorbell(8, 4, null), null, out _));
        Assert.False(handle.TryAttachDoorbell(3, new VfioDoorbell(8, 4, null), null, out var fault));
        Assert.Equal(Errno.EINVAL, fault.Errno);
    }

    [Fact]
    public async Task Migration_and_log_of_a_device_taken_away_answer_ENODEV()
    {
        var arcs = new FakeArcs { Flags = VfioMigrationFlags.StopCopy };
        arcs.Saved.Append(1, new byte[100]);
        var log = new FakeLog();
        var world = await VfioWorld.NewAsync(new FakeOps { Migration = new VfioMigration(arcs), DmaLogging = log });
        var handle = world.Open();
        var migration = handle.Migration!;
        Assert.Equal("RUNNING\n", world.Fabric.Tree.Read($"{world.Device.DevPath}/migration_state"));
        Assert.Equal(VfioMigrationState.Running, migration.State);
        Assert.True(migration.TrySetState(VfioMigrationState.StopCopy, out var stream, out _));
        Assert.Equal("STOP_COPY\n", world.Fabric.Tree.Read($"{world.Device.DevPath}/migration_state"));
        Assert.True(stream!.TryRead(new byte[10], out var count, out _));
        Assert.Equal(10, count);
        var pageSize = 4096ul;
        // As in Linux: every address is asked for by its ranges.
        Assert.False(handle.DmaLogging!.TryStart(ref pageSize, [], out var fault));
        Assert.Equal(Errno.EINVAL, fault.Errno);
        IovaRange[] ranges = [new(default, 4096)];
        Assert.True(handle.DmaLogging.TryStart(ref pageSize, ranges, out _));
        world.Device.Revoke();
        Assert.False(migration.TrySetState(VfioMigrationState.Running, out _, out fault));
        Assert.Equal(Errno.ENODEV, fault.Errno);
        Assert.Equal(VfioMigrationState.Error, migration.State);
        Assert.Equal(0ul, migration.DataSize);
        Assert.False(stream.TryRead(new byte[10], out _, out fault));
        Assert.Equal(Errno.ENODEV, fault.Errno);
        Assert.False(stream.TryWrite(new byte[10], out fault));
        Assert.Equal(Errno.ENODEV, fault.Errno);
        Assert.False(stream.TryGetPreCopyInfo(out _, out _, out fault));
        Assert.Equal(Errno.ENODEV, fault.Errno);
        Assert.False(handle.DmaLogging.TryStart(ref pageSize, ranges, out fault));
        Assert.Equal(Errno.ENODEV, fault.Errno);
        Assert.False(handle.DmaLogging.TryReport(new IovaRange(default, 4096), 4096, new ulong[1], out fault));
        Assert.Equal(Errno.ENODEV, fault.Errno);
        handle.DmaLogging.Stop();
        Assert.Equal(["start"], log.Calls);
        stream.Dispose();
    }

    private sealed class FakeLog : IVfioDmaLoggingOps
    {
        public List<string> Calls { get; } = [];

        public bool TryStart(ref ulong pageSize, ReadOnlySpan<IovaRange> ranges, out Fault fault)
        {
            Calls.Add("start");
            fault = Fault.None;
            return true;
        }

        public void Stop() => Calls.Add("stop");

        public bool TryReport(IovaRange range, ulong pageSize, Span<ulong> bitmap, out Fault fault)
        {
            Calls.Add("report");
            fault = Fault.None;
            return true;
        }
    }
}
