using System.Buffers.Binary;
using Virtbus.Block;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Models.VirtioBlk;
using Virtbus.Platform;
using Virtbus.Virtio;
using Virtbus.Virtio.Rings;

namespace Virtbus.Tests.Models;

[Collection(nameof(Alone))]
public sealed class VirtioBlkTests : IDisposable
{
    private const ulong Base = 0x10000;
    private const ulong Header = 0x8000;
    private const ulong Status = 0x8100;
    private const ulong Data = 0x10000;
    private const byte Ok = 0;
    private const byte IoError = 1;
    private const byte Unsupported = 2;

    private readonly DirectoryInfo _folder = Directory.CreateTempSubdirectory("virtbus");
    private readonly HostMemory _memory;
    private readonly IoAddressSpace _space = new();
    private readonly StandaloneDma _dma = new("test");
    private readonly EventFd _kick = new();
    private readonly EventFd _call = new();
    private SplitDriverRing _driver;
    private IBlockBackend _backend = new MemoryBackend(1 << 20);
    private VirtioBlkDevice? _device;

    public VirtioBlkTests()
    {
        _memory = HostMemory.Allocate("virtbus-test", 1 << 18, out var file);
        file.Dispose();
        Assert.True(_space.TryMap(new Iova(Base), 1 << 18, _memory, 0, DmaAccess.ReadWrite, out _));
        _driver = NewDriver();
    }

    public void Dispose()
    {
        _device?.Dispose();
        _backend.Dispose();
        _space.Dispose();
        _memory.Dispose();
        _kick.Dispose();
        _call.Dispose();
        _folder.Delete(recursive: true);
    }

    private VirtioBlkDevice Start(VirtioFeatures without = default, bool readsMode = true, ICacheModeStore? cacheMode = null)
    {
        _device = new VirtioBlkDevice("test", _backend, "serial-1", queueCount: 2, maxQueueSize: 128, cacheMode);
        _dma.Attach(_space);
        _device.SetDma(_dma.Port);
        if (readsMode)
            Mode(_device);
        Run(without);
        return _device;
    }

    // As a driver does it after a reset, on a ring that is as new.
    private void Restart()
    {
        _memory.Write(0, new byte[(int)Header]);
        _driver = NewDriver();
        Run(default);
    }

    private static byte Mode(VirtioBlkDevice device)
    {
        var mode = new byte[1];
        Assert.True(device.TryGetConfig(VirtioBlkConfig.WritebackOffset, mode, out _));
        return mode[0];
    }

    private SplitDriverRing NewDriver() => new(_memory, new Iova(Base), 0, 64, eventIndex: true, indirect: true, inOrder: true);

    private void Run(VirtioFeatures without)
    {
        Assert.NotNull(_device);
        Assert.True(_device.TrySetStatus(VirtioStatus.ACKNOWLEDGE | VirtioStatus.DRIVER, out _));
        Assert.True(_device.TrySetDriverFeatures(_device.DeviceFeatures & ~without, out _));
        Assert.True(_device.TrySetStatus(11, out _));
        var layout = _driver.Layout;
        Assert.True(_device.TrySetQueueSize(0, layout.Size, out _));
        Assert.True(_device.TrySetQueueAddress(0, layout.DescriptorArea, layout.DriverArea, layout.DeviceArea, out _));
        _device.SetQueueKick(0, _kick);
        _device.SetQueueInterrupt(0, _call.Signal);
        Assert.True(_device.TrySetQueueReady(0, true, out _));
        Assert.True(_device.TrySetStatus(15, out _));
    }

    private void Add(uint type, ulong sector, uint length, bool deviceWrites)
    {
        var header = new byte[16];
        BinaryPrimitives.WriteUInt32LittleEndian(header, type);
        BinaryPrimitives.WriteUInt64LittleEndian(header.AsSpan(8), sector);
        _memory.Write(Header, header);
        _memory.Write(Status, [0xee]);
        DriverBuffer[] chain =
        [
            new DriverBuffer(new Iova(Base + Header), 16, false),
            new DriverBuffer(new Iova(Base + Data), length, deviceWrites),
            new DriverBuffer(new Iova(Base + Status), 1, true),
        ];
        _driver.Add(length == 0 ? [chain[0], chain[2]] : chain);
        _driver.RequestCalls(true);
        if (_driver.Publish())
            _kick.Signal();
    }

    private (byte Status, uint Written) Request(uint type, ulong sector, uint length, bool deviceWrites)
    {
        Add(type, sector, length, deviceWrites);
        var written = 0u;
        Deadline.Until(() => _driver.TryTakeUsed(out _, out written, out _), "a used buffer");
        var status = new byte[1];
        _memory.Read(Status, status);
        return (status[0], written);
    }

    private byte[] Bytes(int count)
    {
        var bytes = new byte[count];
        _memory.Read(Data, bytes);
        return bytes;
    }

