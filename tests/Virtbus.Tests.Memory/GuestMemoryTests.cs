using Virtbus.Memory;
using Virtbus.Platform;

namespace Virtbus.Tests.Memory;

public class GuestMemoryTests
{
    private const ulong Page = 4096;

    private static GuestRegion Region(ulong start, ulong size, ulong user, ulong offset = 0) =>
        new(new GuestAddress(start), size, new UserAddress(user), offset);

    [Fact]
    public void Size_that_is_no_page_multiple_is_kept_exactly()
    {
        using var file = MemoryFile.Create("virtbus-test", 4 * Page);
        using var memory = new GuestMemory();
        Assert.True(memory.TryAdd(Region(0x7fb2890da000, 0x3b10, 0x7fb2890da000), file, out _));
        using var map = memory.Snapshot();
        var hint = 0;
        Assert.True(map.TryTranslate(new Iova(0x7fb2890da000 + 0x3b0f), 2, DmaAccess.Write, ref hint, out var run));
        Assert.Equal(1u, run.Length);
        Assert.False(map.TryTranslate(new Iova(0x7fb2890da000 + 0x3b10), 1, DmaAccess.Read, ref hint, out _));
    }

    [Theory]
    [InlineData(0x1000, 0x2000, 0x90000, "overlaps another one")]
    [InlineData(0x0, 0x10000000, 0x90000, "larger than its file")]
    [InlineData(0x100000, 0x0, 0x90000, "no size")]
    [InlineData(0xfffffffffffff000, 0x2000, 0x90000, "wraps")]
    [InlineData(0x100000, 0x2000, 0xfffffffffffff000, "wraps")]
    [InlineData(0x100000, 0x2000, 0x50fff, "user addresses overlap")]
    [InlineData(0x100000, 0xffffffffffffffff, 0x0, "wraps")]
    [InlineData(0x0, 0x8000000000000000, 0x90000, "overflow")]
    public void Region_that_makes_no_sense_is_refused(ulong start, ulong size, ulong user, string why)
    {
        using var file = MemoryFile.Create("virtbus-test", 4 * Page);
        using var memory = new GuestMemory();
        Assert.True(memory.TryAdd(Region(0x2000, 2 * Page, 0x50000), file, out _));
        var before = Kernel.Mappings;
        Assert.False(memory.TryAdd(Region(start, size, user), file, out var fault));
        Assert.Contains(why, fault.Message, StringComparison.Ordinal);
        Assert.Equal(before, Kernel.Mappings);
        Assert.Single(memory.Regions);
    }

    [Fact]
    public void Descriptor_that_is_no_memory_file_is_refused()
    {
        using var eventFd = new EventFd();
        using var memory = new GuestMemory();
        Assert.False(memory.TryAdd(Region(0, Page, 0), eventFd.Descriptor, out var fault));
        Assert.Equal(Errno.EBADF, fault.Errno);
    }

    [Fact]
    public void File_offset_need_not_be_a_page_multiple()
    {
        using var backing = HostMemory.Allocate("virtbus-test", 4 * Page, out var file);
        backing.Write(Page + 0x123, [42]);
        using var memory = new GuestMemory();
        Assert.True(memory.TryAdd(Region(0x1000, Page, 0x1000, Page + 0x123), file, out _));
        using var map = memory.Snapshot();
        var read = new byte[1];
        Assert.True(map.TryRead(new Iova(0x1000), read));
        Assert.Equal(42, read[0]);
        file.Dispose();
    }

    [Fact]
    public void Copy_goes_over_the_border_of_adjacent_regions()
    {
        using var first = MemoryFile.Create("virtbus-test", Page);
        using var second = MemoryFile.Create("virtbus-test", Page);
        using var memory = new GuestMemory();
        Assert.True(memory.TryAdd(Region(2 * Page, Page, 0x90000), second, out _));
        Assert.True(memory.TryAdd(Region(Page, Page, 0x70000), first, out _));
        using var map = memory.Snapshot();
        var data = Enumerable.Range(0, 100).Select(i => (byte)i).ToArray();
        Assert.True(map.TryWrite(new Iova((2 * Page) - 50), data));
        var read = new byte[100];
        Assert.True(map.TryRead(new Iova((2 * Page) - 50), read));
        Assert.Equal(data, read);
        Assert.False(map.TryRead(new Iova((3 * Page) - 50), read));
    }

    [Fact]
    public void Table_is_replaced_as_a_whole_or_not_at_all()
    {
        using var file = MemoryFile.Create("virtbus-test", 4 * Page);
        using var memory = new GuestMemory();
        Assert.True(memory.TryAdd(Region(0, Page, 0), file, out _));
        Assert.False(memory.TryReplace([Region(0x10000, Page, 0x10000), Region(0x10000, Page, 0x20000)], [file, file], out _));
        Assert.Equal(new GuestAddress(0), Assert.Single(memory.Regions).Start);
        Assert.True(memory.TryReplace([Region(0x10000, Page, 0x10000)], [file], out _));
        Assert.True(memory.TryToGuest(new UserAddress(0x10fff), out var guest));
        Assert.Equal(new GuestAddress(0x10fff), guest);
        Assert.False(memory.TryToGuest(new UserAddress(0x11000), out _));
    }

    [Fact]
    public void Memory_stays_mapped_while_a_map_of_it_is_held()
    {
        using var file = MemoryFile.Create("virtbus-test", Page);
        var before = Kernel.Mappings;
        var memory = new GuestMemory();
        Assert.True(memory.TryAdd(Region(0, Page, 0), file, out _));
        var map = memory.Snapshot();
        Assert.True(memory.TryRemove(Region(0, Page, 0), out _));
        memory.Dispose();
        Assert.Equal(before + 1, Kernel.Mappings);
        Assert.True(map.TryWrite(new Iova(0), [1]));
        map.Dispose();
        Assert.Equal(before, Kernel.Mappings);
    }
}
