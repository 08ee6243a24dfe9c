using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;
using static Virtbus.Tests.Memory.Dma.DmaFixture;

namespace Virtbus.Tests.Memory.Dma;

public sealed class IoAddressSpaceTests : IDisposable
{
    private const ulong End = 0; // 2^64, as sums of addresses say it.
    private readonly DmaFixture _dma = new();

    public void Dispose() => _dma.Dispose();

    [Theory]
    [InlineData(0x1000, 0, Errno.EINVAL)]
    [InlineData(0x1001, 0x1000, Errno.EINVAL)]
    [InlineData(0x1000, 0x1001, Errno.EINVAL)]
    [InlineData(0x800, 0x800, Errno.EINVAL)]
    [InlineData(0xfffffffffffff000, 0x2000, Errno.EINVAL)]
    [InlineData(0x1000, 0xfffffffffffff000, Errno.EINVAL)]
    [InlineData(0x1000, 0x41000, Errno.EINVAL)]
    [InlineData(0x10000, 0x1000, Errno.EEXIST)]
    [InlineData(0xf000, 0x2000, Errno.EEXIST)]
    [InlineData(0xf000, 0x4000, Errno.EEXIST)]
    [InlineData(0x11000, 0x1000, Errno.EEXIST)]
    [InlineData(0x11000, 0x2000, Errno.EEXIST)]
    [InlineData(0xf000, 0x1000, Errno.None)]
    [InlineData(0x12000, 0x1000, Errno.None)]
    [InlineData(0xfffffffffffff000, 0x1000, Errno.None)]
    [InlineData(0, 0x10000, Errno.None)]
    public void Map_is_checked_as_type1v2_checks_it(ulong start, ulong size, Errno expected)
    {
        Assert.Equal(Errno.None, _dma.Map(0x10000, 0x2000));
        Assert.Equal(expected, _dma.Map(start, size));
        Assert.Equal(expected == Errno.None ? 2 : 1, _dma.Space.Count);
        Assert.Equal(expected == Errno.None || start == 0x10000 || start == 0x11000, _dma.CanRead(start));
    }

    [Fact]
    public void Map_without_access_or_beyond_the_memorys_access_is_refused()
    {
        using var file = MemoryFile.Create("virtbus-test", Page);
        Assert.True(HostMemory.TryMap(file, 0, Page, DmaAccess.Read, out var readOnly, out _));
        Assert.Equal(Errno.EINVAL, _dma.Map(0, Page, access: DmaAccess.None));
        Assert.Equal(Errno.EINVAL, _dma.Map(0, Page, access: (DmaAccess)4));
        Assert.False(_dma.Space.TryMap(new Iova(0), Page, readOnly!, 0, DmaAccess.ReadWrite, out var fault));
        Assert.Equal(Errno.EACCES, fault.Errno);
        Assert.True(_dma.Space.TryMap(new Iova(0), Page, readOnly!, 0, DmaAccess.Read, out _));
        readOnly!.Dispose();
    }

    [Fact]
    public void Map_beyond_the_limit_is_refused_and_an_unmap_makes_room()
    {
        using var dma = new DmaFixture(new IoAddressSpaceOptions { MaxMaps = 3 });
        for (var i = 0ul; i < 3; i++)
            Assert.Equal(Errno.None, dma.Map(i * Page, Page));
        Assert.Equal(Errno.ENOSPC, dma.Map(3 * Page, Page));
        Assert.Equal(Errno.None, dma.Unmap(Page, Page, out _));
        Assert.Equal(Errno.None, dma.Map(3 * Page, Page));
    }

    [Fact]
    public void Map_outside_of_what_the_space_allows_is_refused()
    {
        using var dma = new DmaFixture(new IoAddressSpaceOptions { Lowest = new Iova(0x10000), Highest = new Iova(0x1ffff) });
        Assert.Equal(Errno.EINVAL, dma.Map(0xf000, Page));
        Assert.Equal(Errno.EINVAL, dma.Map(0x1f000, 2 * Page));
        Assert.Equal(Errno.None, dma.Map(0x10000, 16 * Page));
    }

    [Fact]
    public void Options_that_make_no_sense_throw()
    {
        Assert.Throws<ArgumentException>(() => new IoAddressSpace(new IoAddressSpaceOptions { Granule = 3 }));
        Assert.Throws<ArgumentException>(() => new IoAddressSpace(new IoAddressSpaceOptions { Granule = 0 }));
        Assert.Throws<ArgumentException>(() => new IoAddressSpace(new IoAddressSpaceOptions { MaxMaps = 0 }));
        Assert.Throws<ArgumentException>(() => new IoAddressSpace(new IoAddressSpaceOptions { Lowest = new Iova(2), Highest = new Iova(1) }));
    }

