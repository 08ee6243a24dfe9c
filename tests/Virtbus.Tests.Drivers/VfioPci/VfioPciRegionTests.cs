using Virtbus.Buses.Pci;
using Virtbus.Drivers.VfioPci;
using Virtbus.Hardware.Probe;
using Virtbus.Hardware.VirtioPci;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Pci;
using Virtbus.Platform;
using Virtbus.Subsystems.Vfio;

namespace Virtbus.Tests.Drivers.VfioPci;

/// <summary>BARs and the ROM as regions, what may be mapped, and sized accesses for drivers (VS-11, VS-17, VP-08).</summary>
public sealed class VfioPciRegionTests
{
    [Fact]
    public async Task Regions_are_those_of_the_function()
    {
        var world = await VfioPciWorld.NewAsync();
        var device = await world.PlugAsync(new ScratchFunction());
        using var user = VfioPciWorld.Open(device);
        Assert.Equal(new VfioDeviceInfo(CanReset: true, IsPci: true, 9, 5), user.Handle.Info);
        const VfioRegionFlags both = VfioRegionFlags.Read | VfioRegionFlags.Write;
        (VfioRegionFlags, ulong)[] expected =
        [
            (both, 0x4000), (both, 32), (both | VfioRegionFlags.Mmap, 0x10000), (VfioRegionFlags.None, 0), (VfioRegionFlags.None, 0),
            (VfioRegionFlags.None, 0), (VfioRegionFlags.Read, 4096), (both, 4096), (VfioRegionFlags.None, 0),
        ];
        for (uint i = 0; i < 9; i++)
        {
            Assert.True(user.Handle.TryGetRegionInfo(i, out var info, out _));
            Assert.Equal(expected[i], (info!.Flags, info.Size));
        }
        Assert.False(user.Handle.TryGetRegionInfo(9, out _, out _));
        Assert.True(user.Handle.TryGetRegionInfo(2, out var memory, out _));
        var area = Assert.Single(memory!.Areas);
        Assert.Equal((0ul, 0x10000ul), (area.Offset, area.Size));
        Assert.Equal(0xAA55ul, user.Read(6, 0, 2));
        Assert.Equal(Errno.EINVAL, user.ErrorOfWrite(6, 0, 4));
    }

    [Fact]
    public async Task Memory_that_a_virtio_device_shares_is_mapped_and_the_next_user_gets_other_memory()
    {
        var world = await VfioPciWorld.NewAsync();
        var model = new SharingDevice((7, 0x2800));
        var device = await world.PlugAsync(new VirtioFunction(model));
        for (var round = 0; round < 3; round++)
        {
            using var user = VfioPciWorld.Open(device);
            Assert.True(user.Handle.TryGetRegionInfo(2, out var info, out _));
            Assert.Equal((VfioRegionFlags.Read | VfioRegionFlags.Write | VfioRegionFlags.Mmap, 0x4000ul), (info!.Flags, info.Size));
            var area = Assert.Single(info.Areas);
            Assert.True(HostMemory.TryMap(area.File, area.FileOffset, area.Size, DmaAccess.ReadWrite, out var mapped, out _));
            using (mapped)
            {
                // Nothing of the one before.
                Assert.Equal(0ul, user.Read(2, 0x1FF8, 8));
                mapped!.Write(0x1FF8, [1, 2, 3, 4, 5, 6, 7, 8]);
                Assert.Equal(0x0807060504030201ul, user.Read(2, 0x1FF8, 8));
            }
        }
    }

    [Theory]
    [InlineData(0ul, 0x8000ul, "0+3000 4000+4000")]
    [InlineData(0ul, 0x3000ul, "0+3000")]
    [InlineData(0x3000ul, 0x1000ul, "")]
    [InlineData(0x2000ul, 0x2000ul, "2000+1000")]
    [InlineData(0x4000ul, 0x1000ul, "4000+1000")]
    [InlineData(0x4000ul, 0x8000ul, "")]
    [InlineData(0x10ul, 0x1000ul, "")]
    [InlineData(0ul, 0x800ul, "")]
    public async Task Pages_of_the_interrupt_table_are_not_mapped(ulong offset, ulong size, string expected)
    {
        using var memory = HostMemory.Allocate("bar", 0x8000, out var file);
        var world = await VfioPciWorld.NewAsync();
        var device = await world.PlugAsync(new HeadlessFunction([new PciBarArea(offset, size, file, 0x100000)]));
        using var user = VfioPciWorld.Open(device);
        Assert.True(user.Handle.TryGetRegionInfo(0, out var info, out _));
        Assert.Equal(expected, string.Join(' ', info!.Areas.Select(a => $"{a.Offset:x}+{a.Size:x}")));
        Assert.All(info.Areas, a => Assert.Equal(0x100000 + a.Offset - offset, a.FileOffset));
        Assert.Equal(expected.Length > 0, info.Flags.HasFlag(VfioRegionFlags.Mmap));
    }

    [Fact]
    public async Task Accesses_reach_the_function_one_aligned_register_at_a_time()
    {
        var world = await VfioPciWorld.NewAsync();
        var function = new HeadlessFunction();
        var device = await world.PlugAsync(function);
        using var user = VfioPciWorld.Open(device);
        function.Accesses.Clear();
        var bytes = new byte[23];
        Assert.True(user.Handle.TryRead(0, 1, bytes, out _));
        Assert.Equal([(1, 1), (2, 2), (4, 4), (8, 8), (16, 8)], function.Accesses);
        Assert.Equal(Enumerable.Range(1, 23).Select(i => (byte)i), bytes);
        function.Accesses.Clear();
        Assert.True(user.Handle.TryWrite(0, 6, new byte[7], out _));
        Assert.Equal([(6, 2), (8, 4), (12, 1)], function.Accesses);
    }

