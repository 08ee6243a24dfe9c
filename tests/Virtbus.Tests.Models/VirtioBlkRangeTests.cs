using System.Buffers.Binary;
using Virtbus.Block;
using Virtbus.Models.VirtioBlk;
using Virtbus.Testing;
using Virtbus.Virtio;
using Virtbus.Virtio.Rings;
using static Virtbus.Models.VirtioBlk.VirtioBlkConfig;

namespace Virtbus.Tests.Models;

/// <summary>Discards and zeros: what is offered, and ranges as a driver may and may not say them (VIRTIO 1.2, 5.2.6).</summary>
public sealed class VirtioBlkRangeTests : IDisposable
{
    private const int Sectors = 4096;
    private readonly DirectoryInfo _folder = Directory.CreateTempSubdirectory("virtbus");

    public void Dispose() => _folder.Delete(recursive: true);

    [Fact]
    public void Both_are_offered_with_their_limits_where_the_back_end_has_them()
    {
        using var memory = new MemoryBackend(Sectors * 512);
        using var disk = new VirtioBlkDevice("test", memory, "serial");
        Assert.True(disk.DeviceFeatures.Has(VIRTIO_BLK_F_DISCARD) && disk.DeviceFeatures.Has(VIRTIO_BLK_F_WRITE_ZEROES));
        // max_discard_sectors, max_discard_seg, discard_sector_alignment; max_write_zeroes_sectors, max_write_zeroes_seg, may_unmap.
        Assert.Equal([Sectors, 1, (uint)(memory.Info.DiscardAlignment / 512), Sectors, 1, 1], Limits(disk));

        using var zeros = new NullBackend(1L << 40);
        using var empty = new VirtioBlkDevice("test", zeros, "serial");
        Assert.True(empty.DeviceFeatures.Has(VIRTIO_BLK_F_DISCARD) && !empty.DeviceFeatures.Has(VIRTIO_BLK_F_WRITE_ZEROES));
        Assert.Equal([MaxRangeSectors, 1, 1, 0, 0, 0], Limits(empty));

        using var file = FileBackend.Open(FileOf(Sectors), readOnly: true, raw: true);
        using var fixedDisk = new VirtioBlkDevice("test", file, "serial");
        Assert.False(fixedDisk.DeviceFeatures.Has(VIRTIO_BLK_F_DISCARD) || fixedDisk.DeviceFeatures.Has(VIRTIO_BLK_F_WRITE_ZEROES));
        Assert.Equal([0, 0, 0, 0, 0, 0], Limits(fixedDisk));
        using var user = new VirtioBlkUser(fixedDisk);
        Assert.Equal(VIRTIO_BLK_S_IOERR, Ask(user, VIRTIO_BLK_T_DISCARD, 0, 8, 0));
    }

    [Theory]
    [InlineData(VIRTIO_BLK_T_DISCARD, 0u)]
    [InlineData(VIRTIO_BLK_T_WRITE_ZEROES, 0u)]
    [InlineData(VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP)]
    public void Range_of_a_file_is_zeros_and_nothing_beside_it(uint type, uint flags)
    {
        var path = FileOf(Sectors);
        using (var file = FileBackend.Open(path, raw: true))
        using (var disk = new VirtioBlkDevice("test", file, "serial"))
        using (var user = new VirtioBlkUser(disk))
        {
            Assert.Equal(VIRTIO_BLK_S_OK, Ask(user, type, 1003, 2001, flags));
            Assert.Equal(VIRTIO_BLK_S_OK, Ask(user, type, Sectors - 1, 1, flags));
            Assert.Equal(VIRTIO_BLK_S_OK, Ask(user, type, 5, 0, flags));
        }

        var bytes = File.ReadAllBytes(path);
        for (var sector = 0; sector < Sectors; sector++)
        {
            var isZero = sector is >= 1003 and < 3004 or Sectors - 1;
            Assert.True(bytes.AsSpan(sector * 512, 512).IndexOfAnyExcept(isZero ? (byte)0 : Filling) < 0, $"sector {sector}");
        }
    }