    [Theory]
    [InlineData(nameof(FileWay.Best))]
    [InlineData(nameof(FileWay.Uring))]
    [InlineData(nameof(FileWay.Worker))]
    public void Write_beyond_the_limit_of_a_files_size_is_an_error_of_that_request(string way)
    {
        // Far above what anything else here writes: the limit is the process's.
        const long Limit = 1L << 36;
        var path = Path.Combine(_folder.FullName, "disk");
        using (var file = File.OpenHandle(path, FileMode.Create, FileAccess.Write))
            RandomAccess.SetLength(file, Limit + (1 << 20));
        _backend.Dispose();
        var disk = FileBackend.Open(path);
        disk.Way = Enum.Parse<FileWay>(way);
        _backend = disk;
        Start();
        Assert.Equal(0, GetLimit(FileSizeLimit, out var before));
        Assert.Equal(0, SetLimit(FileSizeLimit, before with { Soft = Limit }));
        try
        {
            Assert.Equal(IoError, Request(1, Limit / 512, 4096, false).Status);
            // Cut at the limit: what is below it may be written, the request as a whole is not.
            Assert.Equal(IoError, Request(1, (Limit / 512) - 1, 4096, false).Status);
            Assert.Equal(Ok, Request(1, 0, 4096, false).Status);
            Assert.Equal(Ok, Request(4, 0, 0, false).Status);
        }
        finally
        {
            Assert.Equal(0, SetLimit(FileSizeLimit, before));
        }

        Assert.Equal(Ok, Request(1, Limit / 512, 4096, false).Status);
    }

    private const int FileSizeLimit = 1;

    private record struct ProcessLimit(long Soft, long Hard);

    [System.Runtime.InteropServices.DllImport("libc", EntryPoint = "getrlimit")]
    [System.Runtime.InteropServices.DefaultDllImportSearchPaths(System.Runtime.InteropServices.DllImportSearchPath.SafeDirectories)]
    private static extern int GetLimit(int resource, out ProcessLimit limit);

    [System.Runtime.InteropServices.DllImport("libc", EntryPoint = "setrlimit")]
    [System.Runtime.InteropServices.DefaultDllImportSearchPaths(System.Runtime.InteropServices.DllImportSearchPath.SafeDirectories)]
    private static extern int SetLimit(int resource, in ProcessLimit limit);

    [Fact]
    public void Bug_at_the_third_request_needs_a_reset_is_told_and_touches_no_other_device()
    {
        var told = new List<string>();
        var sink = new FaultSink((device, work, exception, _) =>
        {
            lock (told)
                told.Add($"{device} {work}: {exception.Message}");
        });
        using var other = new VirtioBlkTests();
        other.Start();
        var backend = new FailingBackend(bug: 3);
        _backend.Dispose();
        _backend = backend;
        var device = Start();
        device.Faults = sink.Open("0000:01:00.0");
        using var changed = new EventFd();
        device.SetConfigCallback(changed.Signal);
        for (var round = 1; round <= 4; round++)
        {
            Assert.Equal(Ok, Request(1, 0, 512, false).Status);
            Assert.Equal(Ok, Request(0, 0, 512, true).Status);
            Assert.Equal(0, device.Status & VirtioStatus.DEVICE_NEEDS_RESET);
            Add(1, 0, 512, deviceWrites: false);
            // The driver is told by an interrupt, and reads why.
            Assert.True(changed.Wait(TimeSpan.FromSeconds(20)));
            Assert.Equal(VirtioStatus.DEVICE_NEEDS_RESET, (byte)(device.Status & VirtioStatus.DEVICE_NEEDS_RESET));
            Assert.Equal((long)round, device.Faults.Count);
            Assert.Equal(Ok, other.Request(1, 0, 512, false).Status);
            // What it does next has no effect until it resets the device; then everything is as at first.
            Assert.False(_driver.TryTakeUsed(out _, out _, out _));
            Assert.True(device.TrySetStatus(0, out _));
            Assert.Equal(0, device.Status);
            backend.Restart();
            Restart();
        }
        Assert.Equal(Ok, Request(1, 0, 512, false).Status);
        Assert.Equal(4, sink.Count);
        // A log is not for one device alone: after three lines the rest is counted.
        lock (told)
            Assert.Equal(Enumerable.Repeat("0000:01:00.0 test-vq0: a bug, as asked", 3), told);
        Assert.Equal(0, other._device!.Status & VirtioStatus.DEVICE_NEEDS_RESET);
    }

    [Fact]
    public void What_was_written_is_read_again()
    {
        Start();
        var data = Enumerable.Range(0, 4096).Select(i => (byte)(i * 7)).ToArray();
        _memory.Write(Data, data);
        Assert.Equal((Ok, 1u), Request(1, 8, 4096, false));
        _memory.Write(Data, new byte[4096]);
        Assert.Equal((Ok, 4097u), Request(0, 8, 4096, true));
        Assert.Equal(data, Bytes(4096));
        Assert.Equal((Ok, 1u), Request(4, 0, 0, false));
    }

    [Fact]
    public void Identity_is_the_serial_padded_with_zeros()
    {
        Start();
        Assert.Equal((Ok, 21u), Request(8, 0, 20, true));
        Assert.Equal([.. "serial-1"u8, .. new byte[12]], Bytes(20));
    }

