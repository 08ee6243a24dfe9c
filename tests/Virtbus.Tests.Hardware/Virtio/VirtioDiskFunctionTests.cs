using System.Buffers.Binary;
using Virtbus.Block;
using Virtbus.Memory;
using Virtbus.Models.VirtioBlk;
using Virtbus.Virtio;
using Virtbus.Virtio.Rings;

namespace Virtbus.Tests.Hardware.Virtio;

/// <summary>A virtio disk on PCI that takes no writes, one that grows, and what its driver reads of its units.</summary>
public sealed class VirtioDiskFunctionTests
{
    private const ulong At = 0x18000;
    private const byte Ok = VirtioBlkConfig.VIRTIO_BLK_S_OK;
    private const byte IoError = VirtioBlkConfig.VIRTIO_BLK_S_IOERR;

    [Fact]
    public void Disk_that_takes_no_writes_says_so_and_refuses_them()
    {
        using var medium = new MemoryBackend(1 << 20, readOnly: true);
        using var card = new VirtioCard(new VirtioBlkDevice("disk", medium, "serial"));
        card.Start();
        Assert.True(card.Features.Has(VirtioBlkConfig.VIRTIO_BLK_F_RO));
        Assert.False(card.Features.Has(VirtioBlkConfig.VIRTIO_BLK_F_DISCARD) || card.Features.Has(VirtioBlkConfig.VIRTIO_BLK_F_WRITE_ZEROES));
        Assert.Equal(IoError, Do(card, VirtioBlkConfig.VIRTIO_BLK_T_OUT, 3));
        Assert.Equal(Ok, VirtioFunctionTests.ReadSector(card, 0, 3, out var bytes));
        Assert.False(bytes.AsSpan().ContainsAnyExcept((byte)0));
    }

    [Fact]
    public void Disk_that_takes_writes_does_not_say_otherwise()
    {
        using var card = VirtioFunctionTests.Disk(out var medium);
        card.Start();
        Assert.False(card.Features.Has(VirtioBlkConfig.VIRTIO_BLK_F_RO));
        Assert.Equal(Ok, Do(card, VirtioBlkConfig.VIRTIO_BLK_T_OUT, 3));
        medium.Dispose();
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Disk_that_grows_tells_its_driver_which_finds_the_new_size_and_uses_it(bool hasMessages)
    {
        using var medium = new NullBackend(1 << 20);
        using var card = new VirtioCard(new VirtioBlkDevice("disk", medium, "serial"));
        card.Start();
        if (hasMessages)
        {
            card.EnableMsix(2);
            card.Registers.WriteUInt16(VirtioCommonConfig.config_msix_vector, 1);
        }

        Assert.Equal(2048UL, Capacity(card));
        Assert.Equal(IoError, Do(card, VirtioBlkConfig.VIRTIO_BLK_T_OUT, 2048));
        card.Registers.TakeInterrupts();
        card.Slot.Messages.Clear();
        var generation = card.Driver.ConfigGeneration;
        medium.Resize(2 << 20);
        Assert.Equal(2, card.Registers.TakeInterrupts() & 2);
        Assert.Equal(hasMessages, card.Slot.Messages.Contains((0xFEE00000u, 0xA1u)));
        Assert.NotEqual(generation, card.Driver.ConfigGeneration);
        Assert.Equal(4096UL, Capacity(card));
        Assert.Equal(Ok, Do(card, VirtioBlkConfig.VIRTIO_BLK_T_OUT, 2048));
    }

    /// <summary>Firmware reads a sector and asks for no cache mode; the system after it asks, and has the one that is in force.</summary>
    [Fact]
    public void System_behind_a_firmware_that_asked_for_no_cache_mode_has_the_cache()
    {
        using var card = VirtioFunctionTests.Disk(out var medium);
        card.Start(without: VirtioFeatures.Of(VirtioBlkConfig.VIRTIO_BLK_F_FLUSH, VirtioBlkConfig.VIRTIO_BLK_F_CONFIG_WCE));
        Assert.Equal(Ok, VirtioFunctionTests.ReadSector(card, 0, 3, out _));
        Assert.Equal(0, CacheMode(card));
        Deadline.Until(() => card.Driver.TryReset(out _), "the end of the reset");
        Assert.Equal(1, CacheMode(card));
        medium.Dispose();
    }

    private static byte CacheMode(VirtioCard card) => card.Bar(4, 0x2000 + 32, 1)[0];

    private static ulong Capacity(VirtioCard card) => BinaryPrimitives.ReadUInt64LittleEndian(card.Bar(4, 0x2000, 8));

    // A request with one sector of data for the device.
    private static byte Do(VirtioCard card, uint type, ulong sector)
    {
        Span<byte> header = stackalloc byte[16];
        header.Clear();
        BinaryPrimitives.WriteUInt32LittleEndian(header, type);
        BinaryPrimitives.WriteUInt64LittleEndian(header[8..], sector);
        card.Slot.Memory.Write(At, header);
        card.Slot.Memory.Write(At + 0x800, [0xFF]);
        card.Offer(0,
            new DriverBuffer(new Iova(FunctionSlot.MemoryAddress + At), 16, false),
            new DriverBuffer(new Iova(FunctionSlot.MemoryAddress + At + 0x200), 512, false),
            new DriverBuffer(new Iova(FunctionSlot.MemoryAddress + At + 0x800), 1, true));
        card.Await(0);
        Span<byte> status = stackalloc byte[1];
        card.Slot.Memory.Read(At + 0x800, status);
        return status[0];
    }
}
