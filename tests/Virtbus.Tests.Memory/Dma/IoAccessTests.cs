using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;
using static Virtbus.Tests.Memory.Dma.DmaFixture;

namespace Virtbus.Tests.Memory.Dma;

public sealed class IoAccessTests : IDisposable
{
    private readonly DmaFixture _dma = new();

    public void Dispose() => _dma.Dispose();

    [Fact]
    public void Access_reads_and_writes_next_to_an_attached_device()
    {
        var peer = new PeerMemory(0x12000, (int)Page);
        Assert.Equal(Errno.None, _dma.Map(0x10000, 2 * Page));
        Assert.True(_dma.Space.TryMap(Range(0x12000, Page), peer, DmaAccess.ReadWrite, out _));
        Assert.Equal(Errno.None, _dma.Map(0x13000, Page, 4 * Page, DmaAccess.Read));
        using var access = _dma.Space.OpenAccess("mdev", null);
        var data = new byte[5000];
        new Random(3).NextBytes(data);
        Assert.True(access.TryWrite(new Iova(0x11000), data, out _));
        var read = new byte[5000];
        Assert.True(_dma.Port.TryRead(new Iova(0x11000), read));
        Assert.Equal(data, read);
        Array.Clear(read);
        Assert.True(access.TryRead(new Iova(0x11000), read, out _));
        Assert.Equal(data, read);
        Assert.False(access.TryWrite(new Iova(0x13000), data, out var fault));
        Assert.Equal(Errno.EACCES, fault.Errno);
        Assert.False(access.TryRead(new Iova(0x13000), read, out fault));
        Assert.Equal(Errno.EFAULT, fault.Errno);
        peer.Answer = new Fault(Errno.EIO, "no");
        Assert.False(access.TryRead(new Iova(0x12000), read, out fault));
        Assert.False(access.TryWrite(new Iova(0x12000), read, out fault));
        Assert.Equal(Errno.EIO, fault.Errno);
        Assert.Equal(0, _dma.Port.Faults);
        access.Dispose();
        Assert.Throws<ObjectDisposedException>(() => access.TryRead(new Iova(0x11000), read, out _));
    }

    [Fact]
    public void Pin_has_the_runs_of_memory_behind_a_range()
    {
        Assert.Equal(Errno.None, _dma.Map(0x10000, Page, 3 * Page));
        Assert.Equal(Errno.None, _dma.Map(0x11000, 2 * Page, 8 * Page));
        using var access = _dma.Space.OpenAccess("mdev", null);
        Assert.True(access.TryPin(Range(0x10ffe, Page + 4), DmaAccess.ReadWrite, out var pin, out _));
        Assert.Equal([(nuint)2, (nuint)Page + 2], pin!.Runs.ToArray().Select(run => run.Length));
        pin.Runs[0].AsSpan()[1] = 7;
        pin.Runs[1].AsSpan()[0] = 8;
        Assert.Equal(7, _dma.Bytes((4 * Page) - 1, 1)[0]);
        Assert.Equal(8, _dma.Bytes(8 * Page, 1)[0]);
        pin.Dispose();
        Assert.Throws<ObjectDisposedException>(() => pin.Runs.Length);
    }

    [Theory]
    [InlineData(0x10000, 0, DmaAccess.Read, Errno.EINVAL)]
    [InlineData(0xfffffffffffffff0, 0x20, DmaAccess.Read, Errno.EINVAL)]
    [InlineData(0x10000, 1, DmaAccess.None, Errno.EINVAL)]
    [InlineData(0xffff, 2, DmaAccess.Read, Errno.EFAULT)]
    [InlineData(0x10000, 0x1001, DmaAccess.ReadWrite, Errno.EACCES)]
    [InlineData(0x10000, 0x2001, DmaAccess.Read, Errno.EOPNOTSUPP)]
    [InlineData(0x10000, 0x4000, DmaAccess.Read, Errno.EOPNOTSUPP)]
    [InlineData(0x13000, 1, DmaAccess.Read, Errno.EFAULT)]
    [InlineData(0x10000, 0x2000, DmaAccess.Read, Errno.None)]
    public void Pin_needs_all_of_the_range_mapped(ulong start, ulong size, DmaAccess access, Errno expected)
    {
        Assert.Equal(Errno.None, _dma.Map(0x10000, Page));
        Assert.Equal(Errno.None, _dma.Map(0x11000, Page, 0, DmaAccess.Read));
        Assert.True(_dma.Space.TryMap(Range(0x12000, Page), new PeerMemory(0x12000, (int)Page), DmaAccess.ReadWrite, out _));
        using var holder = _dma.Space.OpenAccess("mdev", null);
        Assert.Equal(expected == Errno.None, holder.TryPin(Range(start, size), access, out var pin, out var fault));
        Assert.Equal(expected, fault.Errno);
        Assert.Equal(expected == Errno.None, pin is not null);
        Assert.Equal(expected == Errno.None ? Errno.EBUSY : Errno.None, _dma.Unmap(0x10000, Page, out _));
    }