    [Theory]
    [InlineData(VIRTIO_BLK_T_DISCARD, 0ul, 8u, 1u, VIRTIO_BLK_S_UNSUPP)]
    [InlineData(VIRTIO_BLK_T_DISCARD, 0ul, 8u, 2u, VIRTIO_BLK_S_UNSUPP)]
    [InlineData(VIRTIO_BLK_T_WRITE_ZEROES, 0ul, 8u, 2u, VIRTIO_BLK_S_UNSUPP)]
    [InlineData(VIRTIO_BLK_T_WRITE_ZEROES, 0ul, 8u, 0x80000001u, VIRTIO_BLK_S_UNSUPP)]
    [InlineData(VIRTIO_BLK_T_DISCARD, Sectors - 7ul, 8u, 0u, VIRTIO_BLK_S_IOERR)]
    [InlineData(VIRTIO_BLK_T_WRITE_ZEROES, Sectors + 1ul, 0u, 0u, VIRTIO_BLK_S_IOERR)]
    [InlineData(VIRTIO_BLK_T_WRITE_ZEROES, ulong.MaxValue, 8u, 0u, VIRTIO_BLK_S_IOERR)]
    [InlineData(VIRTIO_BLK_T_DISCARD, 0ul, uint.MaxValue, 0u, VIRTIO_BLK_S_IOERR)]
    public void Range_that_may_not_be_is_refused_and_nothing_changes(uint type, ulong sector, uint count, uint flags, byte status)
    {
        var path = FileOf(Sectors);
        using (var file = FileBackend.Open(path, raw: true))
        using (var disk = new VirtioBlkDevice("test", file, "serial"))
        using (var user = new VirtioBlkUser(disk))
        {
            Assert.Equal(status, Ask(user, type, sector, count, flags));
            // Not one range: none, half of one, two.
            foreach (var size in (int[])[0, 8, 32])
                Assert.Equal(VIRTIO_BLK_S_IOERR, Ask(user, type, new byte[size]));
        }

        Assert.True(File.ReadAllBytes(path).AsSpan().IndexOfAnyExcept(Filling) < 0);
    }

    [Fact]
    public void Request_for_more_than_the_limit_is_refused_where_the_disk_is_larger()
    {
        using var zeros = new NullBackend(1L << 40);
        using var disk = new VirtioBlkDevice("test", zeros, "serial");
        using var user = new VirtioBlkUser(disk);
        Assert.Equal(VIRTIO_BLK_S_OK, Ask(user, VIRTIO_BLK_T_DISCARD, 0, MaxRangeSectors, 0));
        Assert.Equal(VIRTIO_BLK_S_IOERR, Ask(user, VIRTIO_BLK_T_DISCARD, 0, MaxRangeSectors + 1, 0));
        Assert.Equal(VIRTIO_BLK_S_UNSUPP, Ask(user, VIRTIO_BLK_T_WRITE_ZEROES, 0, 8, 0));
    }

    [Fact]
    public void Ranges_are_of_whole_blocks()
    {
        using var memory = new MemoryBackend(Sectors * 512, blockSize: 4096);
        using var disk = new VirtioBlkDevice("test", memory, "serial");
        using var user = new VirtioBlkUser(disk);
        Assert.Equal(VIRTIO_BLK_S_OK, Ask(user, VIRTIO_BLK_T_WRITE_ZEROES, 8, 16, 0));
        Assert.Equal(VIRTIO_BLK_S_IOERR, Ask(user, VIRTIO_BLK_T_WRITE_ZEROES, 8, 15, 0));
        Assert.Equal(VIRTIO_BLK_S_IOERR, Ask(user, VIRTIO_BLK_T_WRITE_ZEROES, 7, 16, 0));
    }

    private const byte Filling = 0xA5;

    private string FileOf(int sectors)
    {
        var path = Path.Combine(_folder.FullName, "disk.img");
        var bytes = new byte[sectors * 512];
        Array.Fill(bytes, Filling);
        File.WriteAllBytes(path, bytes);
        return path;
    }

    private static uint[] Limits(VirtioBlkDevice disk)
    {
        var space = new byte[Size];
        Assert.True(disk.TryGetConfig(0, space, out _));
        return [.. ((int[])[36, 40, 44, 48, 52]).Select(at => BinaryPrimitives.ReadUInt32LittleEndian(space.AsSpan(at))), space[56]];
    }

    private static byte Ask(VirtioBlkUser user, uint type, ulong sector, uint count, uint flags)
    {
        var range = new byte[16];
        BinaryPrimitives.WriteUInt64LittleEndian(range, sector);
        BinaryPrimitives.WriteUInt32LittleEndian(range.AsSpan(8), count);
        BinaryPrimitives.WriteUInt32LittleEndian(range.AsSpan(12), flags);
        return Ask(user, type, range);
    }

    private static byte Ask(VirtioBlkUser user, uint type, byte[] ranges)
    {
        var driver = user.Driver;
        var header = new byte[16];
        BinaryPrimitives.WriteUInt32LittleEndian(header, type);
        var (at, data, status) = (driver.Take(16), driver.Take(Math.Max(ranges.Length, 1)), driver.Take(1));
        driver.Write(at, header);
        driver.Write(data, ranges);
        driver.Write(status, [0xFF]);
        DriverBuffer[] buffers = [new(at, 16, false), new(data, (uint)ranges.Length, false), new(status, 1, true)];
        Assert.Equal(1u, driver.Request(ranges.Length == 0 ? [buffers[0], buffers[2]] : buffers));
        var answer = new byte[1];
        driver.Read(status, answer);
        return answer[0];
    }
}