    [Theory]
    [InlineData(0, 2047, 1024, true, IoError)]
    [InlineData(0, 2048, 512, true, IoError)]
    [InlineData(0, ulong.MaxValue, 512, true, IoError)]
    [InlineData(0, 0x00800000_00000000, 512, true, IoError)]
    [InlineData(0, 0, 511, true, IoError)]
    [InlineData(1, 2048, 512, false, IoError)]
    [InlineData(10, 0, 512, true, Unsupported)]
    // Secure erase, which is not offered.
    [InlineData(14, 0, 512, true, Unsupported)]
    [InlineData(0xffffffff, 0, 512, true, Unsupported)]
    [InlineData(0, 2047, 512, true, Ok)]
    public void Request_out_of_bounds_gets_its_status_and_the_queue_goes_on(uint type, ulong sector, uint length, bool deviceWrites, byte status)
    {
        Start();
        Assert.Equal(status, Request(type, sector, length, deviceWrites).Status);
        Assert.Equal(Ok, Request(0, 0, 512, true).Status);
    }

    [Theory]
    [InlineData(0, 4096, Ok)]
    [InlineData(8, 4096, Ok)]
    [InlineData(1, 4096, IoError)]
    [InlineData(4, 8192, IoError)]
    [InlineData(8, 512, IoError)]
    [InlineData(0, 6144, IoError)]
    public void Disk_of_larger_blocks_takes_whole_ones_that_begin_at_a_block(ulong sector, uint length, byte status)
    {
        _backend.Dispose();
        _backend = new MemoryBackend(1 << 20, 4096);
        var device = Start();
        var size = new byte[4];
        Assert.True(device.TryGetConfig(20, size, out _));
        Assert.Equal(4096u, BinaryPrimitives.ReadUInt32LittleEndian(size));
        Assert.Equal(status, Request(0, sector, length, deviceWrites: true).Status);
        Assert.Equal(status, Request(1, sector, length, deviceWrites: false).Status);
        Assert.Equal(Ok, Request(0, 0, 4096, deviceWrites: true).Status);
    }

    [Fact]
    public void Read_only_disk_says_so_and_refuses_writes()
    {
        var path = MakeFile(1 << 16);
        _backend.Dispose();
        _backend = FileBackend.Open(path, readOnly: true);
        var device = Start();
        Assert.True(device.DeviceFeatures.Has(VirtioBlkConfig.VIRTIO_BLK_F_RO));
        Assert.Equal(IoError, Request(1, 0, 512, false).Status);
        Assert.Equal(Ok, Request(0, 0, 512, true).Status);
    }

    [Fact]
    public void File_is_read_and_written_in_place()
    {
        var path = MakeFile(1 << 16);
        _backend.Dispose();
        _backend = FileBackend.Open(path);
        Start();
        _memory.Write(Data, Enumerable.Repeat((byte)0x5a, 1024).ToArray());
        Assert.Equal(Ok, Request(1, 3, 1024, false).Status);
        Assert.Equal(Ok, Request(4, 0, 0, false).Status);
        _device!.Dispose();
        _backend.Dispose();
        Assert.Equal(Enumerable.Repeat((byte)0x5a, 1024), File.ReadAllBytes(path)[1536..2560]);
    }

    [Fact]
    public void File_cut_short_under_the_disk_answers_with_an_error()
    {
        var path = MakeFile(1 << 16);
        _backend.Dispose();
        _backend = FileBackend.Open(path);
        Start();
        // By another program: the runtime's own file streams heed the lock.
        using (var truncate = System.Diagnostics.Process.Start("truncate", ["-s", "1024", path]))
            truncate.Ends();
        Assert.Equal(IoError, Request(0, 1, 1024, true).Status);
        Assert.Equal(Ok, Request(0, 1, 512, true).Status);
    }

    [Fact]
    public void Chain_without_status_stops_the_queue_and_the_device_asks_for_a_reset()
    {
        var device = Start();
        (int Queue, Fault Fault)? seen = null;
        device.SetQueueFaultCallback((queue, fault) => seen = (queue, fault));
        _driver.Add([new DriverBuffer(new Iova(Base + Header), 16, false)]);
        _driver.Publish();
        _kick.Signal();
        Deadline.Until(() => seen is not null, "the fault");
        Assert.Equal(0, seen!.Value.Queue);
        Assert.Equal(VirtioStatus.DEVICE_NEEDS_RESET, device.Status & VirtioStatus.DEVICE_NEEDS_RESET);
        device.Reset();
        Assert.Equal(0, device.Status);
    }

    [Fact]
    public void Buffers_that_wait_are_served_without_a_kick_when_the_queue_starts()
    {
        Add(0, 0, 512, true);
        _kick.TryRead(out _);
        Start();
        Deadline.Until(() => _driver.TryTakeUsed(out _, out _, out _), "a used buffer");
        Deadline.Until(() => _call.TryRead(out _), "the call");
    }

    [Fact]
    public void Without_a_kick_eventfd_the_ring_is_polled()
    {
        var device = Start();
        device.SetQueueKick(0, null);
        for (var i = 0; i < 3; i++)
            Assert.Equal(Ok, Request(0, 0, 512, true).Status);
    }