    [Fact]
    public void Unmap_asks_the_holder_of_a_pin_first_and_goes_on_when_it_lets_go()
    {
        Assert.Equal(Errno.None, _dma.Map(0x10000, Page));
        Assert.Equal(Errno.None, _dma.Map(0x20000, Page));
        var asked = new List<IovaRange>();
        IoPin? pin = null;
        using var access = _dma.Space.OpenAccess("mdev", range =>
        {
            // Nothing is unmapped yet.
            Assert.Equal(2, _dma.Space.Count);
            asked.Add(range);
            pin!.Dispose();
        });
        using var idle = _dma.Space.OpenAccess("idle", _ => Assert.Fail("it has no pin there"));
        Assert.True(idle.TryPin(Range(0x20000, 1), DmaAccess.Read, out _, out _));
        Assert.True(access.TryPin(Range(0x10800, 16), DmaAccess.Read, out pin, out _));
        Assert.Equal(Errno.EINVAL, _dma.Unmap(0x10000, 0x800, out _));
        Assert.Empty(asked);
        Assert.Equal(Errno.None, _dma.Unmap(0, 0x20000, out var unmapped));
        Assert.Equal(Page, unmapped);
        Assert.Equal(Range(0, 0x20000), Assert.Single(asked));
    }

    [Fact]
    public void Unmap_of_memory_that_stays_pinned_is_refused_as_a_whole()
    {
        Assert.Equal(Errno.None, _dma.Map(0x10000, Page));
        Assert.Equal(Errno.None, _dma.Map(0x11000, Page));
        var asked = 0;
        var access = _dma.Space.OpenAccess("mdev", _ => asked++);
        Assert.True(access.TryPin(Range(0x11000, 1), DmaAccess.Read, out var first, out _));
        Assert.True(access.TryPin(Range(0x11000, 1), DmaAccess.Read, out var second, out _));
        Assert.Equal(Errno.EBUSY, _dma.Unmap(0x10000, 2 * Page, out var unmapped));
        Assert.Equal((0ul, 1), (unmapped, asked));
        Assert.True(_dma.CanRead(0x10000));
        Assert.False(_dma.Space.TryUnmapAll(out _, out var fault));
        Assert.Equal(Errno.EBUSY, fault.Errno);
        Assert.Equal(Errno.None, _dma.Unmap(0x10000, Page, out _));
        first!.Dispose();
        first.Dispose();
        Assert.Equal(Errno.EBUSY, _dma.Unmap(0x11000, Page, out _));
        access.Dispose();
        Assert.Throws<ObjectDisposedException>(() => second!.Runs.Length);
        Assert.Equal(Errno.None, _dma.Unmap(0x11000, Page, out _));
    }

    [Fact]
    public void Space_that_goes_does_not_wait_for_pins_and_their_memory_stays()
    {
        var before = Kernel.Mappings;
        var memory = HostMemory.Allocate("virtbus-test", Page, out var file);
        file.Dispose();
        using var space = new IoAddressSpace();
        Assert.True(space.TryMap(new Iova(0), Page, memory, 0, DmaAccess.ReadWrite, out _));
        memory.Dispose();
        var asked = 0;
        using var access = space.OpenAccess("mdev", _ => asked++);
        Assert.True(access.TryPin(Range(0, Page), DmaAccess.Write, out var pin, out _));
        space.Dispose();
        Assert.Equal(1, asked);
        pin!.Runs[0].AsSpan()[5] = 1;
        Assert.Equal(before + 1, Kernel.Mappings);
        pin.Dispose();
        Assert.Equal(before, Kernel.Mappings);
        Assert.False(access.TryRead(new Iova(0), new byte[1], out var fault));
        Assert.Equal(Errno.EFAULT, fault.Errno);
    }

    [Fact]
    public void Pinned_for_writing_counts_as_written_until_it_is_unpinned_and_then_once_more()
    {
        Assert.True(DirtyLog.TryCreate(Page, [], out var log, out _));
        Assert.Equal(Errno.None, _dma.Map(0, 4 * Page));
        Assert.True(_dma.Space.TryStartLog(log!, out _));
        using var access = _dma.Space.OpenAccess("mdev", null);
        Assert.True(access.TryPin(Range(Page, Page + 1), DmaAccess.ReadWrite, out var pin, out _));
        Assert.True(access.TryPin(Range(0, 1), DmaAccess.Read, out _, out _));
        Assert.Equal(0b110ul, Read());
        Assert.Equal(0b110ul, Read());
        pin!.Dispose();
        Assert.Equal(0b110ul, Read());
        Assert.Equal(0ul, Read());

        ulong Read()
        {
            var bits = new ulong[1];
            Assert.True(_dma.Space.TryReadLog(Range(0, 4 * Page), Page, bits, out _));
            return bits[0];
        }
    }
}