    [Fact]
    public async Task Access_allocates_nothing_down_to_the_function()
    {
        var world = await VfioPciWorld.NewAsync();
        var device = await world.PlugAsync(new ScratchFunction());
        using var user = VfioPciWorld.Open(device);
        Assert.Equal(0, Allocations());

        long Allocations()
        {
            var bytes = new byte[8];
            var before = 0L;
            for (var i = 0; i < 200; i++)
            {
                if (i == 100)
                    before = GC.GetAllocatedBytesForCurrentThread();
                user.Handle.TryRead(0, ScratchRegister.Memory, bytes, out _);
                user.Handle.TryWrite(0, ScratchRegister.Memory, bytes, out _);
                user.Handle.TryRead(1, 0, bytes, out _);
                user.Handle.TryRead(PciUser.Config, 0, bytes, out _);
                user.Handle.TryWrite(PciUser.Config, 0x0C, bytes.AsSpan(0, 2), out _);
                user.Handle.TryWrite(PciUser.Config, 4, [7, 0], out _);
            }
            return GC.GetAllocatedBytesForCurrentThread() - before;
        }
    }

    [Fact]
    public async Task Interrupt_table_is_the_users_own_and_the_functions_stays()
    {
        var world = await VfioPciWorld.NewAsync();
        var device = await world.PlugAsync(new ScratchFunction());
        using var user = VfioPciWorld.Open(device);
        user.Write32(0, 0x2000, 0xFEE00000);
        user.Write(0, 0x207E, 2, 0x4711);
        Assert.Equal(0xFEE00000u, user.Read32(0, 0x2000));
        Assert.Equal(0x4711_0000u, user.Read32(0, 0x207C));
        Assert.Equal(0ul, user.Read(0, 0x2080, 8));
        Assert.Equal((0u, 0u), (device.GetRegion(0).Read32(0x2000), device.GetRegion(0).Read32(0x207C) >> 16));
        // The pending bits are no secret.
        Assert.Equal(0u, user.Read32(0, 0x3000));
    }

    [Fact]
    public async Task Drivers_read_and_write_registers_by_size_and_by_the_memory_rule()
    {
        var world = await VfioPciWorld.NewAsync(w => new OwnDriver(w.Bus));
        var device = await world.PlugAsync(new ScratchFunction(), "own");
        var box = device.GetDriverData<VfioPciFunction>()!;
        using var user = VfioPciWorld.Open(device);
        const ulong at = ScratchRegister.Memory;
        Assert.True(box.TryWriteRegister(0, at, true, 0x8877665544332211ul, out _));
        Assert.True(box.TryReadRegister<byte>(0, at + 1, true, out var b, out _));
        Assert.True(box.TryReadRegister<ushort>(0, at + 2, true, out var h, out _));
        Assert.True(box.TryReadRegister<uint>(0, at + 4, true, out var w, out _));
        Assert.True(box.TryReadRegister<ulong>(0, at, true, out var q, out _));
        Assert.Equal((0x22, 0x4433, 0x88776655u, 0x8877665544332211ul), (b, h, w, q));
        Assert.True(box.TryWriteRegister(0, at, true, (byte)1, out _) && box.TryWriteRegister(0, at + 2, true, (ushort)2, out _) && box.TryWriteRegister(0, at + 4, true, 3u, out _));
        Assert.Equal(0x0000000300022201ul, user.Read(0, at, 8));

        Assert.False(box.TryReadRegister<uint>(0, at + 2, true, out _, out var fault));
        Assert.Equal(Errno.EINVAL, fault.Errno);
        Assert.False(box.TryReadRegister<ulong>(0, 0x4000, true, out _, out fault));
        Assert.Equal(Errno.EINVAL, fault.Errno);
        Assert.False(box.TryReadRegister<uint>(3, 0, true, out _, out fault));
        Assert.Equal(Errno.EINVAL, fault.Errno);
        Assert.False(box.TryGetBar(3, out _, out fault));
        Assert.Equal(Errno.ENODEV, fault.Errno);
        Assert.True(box.TryGetBar(2, out var bar, out _));
        Assert.Same(device.GetRegion(2), bar);

        user.Config16(4, 0);
        Assert.False(box.TryReadRegister<uint>(0, at, true, out _, out fault));
        Assert.Equal(Errno.EIO, fault.Errno);
        Assert.False(box.TryWriteRegister(0, at, true, 1u, out fault));
        Assert.Equal(Errno.EIO, fault.Errno);
        // Without the rule it is the function that does not answer.
        Assert.False(box.TryReadRegister<uint>(0, at, false, out _, out fault));
        Assert.Equal(Errno.EIO, fault.Errno);
    }

    private sealed class OwnDriver(PciBus bus) : PciDriver(bus, "own")
    {
        public override bool IsDmaManagedByUser => true;

        protected override async ValueTask ProbeAsync(PciDevice device, PciDeviceId id, CancellationToken cancellationToken)
        {
            var box = new VfioPciFunction(device);
            await box.RegisterAsync();
            device.SetDriverData(box);
        }

        protected override ValueTask RemoveAsync(PciDevice device) => device.GetDriverData<VfioPciFunction>()!.UnregisterAsync();
    }
}