    [Fact]
    public void Queue_stopped_and_started_goes_on_where_it_was()
    {
        var device = Start();
        for (var round = 1; round <= 5; round++)
        {
            Assert.Equal(Ok, Request(0, 0, 512, true).Status);
            _kick.Signal();
            Assert.True(device.TrySetQueueReady(0, false, out _));
            // Who takes the queue over may wait on the same eventfd: no old kick is left there.
            Assert.False(_kick.TryRead(out _));
            Assert.Equal(round, device.GetQueueState(0).NextAvailable);
            Assert.True(device.TrySetQueueReady(0, true, out _));
        }
    }

    [Fact]
    public void Queue_waits_while_its_memory_is_gone()
    {
        var device = Start();
        Assert.Equal(Ok, Request(0, 0, 512, true).Status);
        _dma.Attach(null);
        Add(0, 0, 512, true);
        Assert.True(device.IsQueueReady(0));
        Assert.Equal(1, _driver.Writer.UsedIndex);
        _dma.Attach(_space);
        Deadline.Until(() => _driver.TryTakeUsed(out _, out _, out _), "a used buffer");
    }

    [Fact]
    public void Queue_that_is_ready_takes_no_set_up()
    {
        var device = Start();
        Assert.False(device.TrySetQueueSize(0, 32, out var fault));
        Assert.Equal(Errno.EBUSY, fault.Errno);
        Assert.False(device.TrySetQueueAddress(0, default, default, default, out _));
        Assert.False(device.TrySetQueueState(0, default, out _));
        Assert.False(device.TrySetDriverFeatures(default, out fault));
        Assert.Equal(Errno.EBUSY, fault.Errno);
        Assert.False(device.TrySetStatus(1, out fault));
        Assert.Equal(Errno.EINVAL, fault.Errno);
    }

    [Fact]
    public void Ring_outside_memory_is_refused_when_the_queue_is_made_ready()
    {
        var device = Start();
        Assert.True(device.TrySetQueueReady(0, false, out _));
        Assert.True(device.TrySetQueueAddress(0, new Iova(0x5000_0000), default, default, out _));
        Assert.False(device.TrySetQueueReady(0, true, out var fault));
        Assert.Equal(Errno.EFAULT, fault.Errno);
        Assert.False(device.IsQueueReady(0));
    }

    [Fact]
    public void Configuration_space_has_the_layout_of_the_standard()
    {
        var device = Start();
        var space = new byte[device.ConfigSize];
        Assert.True(device.TryGetConfig(0, space, out _));
        Assert.Equal(2048u, BinaryPrimitives.ReadUInt64LittleEndian(space));
        Assert.Equal(126u, BinaryPrimitives.ReadUInt32LittleEndian(space.AsSpan(12)));
        Assert.Equal(512u, BinaryPrimitives.ReadUInt32LittleEndian(space.AsSpan(20)));
        Assert.Equal(1, space[32]);
        Assert.Equal(2, BinaryPrimitives.ReadUInt16LittleEndian(space.AsSpan(34)));
        Assert.False(device.TryGetConfig(90, new byte[7], out _));
        Assert.False(device.TryGetConfig(-1, new byte[1], out _));
        Assert.False(device.TrySetConfig(0, [1], out var fault));
        Assert.Equal(Errno.EROFS, fault.Errno);
        Assert.True(device.TrySetConfig(32, [0], out _));
        Assert.True(device.TryGetConfig(0, space, out _));
        Assert.Equal(0, space[32]);
    }

    [Theory]
    [InlineData(false, false, 1)]
    [InlineData(true, false, 0)]
    [InlineData(true, true, 1)]
    public void Writes_are_durable_at_once_unless_the_driver_can_flush_and_wants_a_cache(bool flush, bool writethrough, int flushes)
    {
        using var counting = new CountingBackend();
        _backend.Dispose();
        _backend = counting;
        var device = Start(flush ? default : VirtioFeatures.Of(VirtioBlkConfig.VIRTIO_BLK_F_FLUSH, VirtioBlkConfig.VIRTIO_BLK_F_CONFIG_WCE));
        if (writethrough)
            Assert.True(device.TrySetConfig(VirtioBlkConfig.WritebackOffset, [0], out _));
        Assert.Equal((Ok, 1u), Request(1, 0, 512, false));
        Assert.Equal(flushes, counting.Flushes);
        // Zeros are as a write, and a discard is none: it promises nothing.
        _memory.Write(Data, [0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0]);
        Assert.Equal((Ok, 1u), Request(VirtioBlkConfig.VIRTIO_BLK_T_WRITE_ZEROES, 0, 16, false));
        Assert.Equal((Ok, 1u), Request(VirtioBlkConfig.VIRTIO_BLK_T_DISCARD, 0, 16, false));
        Assert.Equal(2 * flushes, counting.Flushes);
    }

    [Fact]
    public void Write_through_stays_over_resets_until_the_driver_takes_it_back()
    {
        using var counting = new CountingBackend();
        _backend.Dispose();
        _backend = counting;
        var device = Start();
        Assert.True(device.TrySetConfig(VirtioBlkConfig.WritebackOffset, [0], out _));
        for (var flushes = 1; flushes < 4; flushes++)
        {
            Assert.Equal((Ok, 1u), Request(1, 0, 512, false));
            Assert.Equal(flushes, counting.Flushes);
            device.Reset();
            Assert.Equal(0, Mode(device));
            Restart();
        }
        Assert.True(device.TrySetConfig(VirtioBlkConfig.WritebackOffset, [1], out _));
        Assert.Equal(1, Mode(device));
        Assert.Equal((Ok, 1u), Request(1, 0, 512, false));
        Assert.Equal(3, counting.Flushes);
    }

