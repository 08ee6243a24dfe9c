using Virtbus.Block;
using Virtbus.Platform;

namespace Virtbus.Tests.Block;

/// <summary>What a disk says of its holes.</summary>
public sealed class ExtentTests : IDisposable
{
    private readonly DirectoryInfo _folder = Directory.CreateTempSubdirectory("virtbus");

    public void Dispose() => _folder.Delete(recursive: true);

    [Theory]
    [InlineData("/dev/shm")]
    [InlineData(null)]
    public void Holes_of_a_file_are_found_between_its_data(string? place)
    {
        var path = Path.Combine(place ?? _folder.FullName, $"virtbus-{Guid.NewGuid()}");
        try
        {
            using (var file = File.OpenHandle(path, FileMode.Create, FileAccess.Write))
            {
                RandomAccess.Write(file, Enumerable.Repeat((byte)1, 65536).ToArray(), 65536);
                RandomAccess.SetLength(file, 1 << 20);
            }

            using var disk = FileBackend.Open(path);
            Assert.Equal(new BlockExtent(65536, IsHole: true), disk.FindExtent(0, 1 << 20));
            Assert.Equal(new BlockExtent(512, IsHole: true), disk.FindExtent(0, 512));
            Assert.Equal(new BlockExtent(65536, IsHole: false), disk.FindExtent(65536, 1 << 19));
            Assert.Equal(new BlockExtent(1024, IsHole: false), disk.FindExtent(66048, 1024));
            // Behind the last data.
            Assert.Equal(new BlockExtent((1 << 20) - 131072, IsHole: true), disk.FindExtent(131072, (1 << 20) - 131072));
        }
        finally
        {
            File.Delete(path);
        }
    }

    [Fact]
    public void Block_that_is_partly_a_hole_is_data()
    {
        var path = Path.Combine("/dev/shm", $"virtbus-{Guid.NewGuid()}");
        try
        {
            using (var file = File.OpenHandle(path, FileMode.Create, FileAccess.Write))
            {
                // Pages of 4 KiB, in blocks of 64 KiB: the second block has data in its middle.
                RandomAccess.Write(file, [1], 65536 + 8192);
                RandomAccess.SetLength(file, 4 * 65536);
            }

            using var disk = FileBackend.Open(path, blockSize: 65536);
            Assert.Equal(new BlockExtent(65536, IsHole: true), disk.FindExtent(0, 4 * 65536));
            Assert.Equal(new BlockExtent(65536, IsHole: false), disk.FindExtent(65536, 3 * 65536));
            Assert.Equal(new BlockExtent(2 * 65536, IsHole: true), disk.FindExtent(131072, 2 * 65536));
        }
        finally
        {
            File.Delete(path);
        }
    }

    [Fact]
    public void Disk_in_memory_has_a_hole_where_nothing_was_written_or_it_was_discarded()
    {
        using var disk = new MemoryBackend(1 << 20);
        Assert.Equal(new BlockExtent(1 << 20, IsHole: true), disk.FindExtent(0, 1 << 20));
        using var buffer = new AlignedBuffer(8192, 4096);
        using var channel = disk.OpenChannel(1);
        var request = new BlockRequest { Operation = BlockOperation.Write, Offset = 4096, Length = 8192 };
        var runs = GC.AllocateArray<IoVector>(1, pinned: true);
        runs[0] = buffer.Take(8192);
        request.SetRuns(runs);
        Assert.Equal(Errno.None, channel.Do(request));
        Assert.Equal(new BlockExtent(8192, IsHole: false), disk.FindExtent(4096, 1 << 19));
        Assert.Equal(Errno.None, channel.Do(new BlockRequest { Operation = BlockOperation.Discard, Offset = 4096, Length = 4096 }));
        Assert.Equal(new BlockExtent(8192, IsHole: true), disk.FindExtent(0, 1 << 19));
    }

    [Fact]
    public void Disk_that_does_not_know_says_that_all_may_be_data()
    {
        using IBlockBackend disk = new NullBackend(1 << 20);
        Assert.Equal(new BlockExtent(4096, IsHole: false), disk.FindExtent(512, 4096));
    }
}
