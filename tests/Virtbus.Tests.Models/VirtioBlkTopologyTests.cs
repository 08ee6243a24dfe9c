using System.Buffers.Binary;
using Virtbus.Block;
using Virtbus.Models.VirtioBlk;

namespace Virtbus.Tests.Models;

/// <summary>What a disk's driver is told of the units that its back end likes (VIRTIO 1.3, 5.2.4).</summary>
public sealed class VirtioBlkTopologyTests
{
    // Units of 512 and of 4096 bytes; the exponent, the first aligned block, and the least and the best size in bytes; and what the driver reads, in blocks.
    [Theory]
    [InlineData(512, 3, 1, 4096, 65536, "0301" + "0800" + "80000000")]
    [InlineData(4096, 0, 0, 16384, 0, "0000" + "0400" + "00000000")]
    [InlineData(512, 0, 7, 0, 0, "0007" + "0000" + "00000000")]
    [InlineData(512, 0, 0, 0, 512, "0000" + "0000" + "01000000")]
    [InlineData(512, 1, 0, 65536 * 512, 0x7FFF_FE00, "0100" + "FFFF" + "FFFF3F00")]
    public void Driver_reads_the_back_ends_geometry_in_blocks(int blockSize, int exponent, int alignment, int least, int best, string expected)
    {
        using var backend = new ShapedBackend(info => info with { PhysicalBlockExponent = exponent, AlignmentOffset = alignment, MinimumIoSize = least, OptimalIoSize = best }, blockSize);
        using var device = new VirtioBlkDevice("disk", backend, "serial");
        Assert.True(device.DeviceFeatures.Has(VirtioBlkConfig.VIRTIO_BLK_F_TOPOLOGY));
        Assert.Equal(expected, Topology(device));
        var size = new byte[4];
        Assert.True(device.TryGetConfig(20, size, out _));
        Assert.Equal(blockSize, BinaryPrimitives.ReadInt32LittleEndian(size));
    }

    [Theory]
    [InlineData(0, 0, 0)]
    [InlineData(256, 0, 4096)]
    [InlineData(3, 256, 4096)]
    [InlineData(-1, 0, 4096)]
    public void Back_end_that_has_no_opinion_or_one_that_does_not_fit_is_offered_without(int exponent, int alignment, int least)
    {
        using var backend = new ShapedBackend(info => info with { PhysicalBlockExponent = exponent, AlignmentOffset = alignment, MinimumIoSize = least }, 512);
        using var device = new VirtioBlkDevice("disk", backend, "serial");
        Assert.False(device.DeviceFeatures.Has(VirtioBlkConfig.VIRTIO_BLK_F_TOPOLOGY));
        Assert.Equal(new string('0', 16), Topology(device));
    }

    [Fact]
    public void File_says_the_unit_of_its_file_system()
    {
        var path = Path.GetTempFileName();
        try
        {
            File.WriteAllBytes(path, new byte[1 << 20]);
            using var backend = FileBackend.Open(path);
            using var device = new VirtioBlkDevice("disk", backend, "serial");
            var exponent = backend.Info.PhysicalBlockExponent;
            Assert.Equal(exponent > 0, device.DeviceFeatures.Has(VirtioBlkConfig.VIRTIO_BLK_F_TOPOLOGY));
            Assert.Equal($"{exponent:X2}" + new string('0', 14), Topology(device));
        }
        finally
        {
            File.Delete(path);
        }
    }

    private static string Topology(VirtioBlkDevice device)
    {
        var bytes = new byte[8];
        Assert.True(device.TryGetConfig(24, bytes, out _));
        return Convert.ToHexString(bytes);
    }

    private sealed class ShapedBackend(Func<BlockInfo, BlockInfo> shape, int blockSize) : IBlockBackend
    {
        private readonly MemoryBackend _inner = new(1 << 20, blockSize);

        public event EventHandler? InfoChanged
        {
            add { }
            remove { }
        }

        public string Description => _inner.Description;

        public BlockInfo Info => shape(_inner.Info);

        public bool MayBlock => _inner.MayBlock;

        public IBlockChannel OpenChannel(int depth, bool ownsThread = true) => _inner.OpenChannel(depth, ownsThread);

        public void Dispose() => _inner.Dispose();
    }
}
