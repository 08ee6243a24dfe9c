using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;
using Virtbus.Remote.Pci.VfioUser;
using Virtbus.Subsystems.Vfio;
using Virtbus.Transports.VfioUser;

namespace Virtbus.Tests.Remote.VfioUser;

/// <summary>Our client against our server: every command, with both ways of the server's own requests.</summary>
[Collection(WireCollection.Name)]
public sealed class VfioUserClientTests : IDisposable
{
    private readonly WireFixture _fixture = new();
    private readonly HostMemory _memory;
    private readonly FileDescriptor _file;

    public VfioUserClientTests() => _memory = HostMemory.Allocate("virtbus-test", 0x40000, out _file);

    public void Dispose()
    {
        _memory.Dispose();
        _file.Dispose();
        _fixture.Dispose();
    }

    private const ulong Base = 0x1_0000_0000;

    private static readonly IovaRange Range = new(new Iova(Base), 0x10000);

    private static void Good(bool done, Fault fault) => Assert.True(done, $"{fault.Errno} {fault.Message}");

    private static uint Word(VfioUserClient client, uint region, ulong offset)
    {
        Span<byte> bytes = stackalloc byte[4];
        Good(client.TryRead(region, offset, bytes, out var fault), fault);
        return BitConverter.ToUInt32(bytes);
    }

    private static void Write(VfioUserClient client, ulong offset, uint value) =>
        Good(client.TryWrite(0, offset, BitConverter.GetBytes(value), out var fault), fault);

    private static void StartDma(VfioUserClient client, uint command, ulong address, uint length)
    {
        Good(client.TryWrite(0, WireDevice.DmaAddress, BitConverter.GetBytes(address), out var fault), fault);
        Write(client, WireDevice.DmaLength, length);
        Write(client, WireDevice.DmaCommand, command);
    }