    [Theory]
    [InlineData(false, 1)]
    [InlineData(true, 0)]
    public void User_who_did_not_read_the_mode_before_its_first_queue_ran_is_served_write_through(bool reads, int flushes)
    {
        using var counting = new CountingBackend();
        _backend.Dispose();
        _backend = counting;
        var device = Start(readsMode: reads);
        Assert.Equal((Ok, 1u), Request(1, 0, 512, false));
        Assert.Equal(flushes, counting.Flushes);
        // Too late: it may go by what it has known for long.
        Assert.Equal(reads ? 1 : 0, Mode(device));
        device.Reset();
        Mode(device);
        Restart();
        Assert.Equal((Ok, 1u), Request(1, 0, 512, false));
        Assert.Equal(2 * flushes, counting.Flushes);

        // What it asks for itself counts at once.
        Assert.True(device.TrySetConfig(VirtioBlkConfig.WritebackOffset, [1], out _));
        Assert.Equal(1, Mode(device));
        Assert.Equal((Ok, 1u), Request(1, 0, 512, false));
        Assert.Equal(2 * flushes, counting.Flushes);

        // The next one has read nothing yet.
        device.BeginUse();
        Restart();
        Assert.Equal((Ok, 1u), Request(1, 0, 512, false));
        Assert.Equal((2 * flushes) + 1, counting.Flushes);
    }

    [Fact]
    public void Mode_is_kept_before_it_counts_and_the_next_device_has_it()
    {
        using var counting = new CountingBackend();
        _backend.Dispose();
        _backend = counting;
        var kept = new CacheMode { Answer = new Fault(Errno.ENOSPC, "full") };
        var device = Start(cacheMode: kept);
        Assert.False(device.TrySetConfig(VirtioBlkConfig.WritebackOffset, [0], out var fault));
        Assert.Equal(Errno.ENOSPC, fault.Errno);
        Assert.Equal(1, Mode(device));
        kept.Answer = Fault.None;
        Assert.True(device.TrySetConfig(VirtioBlkConfig.WritebackOffset, [0], out _));
        Assert.False(kept.IsWriteback);

        using var other = new VirtioBlkDevice("other", _backend, "serial-2", cacheMode: kept);
        Assert.Equal(0, Mode(other));
        // Another user of the disk does not change by that how this one is served.
        Assert.True(other.TrySetConfig(VirtioBlkConfig.WritebackOffset, [1], out _));
        Assert.True(kept.IsWriteback);
        Assert.Equal(0, Mode(device));
        Assert.Equal((Ok, 1u), Request(1, 0, 512, false));
        Assert.Equal(1, counting.Flushes);
        device.BeginUse();
        Assert.Equal(1, Mode(device));
    }

    [Theory]
    [InlineData(1UL << VirtioBlkConfig.VIRTIO_BLK_F_FLUSH, 0)]
    [InlineData(1UL << VirtioBlkConfig.VIRTIO_BLK_F_CONFIG_WCE, 1)]
    [InlineData(1UL << VirtioBlkConfig.VIRTIO_BLK_F_FLUSH | 1UL << VirtioBlkConfig.VIRTIO_BLK_F_CONFIG_WCE, 0)]
    public void Writeback_field_shows_what_the_features_make_of_it(ulong without, byte mode)
    {
        using var counting = new CountingBackend();
        _backend.Dispose();
        _backend = counting;
        var device = Start(new VirtioFeatures(without));
        Assert.Equal(mode, Mode(device));
        // A cache that nothing would ever empty is not to be had.
        device.TrySetConfig(VirtioBlkConfig.WritebackOffset, [1], out _);
        Assert.Equal(mode, Mode(device));
        Assert.Equal((Ok, 1u), Request(1, 0, 512, false));
        Assert.Equal(mode == 0 ? 1 : 0, counting.Flushes);
        device.Reset();
        Assert.Equal(1, Mode(device));
    }

    [Fact]
    public void What_an_asynchronous_back_end_ends_out_of_order_comes_back_in_order_and_is_drained_on_stop()
    {
        using var late = new LateBackend();
        _backend.Dispose();
        _backend = late;
        var device = Start();
        for (var i = 0UL; i < 4; i++)
            Add(0, i, 512, true);
        Deadline.Until(() => late.Held == 4, "the requests in flight");
        late.Finish(last: true);
        late.Finish(last: true);
        // A front end that goes on at the used index with another back end would never see the first one done, and the last ones twice.
        Assert.False(_call.Wait(TimeSpan.FromMilliseconds(100)));
        Assert.Equal(0, _driver.Writer.UsedIndex);
        late.Finish(last: false);
        Deadline.Until(() => _driver.Writer.UsedIndex == 1, "the first request");
        Assert.True(_driver.TryTakeUsed(out var head, out _, out _));
        Assert.Equal(0, head);
        late.FinishAllAlways();
        Assert.True(device.TrySetQueueReady(0, false, out _));
        Assert.Equal(4, _driver.Writer.UsedIndex);
        Assert.Equal(4, device.GetQueueState(0).NextAvailable);
        // By the thread that asked the back end: with that thread goes what the kernel does for it.
        Assert.Equal(["test-vq0"], late.Reapers);
    }