    [Fact]
    public void Unmap_removes_every_map_inside_and_none_is_no_error()
    {
        for (var i = 1ul; i <= 5; i++)
            Assert.Equal(Errno.None, _dma.Map(i * 0x100000, 2 * Page));
        Assert.Equal(Errno.None, _dma.Unmap(0x200000, 0x200000 + (2 * Page), out var unmapped));
        Assert.Equal(6 * Page, unmapped);
        Assert.Equal(2, _dma.Space.Count);
        Assert.False(_dma.CanRead(0x300000));
        Assert.True(_dma.CanRead(0x500000));
        Assert.Equal(Errno.None, _dma.Unmap(0x200000, 0x200000, out unmapped));
        Assert.Equal(0ul, unmapped);
    }

    [Theory]
    [InlineData(0x10000, 0x1000)]
    [InlineData(0x11000, 0x1000)]
    [InlineData(0x11000, 0x10000)]
    [InlineData(0x0, 0x11000)]
    [InlineData(0x10000, 0x21000)]
    [InlineData(0x11000, 0x1f000)]
    public void Unmap_that_would_split_a_map_changes_nothing(ulong start, ulong size)
    {
        Assert.Equal(Errno.None, _dma.Map(0x10000, 0x2000));
        Assert.Equal(Errno.None, _dma.Map(0x20000, 0x1000));
        Assert.Equal(Errno.None, _dma.Map(0x30000, 0x2000));
        Assert.Equal(Errno.EINVAL, _dma.Unmap(start, size, out var unmapped));
        Assert.Equal(0ul, unmapped);
        Assert.Equal(3, _dma.Space.Count);
    }

    [Theory]
    [InlineData(0, 0)]
    [InlineData(1, 0x1000)]
    [InlineData(0, 0xfff)]
    [InlineData(0xfffffffffffff000, 0x2000)]
    public void Unmap_of_a_range_that_makes_no_sense_is_refused(ulong start, ulong size) =>
        Assert.Equal(Errno.EINVAL, _dma.Unmap(start, size, out _));

    [Fact]
    public void Huge_unmaps_of_a_virtual_iommu_take_what_is_there()
    {
        Assert.Equal(Errno.None, _dma.Map(0xfedff000, Page));
        Assert.Equal(Errno.None, _dma.Map(0xfef00000, Page));
        Assert.Equal(Errno.None, _dma.Map(unchecked(End - Page), Page));
        Assert.Equal(Errno.None, _dma.Unmap(0, 0xfee00000, out var unmapped));
        Assert.Equal(Page, unmapped);
        Assert.Equal(Errno.None, _dma.Unmap(0xfef00000, unchecked(End - 0xfef00000), out unmapped));
        Assert.Equal(2 * Page, unmapped);
        Assert.Equal(0, _dma.Space.Count);
        Assert.Equal(Errno.None, _dma.Unmap(0x800000000000, unchecked(End - 0x800000000000), out unmapped));
        Assert.Equal(0ul, unmapped);
    }

    [Fact]
    public void Last_page_below_2_to_the_64_is_reached_and_an_access_does_not_wrap()
    {
        var last = unchecked(End - Page);
        Assert.Equal(Errno.None, _dma.Map(last, Page));
        Assert.Equal(Errno.None, _dma.Map(0, Page));
        Assert.True(_dma.CanRead(last, (int)Page));
        Assert.True(_dma.CanWrite(ulong.MaxValue));
        Assert.False(_dma.CanWrite(ulong.MaxValue, 2));
        Assert.Equal(new Iova(0), _dma.Port.LastFault!.Value.Address);
        Assert.False(_dma.CanRead(last, (int)Page + 1));
    }

    [Fact]
    public void Whole_address_space_is_mapped_by_two_ranges_and_unmapped_at_once()
    {
        var peer = new PeerMemory(0, 16);
        var half = 1UL << 63;
        Assert.True(_dma.Space.TryMap(Range(0, half), peer, DmaAccess.Read, out _));
        Assert.True(_dma.Space.TryMap(Range(half, half), peer, DmaAccess.Read, out _));
        Assert.True(_dma.CanRead(15));
        Assert.Equal(Errno.EEXIST, _dma.Map(half - Page, Page));
        Assert.True(_dma.Space.TryUnmapAll(out var unmapped, out _));
        Assert.Equal(ulong.MaxValue, unmapped);
        Assert.False(_dma.CanRead(15));
    }