    [Fact]
    public void Nobody_at_the_path_is_an_error_with_a_remedy()
    {
        var error = Assert.Throws<VirtbusException>(() => VfioUserClient.Connect("/nowhere/at/all"));
        Assert.Equal(Errno.ENOENT, error.Errno);
        Assert.Contains("/nowhere/at/all", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Being_turned_away_has_the_servers_errno()
    {
        Assert.True(_fixture.VfioDevice.TryOpen("web1", out var handle, out _));
        Assert.Equal(Errno.EBUSY, Assert.Throws<VirtbusException>(() => _fixture.Connect()).Errno);
        handle!.Dispose();
    }

    [Fact]
    public void Client_that_waits_in_vain_behind_another_hears_of_that()
    {
        using var first = _fixture.Connect();
        var error = Assert.Throws<VirtbusException>(() => _fixture.Connect(new VfioUserClientOptions { Timeout = TimeSpan.FromMilliseconds(100) }));
        Assert.Equal(Errno.ETIMEDOUT, error.Errno);
        Assert.Contains("did not answer in 0.1 s: another client may have the device", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Device_regions_and_interrupts_are_found()
    {
        using var client = _fixture.Connect();
        Assert.Equal(_fixture.Device.Info, client.Info);
        Good(client.TryGetRegionInfo(0, out var info, out var fault), fault);
        Assert.Equal((VfioRegionFlags.Read | VfioRegionFlags.Write, WireDevice.BarSize, 0), (info!.Flags, info.Size, info.Areas.Count));
        Good(client.TryGetRegionInfo(9, out info, out fault), fault);
        Assert.Equal(new VfioRegionType(0x8086, 3), info!.Type);
        Good(client.TryGetIrqInfo(2, out var irq, out fault), fault);
        Assert.Equal(new VfioIrqInfo(VfioIrqFlags.EventFd | VfioIrqFlags.NoResize, 32), irq);
        Assert.False(client.TryGetRegionInfo(10, out _, out fault));
        Assert.Equal(Errno.EINVAL, fault.Errno);
        Assert.False(client.TryGetIrqInfo(5, out _, out fault));
        Assert.Equal(Errno.EINVAL, fault.Errno);
    }

    [Fact]
    public void Areas_of_a_region_can_be_mapped()
    {
        using var client = _fixture.Connect();
        Good(client.TryGetRegionInfo(2, out var info, out var fault), fault);
        Assert.Equal([(0x1000UL, 0x1000UL), (0x3000UL, 0x1000UL)], info!.Areas.Select(area => (area.Offset, area.Size)));
        var area = info.Areas[1];
        Good(HostMemory.TryMap(area.File, area.FileOffset, area.Size, DmaAccess.ReadWrite, out var page, out fault), fault);
        using (page)
        {
            page!.Write(4, "hi"u8);
            Assert.Equal(0x6968u, Word(client, 2, 0x3004));
        }

        // The second time it is the one that was asked for the first time.
        Good(client.TryGetRegionInfo(2, out var again, out fault), fault);
        Assert.Same(info, again);
    }

    [Fact]
    public void Registers_are_read_written_and_posted()
    {
        using var client = _fixture.Connect();
        Write(client, 0x100, 0xcafe);
        Assert.Equal(0xcafeu, Word(client, 0, 0x100));
        for (var i = 0; i < 1000; i++)
            Good(client.TryPost(0, 0x104, BitConverter.GetBytes(i), out var fault), fault);
        Assert.Equal(999u, Word(client, 0, 0x104));
        Good(client.TryWriteMultiple([new(0, 0x108, 4, 1), new(0, 0x10c, 8, 2)], post: false, out var problem), problem);
        Good(client.TryWriteMultiple([new(0, 0x10a, 1, 7)], post: true, out problem), problem);
        Assert.Equal((0x70001u, 2u), (Word(client, 0, 0x108), Word(client, 0, 0x10c)));
        Assert.False(client.TryRead(9, 0, new byte[4], out problem));
        Assert.Equal(Errno.EIO, problem.Errno);
        Assert.False(client.TryWrite(99, 0, new byte[4], out problem));
        Assert.Equal(Errno.EINVAL, problem.Errno);
    }

    [Fact]
    public void Access_larger_than_a_message_goes_in_pieces()
    {
        using var fixture = new WireFixture(new VfioUserServerOptions { MaxDataTransfer = 1000 });
        using var client = fixture.Connect();
        Assert.Equal(1000, client.MaxDataTransfer);
        var data = new byte[12_345];
        new Random(1).NextBytes(data);
        Good(client.TryWrite(0, 0x1000, data, out var fault), fault);
        var seen = new byte[data.Length];
        Good(client.TryRead(0, 0x1000, seen, out fault), fault);
        Assert.Equal(data, seen);
    }

    [Fact]
    public void Batch_goes_as_one_and_can_go_again()
    {
        using var client = _fixture.Connect();
        var batch = client.CreateBatch();
        for (var i = 0; i < 200; i++)
        {
            Assert.Equal(2 * i, batch.AddWrite(0, (ulong)(0x100 + (4 * i)), BitConverter.GetBytes(i)));
            batch.AddRead(0, (ulong)(0x100 + (4 * i)), 4);
        }

        for (var round = 0; round < 3; round++)
        {
            Good(batch.TryRun(out var fault), fault);
            for (var i = 0; i < 200; i++)
                Assert.Equal(i, BitConverter.ToInt32(batch.DataOf((2 * i) + 1)));
        }

        batch.Clear();
        var good = batch.AddRead(0, 0x104, 4);
        var bad = batch.AddRead(99, 0, 4);
        var last = batch.AddRead(0, 0x108, 8);
        Assert.False(batch.TryRun(out var problem));
        Assert.Equal(Errno.EINVAL, problem.Errno);
        Assert.Equal([Errno.None, Errno.EINVAL, Errno.None], new[] { good, bad, last }.Select(batch.ErrorOf));
        Assert.Equal(0x3_0000_0002, BitConverter.ToInt64(batch.DataOf(last)));
        batch.Clear();
        for (var i = 0; i < VfioUserBatch.MaxAccesses; i++)
            batch.AddRead(0, 0, 4);
        Assert.Throws<InvalidOperationException>(() => batch.AddRead(0, 0, 4));
        Good(batch.TryRun(out problem), problem);
    }

    [Fact]
    public void Threads_call_at_once_and_each_gets_its_own_answers()
    {
        using var client = _fixture.Connect();
        var failures = 0;
        var threads = Enumerable.Range(0, 4).Select(number => new Thread(() =>
        {
            var at = (ulong)(0x1000 + (number * 0x100));
            var bytes = new byte[8];
            for (var i = 0; i < 3000; i++)
            {
                BitConverter.TryWriteBytes(bytes, (long)number << 32 | (uint)i);
                if (!client.TryWrite(0, at, bytes, out _) || !client.TryRead(0, at, bytes, out _) || BitConverter.ToInt64(bytes) != ((long)number << 32 | (uint)i))
                    Interlocked.Increment(ref failures);
            }
        }) { IsBackground = true }).ToList();
        threads.ForEach(thread => thread.Start());
        threads.ForEach(thread => thread.Ends("a thread with 3000 accesses"));
        Assert.Equal(0, failures);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void Device_reaches_memory_with_a_descriptor(bool twin)
    {
        using var client = _fixture.Connect(new VfioUserClientOptions { TwinSocket = twin });
        Assert.Equal(twin, client.HasTwinSocket);
        Good(client.TryMapDma(Range, _memory, 0x1000, DmaAccess.ReadWrite, _file, 0x1000, out var fault), fault);
        _memory.Write(0x1100, "hello"u8);
        StartDma(client, WireDevice.ReadHere, Base + 0x100, 5);
        StartDma(client, WireDevice.WriteHere, Base + 0x200, 5);
        var seen = new byte[5];
        _memory.Read(0x1200, seen);
        Assert.Equal("hello"u8, seen);
        Good(client.TryUnmapDma(new IovaRange(new Iova(0), 1UL << 63), out fault), fault);
        Assert.Equal(0, client.MapCount);
        StartDma(client, WireDevice.ReadHere, Base, 5);
        Assert.Equal(Errno.EFAULT, _fixture.Device.LastDma.Errno);
    }

    [Theory]
    [InlineData(true, WireDevice.ReadHere, WireDevice.WriteHere)]
    [InlineData(false, WireDevice.ReadHere, WireDevice.WriteHere)]
    [InlineData(true, WireDevice.ReadThere, WireDevice.WriteThere)]
    [InlineData(false, WireDevice.ReadThere, WireDevice.WriteThere)]
    public void Device_reaches_memory_by_messages(bool twin, uint read, uint write)
    {
        using var client = _fixture.Connect(new VfioUserClientOptions { TwinSocket = twin });
        Good(client.TryMapDma(Range, _memory, 0, DmaAccess.ReadWrite, null, 0, out var fault), fault);
        var data = new byte[0x8000];
        new Random(5).NextBytes(data);
        _memory.Write(0, data);
        StartDma(client, read, Base, 0x8000);
        WireFixture.Until(() => Word(client, 0, WireDevice.DmaDone) == 1, "the first copy");
        StartDma(client, write, Base + 0x8000, 0x8000);
        WireFixture.Until(() => Word(client, 0, WireDevice.DmaDone) == 2, "the second copy");
        var seen = new byte[0x8000];
        _memory.Read(0x8000, seen);
        Assert.Equal(data, seen);
        // Nothing is given out beyond what is mapped.
        StartDma(client, read, Base + 0xfffc, 8);
        WireFixture.Until(() => Word(client, 0, WireDevice.DmaDone) >= 0x10000, "the fault");
        Assert.Equal(Errno.EFAULT, _fixture.Device.LastDma.Errno);
    }

    [Fact]
    public void Memory_that_is_not_to_be_served_is_not()
    {
        using var client = _fixture.Connect(new VfioUserClientOptions { ServeMemory = false });
        Good(client.TryMapDma(Range, _memory, 0, DmaAccess.ReadWrite, null, 0, out var fault), fault);
        StartDma(client, WireDevice.ReadHere, Base, 4);
        WireFixture.Until(() => Word(client, 0, WireDevice.DmaDone) != 0, "the fault");
        Assert.Equal(Errno.EPERM, _fixture.Device.LastDma.Errno);
    }

    [Fact]
    public void Maps_that_make_no_sense_are_faults()
    {
        using var client = _fixture.Connect();
        Good(client.TryMapDma(Range, _memory, 0, DmaAccess.ReadWrite, _file, 0, out var fault), fault);
        Assert.False(client.TryMapDma(Range, _memory, 0, DmaAccess.ReadWrite, _file, 0, out fault));
        Assert.Equal(Errno.EEXIST, fault.Errno);
        // The server's own refusal leaves nothing behind here.
        var other = new IovaRange(new Iova(0), 0x10000);
        Assert.False(client.TryMapDma(other, _memory, 0, DmaAccess.ReadWrite, _file, 0x40000, out fault));
        Assert.Equal(Errno.ENXIO, fault.Errno);
        Good(client.TryMapDma(other, _memory, 0, DmaAccess.ReadWrite, _file, 0, out fault), fault);
        Assert.Equal(2, client.MapCount);
    }

    [Fact]
    public void Interrupts_come_by_eventfds_more_than_a_message_carries()
    {
        using var client = _fixture.Connect();
        var signals = Enumerable.Range(0, 32).Select(i => i is 5 or 6 ? null : new EventFd()).ToArray();
        var set = new VfioIrqSet
        {
            Flags = VfioIrqSetFlags.DataEventFd | VfioIrqSetFlags.ActionTrigger, Index = 2, Start = 0, Count = 32, EventFds = signals,
        };
        Good(client.TrySetIrqs(set, out var fault), fault);
        for (var i = 0u; i < 32; i++)
        {
            _fixture.Device.Fire(2, i);
            Assert.Equal(signals[i] is not null, _fixture.Device.IsBound(2, i));
            Assert.True(signals[i] is null || signals[i]!.TryRead(out _));
        }

        Good(client.TrySetIrqs(new VfioIrqSet { Flags = VfioIrqSetFlags.DataBool | VfioIrqSetFlags.ActionTrigger, Index = 2, Start = 7, Count = 2, Bools = [0, 1] }, out fault), fault);
        Assert.False(signals[7]!.TryRead(out _));
        Assert.True(signals[8]!.TryRead(out _));
        Good(client.TrySetIrqs(new VfioIrqSet { Flags = VfioIrqSetFlags.DataNone | VfioIrqSetFlags.ActionTrigger, Index = 2, Start = 0, Count = 0 }, out fault), fault);
        Assert.False(_fixture.Device.IsBound(2, 8));
        foreach (var signal in signals)
            signal?.Dispose();
    }

    [Fact]
    public void Doorbells_are_eventfds()
    {
        using var client = _fixture.Connect();
        Good(client.TryGetDoorbells(0, out var doorbells, out var fault), fault);
        Assert.Equal([new VfioDoorbell(0x40, 4, null), new VfioDoorbell(0x44, 4, 7)], doorbells.Select(doorbell => doorbell.Register));
        doorbells[0].Signal.Signal();
        Assert.Equal((1, 0), (_fixture.Device.SignalsOf(0x40), _fixture.Device.SignalsOf(0x44)));
        Good(client.TryGetDoorbells(7, out doorbells, out fault), fault);
        Assert.Empty(doorbells);
    }

    [Fact]
    public void Reset_resets()
    {
        using var client = _fixture.Connect();
        Write(client, 0x100, 1);
        Good(client.TryReset(out var fault), fault);
        Assert.Equal(0u, Word(client, 0, 0x100));
    }

    [Fact]
    public void State_of_a_device_goes_to_another()
    {
        var state = new byte[3_000_000];
        new Random(9).NextBytes(state);
        _fixture.Device.State = state;
        var taken = new List<byte>();
        using (var source = _fixture.Connect())
        {
            Good(source.TryGetMigrationFlags(out var flags, out var fault), fault);
            Assert.Equal(VfioMigrationFlags.StopCopy | VfioMigrationFlags.P2P | VfioMigrationFlags.PreCopy, flags);
            Good(source.TryGetMigrationDataSize(out var size, out fault), fault);
            Assert.Equal((ulong)state.Length, size);
            Good(source.TrySetMigrationState(VfioMigrationState.PreCopy, out fault), fault);
            var buffer = new byte[1_500_000];
            Good(source.TryReadMigrationData(buffer, out var count, out fault), fault);
            Assert.Equal(buffer.Length, count);
            taken.AddRange(buffer.AsSpan(0, count));
            Good(source.TryReadMigrationData(buffer, out count, out fault), fault);
            taken.AddRange(buffer.AsSpan(0, count));
            // For now there is no more, and the stream goes on when the device stands still.
            Good(source.TryReadMigrationData(buffer, out count, out fault), fault);
            Assert.Equal(0, count);
            Good(source.TrySetMigrationState(VfioMigrationState.StopCopy, out fault), fault);
            Good(source.TryReadMigrationData(buffer, out count, out fault), fault);
            Assert.Equal(0, count);
            Good(source.TryGetMigrationState(out var at, out fault), fault);
            Assert.Equal(VfioMigrationState.StopCopy, at);
            Good(source.TrySetMigrationState(VfioMigrationState.Stop, out fault), fault);
            Assert.False(source.TryReadMigrationData(buffer, out _, out fault));
            Assert.Equal(Errno.EINVAL, fault.Errno);
        }

        Assert.True(taken.ToArray().AsSpan().SequenceEqual(state));
        using var fixture = new WireFixture();
        using var target = fixture.Connect();
        Good(target.TrySetMigrationState(VfioMigrationState.Resuming, out var problem), problem);
        Good(target.TryWriteMigrationData([.. taken], out problem), problem);
        Good(target.TrySetMigrationState(VfioMigrationState.Running, out problem), problem);
        Assert.True(fixture.Device.State.AsSpan().SequenceEqual(state));
        Assert.False(target.TryWriteMigrationData([1], out problem));
        Assert.Equal(Errno.EINVAL, problem.Errno);
        Assert.False(target.TrySetMigrationState((VfioMigrationState)99, out problem));
        Assert.Equal(Errno.EINVAL, problem.Errno);
    }

    [Fact]
    public void Reset_ends_a_migration()
    {
        _fixture.Device.State = new byte[100];
        using var client = _fixture.Connect();
        Good(client.TrySetMigrationState(VfioMigrationState.StopCopy, out var fault), fault);
        Good(client.TryReset(out fault), fault);
        Good(client.TryGetMigrationState(out var state, out fault), fault);
        Assert.Equal(VfioMigrationState.Running, state);
        Assert.False(client.TryReadMigrationData(new byte[10], out _, out fault));
        Assert.Equal(Errno.EINVAL, fault.Errno);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void Written_pages_are_told_once(bool everything)
    {
        using var client = _fixture.Connect();
        Good(client.TryMapDma(Range, _memory, 0, DmaAccess.ReadWrite, _file, 0, out var fault), fault);
        var pageSize = 4096UL;
        Good(client.TryStartDmaLogging(ref pageSize, everything ? [] : [Range], out fault), fault);
        Assert.Equal(4096u, pageSize);
        StartDma(client, WireDevice.WriteHere, Base + 0x1ffe, 4);
        StartDma(client, WireDevice.ReadHere, Base + 0x5000, 4);
        var bitmap = new ulong[1];
        Good(client.TryReportDmaLogging(Range, 4096, bitmap, out fault), fault);
        Assert.Equal(0b110u, bitmap[0]);
        bitmap[0] = 0;
        Good(client.TryReportDmaLogging(Range, 4096, bitmap, out fault), fault);
        Assert.Equal(0u, bitmap[0]);
        StartDma(client, WireDevice.WriteHere, Base + 0xf000, 4);
        Good(client.TryUnmapDma(Range, 4096, bitmap, out fault), fault);
        Assert.Equal(0x8000u, bitmap[0]);
        Assert.Equal(0, client.MapCount);
        Good(client.TryStopDmaLogging(out fault), fault);
        Assert.False(client.TryReportDmaLogging(Range, 4096, bitmap, out fault));
        Assert.Equal(Errno.EINVAL, fault.Errno);
    }

    [Fact]
    public void Report_larger_than_an_answer_goes_in_pieces()
    {
        using var fixture = new WireFixture(new VfioUserServerOptions { MaxDataTransfer = 128 });
        using var client = fixture.Connect();
        Good(client.TryMapDma(Range, _memory, 0, DmaAccess.ReadWrite, _file, 0, out var fault), fault);
        var pageSize = 4096UL;
        Good(client.TryStartDmaLogging(ref pageSize, [], out fault), fault);
        StartDma(client, WireDevice.WriteHere, Base + 0x3000, 4);
        var range = new IovaRange(new Iova(0), 2 * Base);
        var bitmap = new ulong[2 * Base / 4096 / 64];
        Good(client.TryReportDmaLogging(range, 4096, bitmap, out fault), fault);
        Assert.Equal(8u, bitmap[Base / 4096 / 64]);
        Assert.Equal(8u, bitmap.Aggregate(0UL, (sum, word) => sum + word));
    }

    [Fact]
    public void Server_that_goes_is_noticed_and_everything_fails()
    {
        using var lost = new ManualResetEventSlim();
        using var client = _fixture.Connect(new VfioUserClientOptions { Lost = lost.Set });
        Assert.True(client.IsConnected);
        _fixture.VfioDevice.Revoke();
        Assert.True(lost.Wait(TimeSpan.FromSeconds(20), TestContext.Current.CancellationToken));
        Assert.False(client.IsConnected);
        Assert.False(client.TryRead(0, 0, new byte[4], out var fault));
        Assert.Equal(Errno.ECONNRESET, fault.Errno);
        Assert.False(client.TryPost(0, 0, new byte[4], out _));
        Assert.False(client.TryMapDma(Range, _memory, 0, DmaAccess.ReadWrite, _file, 0, out _));
    }

    [Fact]
    public void Server_that_does_not_answer_is_given_up()
    {
        using var entered = new ManualResetEventSlim();
        using var release = new ManualResetEventSlim();
        _fixture.Device.OnRead = _ =>
        {
            entered.Set();
            release.Wait(Deadline.Limit);
            return 0;
        };
        using var client = _fixture.Connect(new VfioUserClientOptions { Timeout = TimeSpan.FromSeconds(1) });
        try
        {
            Assert.False(client.TryRead(0, 0, new byte[4], out var fault));
            Assert.Equal(Errno.ETIMEDOUT, fault.Errno);
            // On a busy machine the server may come to it later than the client gives up.
            entered.Comes("the server to read the register");
        }
        finally
        {
            release.Set();
        }
    }

    [Fact]
    public void Disposing_frees_callers_and_leaves_nothing()
    {
        using (var warmUp = _fixture.Connect())
            Word(warmUp, 0, 0);
        _fixture.WaitIdle(1);
        int descriptors = Kernel.DescriptorsBefore(), mappings = Kernel.Mappings;
        using var entered = new ManualResetEventSlim();
        using var release = new ManualResetEventSlim();
        for (var i = 0; i < 20; i++)
        {
            _fixture.Device.OnRead = _ =>
            {
                entered.Set();
                release.Wait(Deadline.Limit);
                return 0;
            };
            entered.Reset();
            release.Reset();
            using var client = _fixture.Connect(new VfioUserClientOptions { TwinSocket = i % 2 == 0 });
            Good(client.TryMapDma(Range, _memory, 0, DmaAccess.ReadWrite, i % 3 == 0 ? null : _file, 0, out var fault), fault);
            Good(client.TryGetRegionInfo(2, out _, out fault), fault);
            Good(client.TryGetDoorbells(0, out _, out fault), fault);
            Errno error = default;
            var caller = new Thread(() =>
            {
                client.TryRead(0, 0, new byte[4], out var problem);
                error = problem.Errno;
            }) { IsBackground = true };
            caller.Start();
            try
            {
                entered.Comes("the server to read the register");
                client.Dispose();
                caller.Ends("the caller of a client that was disposed");
                Assert.Equal(Errno.ECONNRESET, error);
            }
            finally
            {
                release.Set();
            }

            _fixture.WaitIdle(i + 2);
        }

        Assert.Equal((descriptors, mappings), (Kernel.Descriptors, Kernel.Mappings));
    }

    [Fact]
    public void Accesses_allocate_nothing()
    {
        using var client = _fixture.Connect();
        var batch = client.CreateBatch();
        for (var i = 0; i < 32; i++)
            batch.AddRead(0, 0x100, 4);
        var bytes = new byte[4];
        void Round()
        {
            for (var i = 0; i < 100; i++)
            {
                Assert.True(client.TryRead(0, 0x100, bytes, out _));
                Assert.True(client.TryWrite(0, 0x100, bytes, out _));
                Assert.True(client.TryPost(0, 0x100, bytes, out _));
                Assert.True(batch.TryRun(out _));
            }
        }

        Round();
        // The server's thread is in this process, so all threads are counted; the runtime's own are below one object an access.
        var before = GC.GetTotalAllocatedBytes(precise: true);
        for (var i = 0; i < 10; i++)
            Round();
        Assert.InRange(GC.GetTotalAllocatedBytes(precise: true) - before, 0, 35_000 * 24 / 10);
    }
}