    [Fact]
    public void What_is_in_flight_when_the_ring_breaks_is_handed_back_before_the_driver_hears_of_it()
    {
        using var late = new LateBackend();
        _backend.Dispose();
        _backend = late;
        var device = Start();
        var used = -1;
        var isCalled = false;
        using var told = new EventFd();
        device.SetQueueFaultCallback((_, _) =>
        {
            used = _driver.Writer.UsedIndex;
            isCalled = _call.TryRead(out _);
            told.Signal();
        });
        Add(0, 0, 512, true);
        Add(0, 1, 512, true);
        Deadline.Until(() => late.Held == 2, "the requests in flight");
        late.FinishAllWhenWaitedFor();
        _driver.Writer.AddHead(99);
        _driver.Publish();
        _kick.Signal();
        Assert.True(told.Wait(TimeSpan.FromSeconds(20)));
        Assert.Equal((2, true), (used, isCalled));
        Assert.Equal(0, late.Held);
    }

    [Fact]
    public void Queue_that_is_full_waits_and_does_not_spin()
    {
        using var late = new LateBackend();
        _backend.Dispose();
        _backend = late;
        var device = Start();
        for (var i = 0; i < 12; i++)
            Add(0, 0, 512, true);
        Deadline.Until(() => late.Held == 8, "as many requests in flight as the back end takes");
        // A thread that looked at the ring again and again would ask the back end each time.
        var looks = late.Looks;
        Assert.False(_call.Wait(TimeSpan.FromMilliseconds(200)));
        Assert.InRange(late.Looks - looks, 0, 5);
        late.FinishAllAlways();
        late.Finish(last: false);
        Deadline.Until(() => _driver.Writer.UsedIndex == 12, "all requests");
        Assert.True(device.TrySetQueueReady(0, false, out _));
    }

    [Fact]
    public void Other_size_of_the_back_end_is_told_to_the_driver()
    {
        var nothing = new NullBackend(1 << 20);
        _backend.Dispose();
        _backend = nothing;
        var device = Start();
        var told = 0;
        device.SetConfigCallback(() => told++);
        var generation = device.ConfigGeneration;
        Assert.Equal(IoError, Request(0, 2048, 512, true).Status);
        nothing.Resize(2 << 20);
        Assert.Equal(1, told);
        Assert.NotEqual(generation, device.ConfigGeneration);
        var capacity = new byte[8];
        Assert.True(device.TryGetConfig(0, capacity, out _));
        Assert.Equal(4096ul, BinaryPrimitives.ReadUInt64LittleEndian(capacity));
        Assert.Equal(Ok, Request(0, 2048, 512, true).Status);
        device.Dispose();
        nothing.Resize(1 << 20);
        Assert.Equal(1, told);
    }

    [Fact]
    public void Requests_of_a_back_end_that_errs_are_answered_every_one()
    {
        var memory = new MemoryBackend(1 << 20);
        _backend.Dispose();
        using var faulty = new FaultyBackend(memory, new FaultPlan { Seed = 11, Fail = 0.3, Tear = 0.2, Delay = 0.5, Reorder = true });
        _backend = faulty;
        Start();
        var answers = new HashSet<byte>();
        for (var i = 0; i < 200; i++)
            answers.Add(Request((uint)(i & 1), (ulong)i, 512, (i & 1) == 0).Status);
        Assert.Equal([Ok, IoError], answers.Order());
        _device!.Dispose();
        memory.Dispose();
    }

    [Fact]
    public void Request_allocates_nothing()
    {
        _backend.Dispose();
        _backend = new NullBackend(1 << 20);
        Start();
        Add(0, 0, 512, true);
        Deadline.Until(() => _driver.TryTakeUsed(out _, out _, out _), "a used buffer");
        DriverBuffer[] chain =
        [
            new DriverBuffer(new Iova(Base + Header), 16, false),
            new DriverBuffer(new Iova(Base + Data), 512, true),
            new DriverBuffer(new Iova(Base + Status), 1, true),
        ];
        Burst(chain, 20_000);
        var before = GC.GetTotalAllocatedBytes(precise: true);
        Burst(chain, 100_000);
        var allocated = GC.GetTotalAllocatedBytes(precise: true) - before;
        // No other test runs, but the test host may allocate; a request that allocated at all would make 2.4 MB.
        Assert.InRange(allocated, 0, 50_000);
    }

