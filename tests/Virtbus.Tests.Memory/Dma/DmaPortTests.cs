using System.Diagnostics;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;
using static Virtbus.Tests.Memory.Dma.DmaFixture;

namespace Virtbus.Tests.Memory.Dma;

public sealed class DmaPortTests : IDisposable
{
    private readonly DmaFixture _dma = new();

    public void Dispose() => _dma.Dispose();

    [Fact]
    public void Function_that_is_no_bus_master_reaches_nothing()
    {
        Assert.Equal(Errno.None, _dma.Map(0, Page));
        _dma.Port.IsBusMaster = false;
        Assert.False(_dma.CanRead(0));
        Assert.Equal(Errno.EPERM, _dma.Port.LastFault!.Value.Fault.Errno);
        using (var map = _dma.Port.Snapshot())
            Assert.True(map.Ranges.IsEmpty);
        _dma.Port.IsBusMaster = true;
        Assert.True(_dma.CanRead(0));
    }

    [Fact]
    public void Bus_mastering_is_one_for_a_function_and_its_PASIDs()
    {
        var pasid = _dma.Port.ForPasid(3);
        Assert.True(pasid.IsBusMaster);
        var changes = 0;
        pasid.SetChangeCallback(_ => changes++);
        _dma.Port.IsBusMaster = false;
        _dma.Port.IsBusMaster = false;
        Assert.False(pasid.IsBusMaster);
        Assert.Equal(1, changes);
        pasid.IsBusMaster = true;
        Assert.True(_dma.Port.IsBusMaster);
    }

    [Theory]
    [InlineData(0x0fff, 1, DmaAccess.Read, Errno.EFAULT, 0x0fff)]
    [InlineData(0x0fff, 2, DmaAccess.Read, Errno.EFAULT, 0x0fff)]
    [InlineData(0x1fff, 2, DmaAccess.Write, Errno.EACCES, 0x2000)]
    [InlineData(0x1fff, 2, DmaAccess.Read, Errno.None, 0)]
    [InlineData(0x2000, 1, DmaAccess.Write, Errno.EACCES, 0x2000)]
    [InlineData(0x3000, 1, DmaAccess.Read, Errno.EACCES, 0x3000)]
    [InlineData(0x3000, 4096, DmaAccess.Write, Errno.None, 0)]
    [InlineData(0x3fff, 10000, DmaAccess.Write, Errno.EFAULT, 0x4000)]
    [InlineData(0x5000, 0, DmaAccess.Write, Errno.None, 0)]
    public void Fault_names_the_first_byte_that_was_not_reached(ulong address, int length, DmaAccess access, Errno error, ulong at)
    {
        Assert.Equal(Errno.None, _dma.Map(0x1000, Page, 0, DmaAccess.ReadWrite));
        Assert.Equal(Errno.None, _dma.Map(0x2000, Page, Page, DmaAccess.Read));
        Assert.Equal(Errno.None, _dma.Map(0x3000, Page, 2 * Page, DmaAccess.Write));
        var reported = new List<DmaFault>();
        using var watch = _dma.Group.Observe(reported.Add, null);
        var data = new byte[length];
        Array.Fill(data, (byte)9);
        Assert.Equal(error == Errno.None, access == DmaAccess.Read ? _dma.Port.TryRead(new Iova(address), data) : _dma.Port.TryWrite(new Iova(address), data));
        if (error == Errno.None)
        {
            Assert.Empty(reported);
            Assert.Null(_dma.Port.LastFault);
            return;
        }

        var fault = Assert.Single(reported);
        Assert.Equal((_dma.Port, new Iova(at), access, error), (fault.Port, fault.Address, fault.Access, fault.Fault.Errno));
        Assert.Equal(fault, _dma.Port.LastFault);
        Assert.Equal(1, _dma.Port.Faults);
        if (access == DmaAccess.Write && at > address)
            Assert.Equal(9, _dma.Bytes(address == 0x1fff ? Page - 1 : (3 * Page) - 1, 1)[0]);
    }

    [Fact]
    public void Observer_hears_nothing_after_its_end()
    {
        var heard = 0;
        var watch = _dma.Group.Observe(_ => heard++, () => heard++);
        Assert.False(_dma.CanRead(0));
        watch.Dispose();
        Assert.False(_dma.CanRead(0));
        _dma.Group.ReleaseUser(_dma);
        Assert.Equal(1, heard);
    }

