using Virtbus.Buses.Pci;
using Virtbus.Pci;

namespace Virtbus.Tests.Buses.Pci;

/// <summary>A bug in the model of a function: the function is in error until it is reset, it is told and counted, and nothing else notices.</summary>
public sealed class FunctionFaultTests
{
    [Fact]
    public async Task Bug_at_the_third_write_puts_the_function_in_error_until_it_is_reset()
    {
        var world = await PciWorld.NewAsync();
        var card = new BuggyCard();
        var device = await world.Bus.PlugAsync(card);
        var (_, other) = await world.PlugAsync();
        foreach (var one in new[] { device, other })
        {
            one.Enable();
            one.SetMaster(true);
        }
        var region = device.GetRegion(0);
        var comes = 0;
        var vector = device.AllocateVectors(1, 1)[0];
        vector.SetHandler(() => comes++);
        Assert.Equal(0, world.Bus.Faults.Count);
        Assert.Throws<Virtbus.Platform.VirtbusException>(() => world.Read(device.DevPath + "/faults"));
        for (var round = 1; round <= 5; round++)
        {
            region.Write32(0x10, 7);
            region.Write32(0x10, 8);
            Assert.Equal(8u, region.Read32(0x10));
            card.Raise();
            Assert.Equal(round, comes);
            region.Write32(0x10, 9);
            // In error: all ones, no writes, no DMA, no interrupts; config space is there, for the reset.
            Assert.Equal(uint.MaxValue, region.Read32(0x10));
            region.Write32(0x10, 10);
            Assert.Equal(3, card.Writes);
            Assert.False(card.HasDma);
            card.Raise();
            Assert.Equal(round, comes);
            Assert.Equal(0x5642, device.VendorId);
            Assert.Equal($"{round}\n", world.Read(device.DevPath + "/faults"));
            Assert.Equal((round, 0), (world.Bus.Faults.Count, other.FaultCount));
            other.GetRegion(0).Write32(0, 1);
            Assert.Equal(1u, other.GetRegion(0).Read32(0));
            await world.WriteAsync(device, "reset", "1");
            Assert.True(card.HasDma);
            Assert.Equal(0u, region.Read32(0x10));
        }
        card.Raise();
        Assert.Equal(6, comes);
        // Told three times in a minute, with what was at work; counted always.
        Assert.Equal(3, world.Lines.Lines.Count(l => l.Contains($"{device.Name}: a bug of its model at write to BAR 0 at 0x10", StringComparison.Ordinal)));
    }

    [Fact]
    public async Task Bug_in_a_read_reads_as_all_ones()
    {
        var world = await PciWorld.NewAsync();
        var device = await world.Bus.PlugAsync(new BuggyCard());
        device.Enable();
        Assert.Equal(uint.MaxValue, device.GetRegion(0).Read32(BuggyCard.Bug));
        Assert.Equal(1, device.FaultCount);
    }

    private sealed class BuggyCard() : PciFunction(
        ConfigSpaceBuilder.Function(0x5642, 0xB06).Class(0xFF0000, 1).MemoryBar64(0, 0x4000).Msix(2, 0, 0x2000, 0, 0x3000).Express(new PciExpressOptions()).Build())
    {
        public const ulong Bug = 0x20;
        private uint _value;

        public int Writes { get; private set; }

        public bool HasDma
        {
            get
            {
                using var use = UsePort();
                return use.Dma is not null;
            }
        }

        public void Raise() => RaiseMsix(0);

        protected override void ReadRegister(int bar, ulong offset, Span<byte> destination)
        {
            if (offset == Bug)
                throw new InvalidOperationException("as asked");
            destination.Clear();
            BitConverter.TryWriteBytes(destination, _value);
        }

        protected override void WriteRegister(int bar, ulong offset, ReadOnlySpan<byte> source)
        {
            if (++Writes == 3)
                throw new InvalidOperationException("as asked");
            _value = BitConverter.ToUInt32(source);
        }

        protected override void OnReset(PciResetKind kind)
        {
            Writes = 0;
            _value = 0;
        }
    }
}