    [Theory]
    [InlineData("none", Errno.ENOENT)]
    [InlineData("folder", Errno.EISDIR)]
    [InlineData("odd", Errno.EINVAL)]
    [InlineData("empty", Errno.EINVAL)]
    [InlineData("fifo", Errno.EINVAL)]
    [InlineData("used", Errno.EBUSY)]
    public void File_that_is_no_disk_is_refused_with_its_reason(string kind, Errno errno)
    {
        var path = kind switch
        {
            "folder" => _folder.FullName,
            "odd" => MakeFile(1000),
            "empty" => MakeFile(0),
            "used" => MakeFile(4096),
            "fifo" => MakeFifo(),
            _ => Path.Combine(_folder.FullName, "none"),
        };
        using var first = kind == "used" ? FileBackend.Open(path) : null;
        var error = Assert.Throws<VirtbusException>(() => FileBackend.Open(path));
        Assert.Equal(errno, error.Errno);
        Assert.Contains(path, error.Message, StringComparison.Ordinal);
        // Only a FIFO differs: to read it is to wait for who writes.
        if (kind != "used")
            Assert.Equal(errno, FileBackend.FindFault(path, readOnly: true)!.Errno);
    }

    [Theory]
    [InlineData("qcow", "qcow")]
    [InlineData("qcow2", "qcow2")]
    [InlineData("qed", "QED")]
    [InlineData("vdi", "VDI")]
    [InlineData("vhdx", "VHDX")]
    [InlineData("vmdk", "VMDK")]
    [InlineData("vmdk -o subformat=monolithicFlat", "VMDK")]
    [InlineData("vpc", "VHD")]
    [InlineData("vpc -o subformat=fixed", "VHD")]
    [InlineData("parallels", "Parallels")]
    public void Image_of_another_format_is_refused_padded_too_and_the_command_in_the_refusal_converts_it(string made, string format)
    {
        Assert.SkipWhen(!File.Exists("/usr/bin/qemu-img"), "qemu-img is not installed: apt-get install qemu-utils.");
        var path = Path.Combine(_folder.FullName, "it's a disk.img");
        Run($"qemu-img create -q -f {made} \"$0\" 4M", path);
        var said = Assert.Throws<VirtbusException>(() => FileBackend.Open(path)).Message;
        Assert.Contains($"is an image in the format {format}, ", said, StringComparison.Ordinal);
        Assert.Contains("say 'format: raw'", said, StringComparison.Ordinal);
        Assert.DoesNotContain("truncate", said, StringComparison.Ordinal);
        Assert.Equal(said, FileBackend.FindFault(path)!.Message);

        var at = said.IndexOf("qemu-img convert", StringComparison.Ordinal);
        Run(said[at..said.IndexOf(". If", StringComparison.Ordinal)], path);
        using (var converted = FileBackend.Open(Path.ChangeExtension(path, ".raw")))
            Assert.InRange(converted.Info.Capacity, 4 << 20, 5 << 20);

        // As somebody does who was told that a size is no multiple of 512. A footer is not at the end any more.
        using (var file = File.OpenWrite(path))
            file.SetLength((file.Length + 511) / 512 * 512);
        Assert.NotNull(FileBackend.FindFault(path));
        using var raw = FileBackend.Open(path, raw: true);
        Assert.Equal(new FileInfo(path).Length, raw.Info.Capacity);
    }

    [Fact]
    public void What_a_guest_writes_to_its_own_disk_does_not_take_it_away_while_it_is_open()
    {
        var path = MakeFile(4096);
        using (var file = File.OpenWrite(path))
            file.Write(new byte[] { (byte)'L', (byte)'U', (byte)'K', (byte)'S', 0xba, 0xbe });
        // A guest's own encryption is no image format.
        using (var disk = FileBackend.Open(path))
        {
            // Not by .NET, which asks for a lock.
            Run("printf 'QFI\\373\\0\\0\\0\\3' | dd of=\"$0\" conv=notrunc 2>/dev/null", path);
            using var channel = disk.OpenChannel(1);
            Assert.Equal(Errno.None, channel.Do(new BlockRequest { Operation = BlockOperation.Flush }));
        }
        Assert.Contains("say 'format: raw'", Assert.Throws<VirtbusException>(() => FileBackend.Open(path)).Message, StringComparison.Ordinal);
        FileBackend.Open(path, raw: true).Dispose();
    }

    [Fact]
    public void Odd_size_is_told_with_a_remedy_that_keeps_every_byte()
    {
        var path = MakeFile(1000);
        File.WriteAllBytes(path, [.. Enumerable.Range(1, 1000).Select(i => (byte)i)]);
        var said = Assert.Throws<VirtbusException>(() => FileBackend.Open(path)).Message;
        Assert.Contains("has 1000 bytes, which is no multiple of 512", said, StringComparison.Ordinal);
        Run(said[said.IndexOf("truncate", StringComparison.Ordinal)..], path);
        Assert.Equal([.. Enumerable.Range(1, 1000).Select(i => (byte)i), .. new byte[24]], File.ReadAllBytes(path));
        FileBackend.Open(path).Dispose();
    }

    private static void Run(string command, string zero)
    {
        using var shell = System.Diagnostics.Process.Start("sh", ["-ec", command, zero]);
        Assert.True(shell.WaitForExit(TimeSpan.FromSeconds(60)), command);
        Assert.Equal(0, shell.ExitCode);
    }

    private void Burst(DriverBuffer[] chain, int count)
    {
        int sent = 0, done = 0;
        while (done < count)
        {
            while (sent < count && _driver.Add(chain) >= 0)
                sent++;
            if (_driver.Publish())
                _kick.Signal();
            while (_driver.TryTakeUsed(out _, out _, out _))
                done++;
        }
    }