    [Fact]
    public void PASID_has_a_space_of_its_own_and_its_faults_count_for_the_function_too()
    {
        using var space = new IoAddressSpace();
        var pasid = _dma.Port.ForPasid(DmaPort.MaxPasid);
        Assert.Same(pasid, _dma.Port.ForPasid(DmaPort.MaxPasid));
        Assert.Same(pasid, _dma.Port.ForPasid(1).ForPasid(DmaPort.MaxPasid));
        Assert.Equal(DmaPort.MaxPasid, pasid.Pasid);
        Assert.Throws<ArgumentOutOfRangeException>(() => _dma.Port.ForPasid(0));
        Assert.Throws<ArgumentOutOfRangeException>(() => _dma.Port.ForPasid(DmaPort.MaxPasid + 1));
        Assert.Equal(Errno.None, _dma.Map(0, Page, 0));
        _dma.Memory.Write(0, [1]);
        _dma.Memory.Write(Page, [2]);
        Assert.True(space.TryMap(new Iova(0), Page, _dma.Memory, Page, DmaAccess.Read, out _));
        var read = new byte[1];
        Assert.False(pasid.TryRead(new Iova(0), read));
        Assert.Equal(Errno.ENODEV, pasid.LastFault!.Value.Fault.Errno);
        Assert.Same(pasid, _dma.Port.LastFault!.Value.Port);
        Assert.True(_dma.Group.TryAttach(_dma, pasid, space, out _));
        Assert.Same(space, pasid.AddressSpace);
        Assert.True(pasid.TryRead(new Iova(0), read));
        Assert.Equal(2, read[0]);
        Assert.True(_dma.Port.TryRead(new Iova(0), read));
        Assert.Equal(1, read[0]);
        Assert.Equal((1, 1), (pasid.Faults, _dma.Port.Faults));
        _dma.Group.ReleaseUser(_dma);
        Assert.Null(pasid.AddressSpace);
    }

    [Fact]
    public void Log_of_a_function_has_the_writes_of_its_PASIDs_and_only_writes_that_were_done()
    {
        Assert.True(DirtyLog.TryCreate(Page, [], out var log, out _));
        using var space = new IoAddressSpace();
        var pasid = _dma.Port.ForPasid(1);
        Assert.True(_dma.Group.TryAttach(_dma, pasid, space, out _));
        Assert.True(space.TryMap(new Iova(0x20000), Page, _dma.Memory, 0, DmaAccess.ReadWrite, out _));
        Assert.Equal(Errno.None, _dma.Map(0x10000, 4 * Page));
        Assert.Equal(Errno.None, _dma.Map(0x14000, Page, 0, DmaAccess.Read));
        Assert.True(_dma.CanWrite(0x10000));
        Assert.True(_dma.Port.TryStartLog(log!, out _));
        Assert.False(pasid.TryStartLog(log!, out var fault));
        Assert.Equal(Errno.EBUSY, fault.Errno);
        Assert.True(_dma.CanRead(0x10000, 100));
        Assert.False(_dma.CanWrite(0x12fff, (int)(4 * Page)));
        Assert.True(pasid.TryWrite(new Iova(0x20010), [1]));
        _dma.Port.MarkWritten(new Iova(0x30000), 1);
        Assert.Equal([0x12, 0x13, 0x20, 0x30], Read(log!));
        Assert.Empty(Read(log!));
        pasid.StopLog();
        _dma.Port.StopLog();
        Assert.True(_dma.CanWrite(0x10000));
        Assert.Empty(Read(log!));
        Assert.True(pasid.TryStartLog(log!, out _));
        Assert.True(_dma.CanWrite(0x10000));
        Assert.Equal([0x10], Read(log!));
    }

    [Fact]
    public void Log_of_a_space_has_the_writes_of_all_who_write_through_it()
    {
        Assert.True(DirtyLog.TryCreate(Page, [], out var log, out _));
        Assert.Equal(Errno.None, _dma.Map(0x10000, 4 * Page));
        var second = new DmaPort("0000:01:00.1", _dma.Group) { IsBusMaster = true };
        Assert.True(_dma.Group.TryAttach(_dma, second, _dma.Space, out _));
        using var access = _dma.Space.OpenAccess("access", null);
        Assert.False(_dma.Space.TryReadLog(Range(0, Page), Page, new ulong[1], out var fault));
        Assert.Equal(Errno.EINVAL, fault.Errno);
        Assert.True(_dma.Space.TryStartLog(log!, out _));
        Assert.False(_dma.Space.TryStartLog(log!, out fault));
        Assert.Equal(Errno.EBUSY, fault.Errno);
        Assert.True(_dma.CanWrite(0x10000));
        Assert.True(second.TryWrite(new Iova(0x11000), [1]));
        Assert.True(access.TryWrite(new Iova(0x12000), [1], out _));
        var bits = new ulong[1];
        Assert.True(_dma.Space.TryReadLog(Range(0x10000, 4 * Page), Page, bits, out _));
        Assert.Equal(0b111ul, bits[0]);
        _dma.Space.StopLog();
        Assert.True(_dma.CanWrite(0x10000));
        Assert.Empty(Read(log!));
    }