    [Fact]
    public void Odd_ranges_share_a_page_when_the_granule_is_1()
    {
        using var dma = new DmaFixture(new IoAddressSpaceOptions { Granule = 1 });
        Assert.Equal(Errno.None, dma.Map(0x1003, 0x10, 0x100));
        Assert.Equal(Errno.None, dma.Map(0x1013, 0x2001, 0x200));
        Assert.Equal(Errno.None, dma.Map(0x3014, 1, 0x5000));
        dma.Memory.Write(0x10f, [1]);
        dma.Memory.Write(0x200, [2]);
        dma.Memory.Write(0x2200, [3]);
        dma.Memory.Write(0x5000, [4]);
        var read = new byte[2];
        Assert.True(dma.Port.TryRead(new Iova(0x1012), read));
        Assert.Equal([1, 2], read);
        Assert.True(dma.Port.TryRead(new Iova(0x3013), read));
        Assert.Equal([3, 4], read);
        Assert.False(dma.CanRead(0x1002));
        Assert.False(dma.CanRead(0x3015));
        Assert.Equal(Errno.EINVAL, dma.Unmap(0x1003, 0x11, out _));
        Assert.Equal(Errno.None, dma.Unmap(0x1003, 0x10, out var unmapped));
        Assert.Equal(0x10ul, unmapped);
    }

    [Fact]
    public void Copy_of_more_than_one_section_takes_goes_over_ranges_of_all_sizes()
    {
        var sizes = new ulong[] { 1, 3, 16, 17, 1, 8 };
        var at = 0x7000ul;
        var offset = MemorySize;
        foreach (var size in sizes)
        {
            offset -= size * Page;
            Assert.Equal(Errno.None, _dma.Map(at, size * Page, offset));
            at += size * Page;
        }

        var data = new byte[at - 0x7000];
        new Random(1).NextBytes(data);
        Assert.True(_dma.Port.TryWrite(new Iova(0x7000), data));
        Assert.Equal(data[..(int)Page], _dma.Bytes(MemorySize - Page, (int)Page));
        var read = new byte[data.Length];
        Assert.True(_dma.Port.TryRead(new Iova(0x7000), read));
        Assert.Equal(data, read);
    }

    [Fact]
    public void Snapshot_shows_a_change_and_is_cached_between_changes()
    {
        Assert.Equal(Errno.None, _dma.Map(0x5000, Page));
        using var first = _dma.Space.Snapshot();
        using (var second = _dma.Space.Snapshot())
            Assert.Same(first, second);
        Assert.Equal(Errno.None, _dma.Map(0x1000, 2 * Page));
        using var third = _dma.Space.Snapshot();
        Assert.Equal([0x1000ul, 0x5000], third.Ranges.ToArray().Select(range => range.Start.Value));
        Assert.Equal(1, first.Ranges.Length);
    }

    [Fact]
    public void Memory_is_unmapped_from_the_process_when_the_last_holder_lets_go()
    {
        var before = Kernel.Mappings;
        var memory = HostMemory.Allocate("virtbus-test", Page, out var file);
        file.Dispose();
        Assert.True(_dma.Space.TryMap(new Iova(0), Page, memory, 0, DmaAccess.Read, out _));
        memory.Dispose();
        Assert.Equal(before + 1, Kernel.Mappings);
        Assert.Equal(Errno.None, _dma.Unmap(0, Page, out _));
        Assert.Equal(before, Kernel.Mappings);
    }

    [Fact]
    public void Dispose_lets_attached_ports_fault_and_frees_the_memory()
    {
        var before = Kernel.Mappings;
        var memory = HostMemory.Allocate("virtbus-test", Page, out var file);
        file.Dispose();
        Assert.True(_dma.Space.TryMap(new Iova(0), Page, memory, 0, DmaAccess.Read, out _));
        memory.Dispose();
        var changes = 0;
        _dma.Port.SetChangeCallback(_ => changes++);
        _dma.Space.Dispose();
        Assert.Equal(1, changes);
        Assert.False(_dma.CanRead(0));
        Assert.Equal(before, Kernel.Mappings);
        using var map = _dma.Port.Snapshot();
        Assert.True(map.Ranges.IsEmpty);
    }

    [Fact]
    public void Look_up_read_and_write_allocate_nothing()
    {
        for (var i = 0ul; i < 64; i++)
            Assert.Equal(Errno.None, _dma.Map(i * 2 * Page, Page, i * Page));
        var buffer = new byte[64];
        Assert.True(Use(1000));
        var before = GC.GetAllocatedBytesForCurrentThread();
        Assert.True(Use(1000));
        Assert.Equal(before, GC.GetAllocatedBytesForCurrentThread());

        bool Use(int times)
        {
            var good = true;
            for (var i = 0; i < times; i++)
            {
                var at = new Iova((ulong)(i % 64) * 2 * Page);
                good &= _dma.Port.TryRead(at, buffer) && _dma.Port.TryWrite(at, buffer);
            }

            return good;
        }
    }
}