    private string MakeFifo()
    {
        var path = Path.Combine(_folder.FullName, "fifo");
        Run("mkfifo \"$0\"", path);
        return path;
    }

    private string MakeFile(int size)
    {
        var path = Path.Combine(_folder.FullName, "disk");
        File.WriteAllBytes(path, new byte[size]);
        return path;
    }

    private sealed class CacheMode : ICacheModeStore
    {
        public Fault Answer { get; set; }

        public bool IsWriteback { get; private set; } = true;

        public bool TryKeep(bool writeback, out Fault fault)
        {
            fault = Answer;
            if (fault == Fault.None)
                IsWriteback = writeback;
            return fault == Fault.None;
        }
    }

    /// <summary>A disk that keeps nothing, whose model has a bug at one request.</summary>
    private sealed class FailingBackend(int bug) : IBlockBackend
    {
        private int _requests;

        public int Bug => bug;

        public event EventHandler? InfoChanged
        {
            add { }
            remove { }
        }

        public string Description => "failing";

        public BlockInfo Info { get; } = new() { Capacity = 1 << 20 };

        public IBlockChannel OpenChannel(int depth, bool ownsThread = true) => new Channel(this);

        public void Restart() => Volatile.Write(ref _requests, 0);

        public void Dispose()
        {
        }

        private sealed class Channel(FailingBackend backend) : IBlockChannel
        {
            public int Depth => 1;

            public FileDescriptor? Completion => null;

            public BlockWays Ways => default;

            public bool Submit(BlockRequest request)
            {
                if (Interlocked.Increment(ref backend._requests) == backend.Bug)
                    throw new InvalidOperationException("a bug, as asked");
                request.Result = Errno.None;
                return true;
            }

            public void Commit()
            {
            }

            public BlockRequest? TryReap() => null;

            public void Wait(int milliseconds)
            {
            }

            public void Dispose()
            {
            }
        }
    }

    private sealed class LateBackend : IBlockBackend, IBlockChannel
    {
        private readonly EventFd _ready = new();
        private readonly List<BlockRequest> _held = [];
        private readonly Queue<BlockRequest> _done = [];
        private bool _always;
        private bool _whenWaitedFor;

        public string Description => "late";

        public event EventHandler? InfoChanged
        {
            add { }
            remove { }
        }

        public BlockInfo Info { get; } = new() { Capacity = 1 << 20 };

        public BlockWays Ways => default;

        public int Depth => 8;

        public FileDescriptor? Completion => _ready.Descriptor;

        internal int Looks { get; private set; }

        /// <summary>Names of the threads that took something back.</summary>
        internal HashSet<string?> Reapers { get; } = [];

        internal int Held
        {
            get
            {
                lock (_held)
                    return _held.Count;
            }
        }

        public IBlockChannel OpenChannel(int depth, bool ownsThread = true) => this;

        public bool Submit(BlockRequest request)
        {
            lock (_held)
                _held.Add(request);
            return false;
        }

        public void Commit()
        {
        }

        public void Wait(int milliseconds)
        {
            lock (_held)
            {
                _always |= _whenWaitedFor;
                if (_always)
                    return;
            }

            Polling.Wait(_ready.Descriptor, forWriting: false, cancel: null, milliseconds);
        }

        public BlockRequest? TryReap()
        {
            lock (_held)
            {
                Looks++;
                if (_always)
                {
                    foreach (var held in _held)
                        _done.Enqueue(held);
                    _held.Clear();
                }

                if (_done.TryDequeue(out var request))
                {
                    Reapers.Add(Thread.CurrentThread.Name);
                    return request;
                }

                _ready.TryRead(out _);
                return null;
            }
        }

        internal void Finish(bool last)
        {
            lock (_held)
            {
                var request = last ? _held[^1] : _held[0];
                _held.Remove(request);
                _done.Enqueue(request);
            }

            _ready.Signal();
        }

        internal void FinishAllWhenWaitedFor()
        {
            lock (_held)
                _whenWaitedFor = true;
        }

        internal void FinishAllAlways()
        {
            lock (_held)
                _always = true;
        }

        public void Dispose() => _ready.Dispose();
    }

    [Fact]
    public void Queue_of_a_back_end_that_may_block_has_a_thread_and_others_share()
    {
        Start();
        Assert.Equal((Ok, 513u), Request(0, 0, 512, deviceWrites: true));
        Assert.Equal(0, QueueThreads());
        _device!.Dispose();
        _backend.Dispose();

        _backend = new CountingBackend();
        _memory.Write(0, new byte[(int)Header]);
        _driver = NewDriver();
        Start();
        Assert.Equal((Ok, 513u), Request(0, 0, 512, deviceWrites: true));
        Assert.Equal(1, QueueThreads());
        _device.Reset();
        Deadline.Until(() => QueueThreads() == 0, "the end of the thread");

        static int QueueThreads() =>
            Directory.EnumerateDirectories("/proc/self/task").Count(t => File.Exists(t + "/comm") && File.ReadAllText(t + "/comm").StartsWith("test-vq", StringComparison.Ordinal));
    }
}