    [Fact]
    public void Peers_memory_is_reached_by_messages_next_to_mapped_memory()
    {
        var peer = new PeerMemory(0x11000, 3 * (int)Page);
        Assert.Equal(Errno.None, _dma.Map(0x10000, Page));
        Assert.True(_dma.Space.TryMap(Range(0x11000, Page), peer, DmaAccess.ReadWrite, out _));
        Assert.True(_dma.Space.TryMap(Range(0x12000, Page), peer, DmaAccess.Read, out _));
        Assert.Equal(Errno.None, _dma.Map(0x13000, Page, Page));
        Assert.False(_dma.Space.TryMap(Range(0x13000, Page), peer, DmaAccess.Read, out var fault));
        Assert.Equal(Errno.EEXIST, fault.Errno);
        Assert.False(_dma.Space.TryMap(Range(0x14001, Page), peer, DmaAccess.Read, out fault));
        Assert.Equal(Errno.EINVAL, fault.Errno);
        var data = new byte[100 + (int)Page];
        new Random(2).NextBytes(data);
        Assert.True(_dma.Port.TryWrite(new Iova(0x11000 - 100), data));
        Assert.Equal(data[..100], _dma.Bytes(Page - 100, 100));
        Assert.Equal(data[100..], peer.Bytes[..(int)Page]);
        var read = new byte[data.Length];
        Assert.True(_dma.Port.TryRead(new Iova(0x11000 - 100), read));
        Assert.Equal(data, read);
        Assert.Equal(2, peer.Calls);
        var all = new byte[4 * Page];
        Assert.True(_dma.Port.TryRead(new Iova(0x10000), all));
        Assert.False(_dma.Port.TryWrite(new Iova(0x12000), [1]));
        Assert.Equal(Errno.EACCES, _dma.Port.LastFault!.Value.Fault.Errno);
        using var map = _dma.Port.Snapshot();
        Assert.Equal(2, map.Ranges.Length);
    }

    [Fact]
    public void Peer_may_unmap_itself_and_stop_logs_while_it_is_asked()
    {
        Assert.True(DirtyLog.TryCreate(Page, [], out var log, out _));
        Assert.True(_dma.Port.TryStartLog(log!, out _));
        var peer = new PeerMemory(0, (int)Page);
        Assert.True(_dma.Space.TryMap(Range(0, Page), peer, DmaAccess.ReadWrite, out _));
        Assert.True(_dma.Port.TryWrite(new Iova(8), [1, 2]));
        Assert.Equal([0], Read(log!));
        peer.During = () =>
        {
            Assert.Equal(Errno.None, _dma.Unmap(0, Page, out _));
            _dma.Port.StopLog();
        };
        Assert.True(_dma.Port.TryWrite(new Iova(8), [3, 4]));
        Assert.Empty(Read(log!));
        Assert.False(_dma.CanRead(8));
        Assert.Equal([3, 4], peer.Bytes[8..10]);
    }

    [Fact]
    public void Peers_refusal_is_the_fault()
    {
        var peer = new PeerMemory(0, (int)Page) { Answer = new Fault(Errno.ECONNRESET, "gone") };
        Assert.True(_dma.Space.TryMap(Range(0, Page), peer, DmaAccess.ReadWrite, out _));
        Assert.False(_dma.CanRead(4));
        Assert.Equal((new Iova(4), Errno.ECONNRESET), (_dma.Port.LastFault!.Value.Address, _dma.Port.LastFault.Value.Fault.Errno));
        Assert.False(_dma.CanWrite(5));
        Assert.Equal(2, _dma.Port.Faults);
    }

    [Fact]
    public void Places_of_peers_that_are_gone_are_used_again()
    {
        var first = new PeerMemory(0, (int)Page);
        var second = new PeerMemory(0, (int)Page);
        second.Bytes[0] = 2;
        for (var i = 0; i < 3; i++)
        {
            Assert.True(_dma.Space.TryMap(Range(0, Page), first, DmaAccess.Read, out _));
            Assert.True(_dma.Space.TryMap(Range(Page, Page), first, DmaAccess.Read, out _));
            Assert.Equal(Errno.None, _dma.Unmap(0, Page, out _));
            Assert.True(_dma.Space.TryMap(Range(0, Page), second, DmaAccess.Read, out _));
            var read = new byte[1];
            Assert.True(_dma.Port.TryRead(new Iova(0), read));
            Assert.Equal(2, read[0]);
            Assert.True(_dma.CanRead(Page, 0));
            Assert.Equal(Errno.None, _dma.Unmap(0, 2 * Page, out _));
        }
    }

    [Theory]
    [InlineData(2)]
    [InlineData(4)]
    [InlineData(8)]
    public void Aligned_word_is_written_and_read_as_one(int size)
    {
        Assert.Equal(Errno.None, _dma.Map(0, Page));
        using var stop = new CancellationTokenSource();
        // Each byte of a good word is the same.
        var writer = new Thread(() =>
        {
            Span<byte> word = stackalloc byte[8];
            for (byte i = 0; !stop.IsCancellationRequested; i++)
            {
                word.Fill(i);
                _dma.Port.TryWrite(new Iova(64), word[..size]);
            }
        });
        writer.IsBackground = true;
        writer.Start();
        var torn = 0;
        var changes = 0;
        byte last = 0;
        Span<byte> read = stackalloc byte[8];
        var start = Stopwatch.GetTimestamp();
        for (var i = 0; i < 500_000 || changes < 300; i++)
        {
            Assert.True(_dma.Port.TryRead(new Iova(64), read[..size]));
            if (read[..size].ContainsAnyExcept(read[0]))
                torn++;
            if (read[0] != last)
                changes++;
            last = read[0];
            Assert.True(Stopwatch.GetElapsedTime(start).TotalMilliseconds < Deadline.Milliseconds, "the writer does not come to write");
        }

        stop.Cancel();
        Assert.True(writer.Join(Deadline.Milliseconds));
        Assert.Equal(0, torn);
    }

    [Fact]
    public void Odd_sizes_and_places_are_copied_right()
    {
        Assert.Equal(Errno.None, _dma.Map(0, Page));
        var random = new Random(9);
        var model = new byte[Page];
        for (var i = 0; i < 3000; i++)
        {
            var length = random.Next(1, 20);
            var at = random.Next((int)Page - length);
            random.NextBytes(model.AsSpan(at, length));
            Assert.True(_dma.Port.TryWrite(new Iova((ulong)at), model.AsSpan(at, length)));
            var read = new byte[length];
            Assert.True(_dma.Port.TryRead(new Iova((ulong)at), read));
            Assert.Equal(model[at..(at + length)], read);
        }

        Assert.Equal(model, _dma.Bytes(0, (int)Page));
    }

    [Fact]
    public void Device_that_keeps_a_map_hears_each_change_and_finds_it_in_its_new_map()
    {
        var map = _dma.Port.Snapshot();
        var counts = new List<int>();
        _dma.Port.SetChangeCallback(_ =>
        {
            map.Dispose();
            map = _dma.Port.Snapshot();
            counts.Add(map.Ranges.Length);
        });
        var mappings = Kernel.Mappings;
        var memory = HostMemory.Allocate("virtbus-test", Page, out var file);
        file.Dispose();
        Assert.True(_dma.Space.TryMap(new Iova(0), Page, memory, 0, DmaAccess.Read, out _));
        memory.Dispose();
        Assert.Equal(Errno.None, _dma.Map(Page, Page));
        Assert.Equal(Errno.None, _dma.Unmap(0, Page, out _));
        // The memory is gone when the unmap returns, since the device let its old map go.
        Assert.Equal(mappings, Kernel.Mappings);
        Assert.Equal(Errno.None, _dma.Unmap(0, Page, out _));
        using var other = new IoAddressSpace();
        Assert.True(_dma.Group.TryAttach(_dma, _dma.Port, other, out _));
        Assert.True(_dma.Group.TryAttach(_dma, _dma.Port, other, out _));
        Assert.Equal(Errno.None, _dma.Map(0, Page));
        Assert.True(_dma.Group.TryAttach(_dma, _dma.Port, _dma.Space, out _));
        _dma.Group.ReleaseUser(_dma);
        Assert.Equal([1, 2, 1, 0, 2, 0], counts);
        _dma.Port.SetChangeCallback(null);
        map.Dispose();
    }

    [Fact]
    public void Fault_that_a_device_met_in_its_own_map_is_counted_and_reported()
    {
        var reported = new List<Errno>();
        using var watch = _dma.Group.Observe(fault => reported.Add(fault.Fault.Errno), null);
        _dma.Port.ReportFault(new Iova(5), DmaAccess.Write);
        _dma.Group.ReleaseUser(_dma);
        _dma.Port.ReportFault(new Iova(5), DmaAccess.Write);
        _dma.Port.IsBusMaster = false;
        _dma.Port.ReportFault(new Iova(5), DmaAccess.Write);
        Assert.Equal([Errno.EFAULT, Errno.ENODEV, Errno.EPERM], reported);
        Assert.Equal(3, _dma.Port.Faults);
    }

    private static int[] Read(DirtyLog log)
    {
        var bits = new ulong[1];
        Assert.True(log.TryReadAndClear(Range(0, 64 * Page), Page, bits, out _));
        return [.. Enumerable.Range(0, 64).Where(i => (bits[0] >> i & 1) != 0)];
    }
}
