using Microsoft.Extensions.Logging.Abstractions;
using Virtbus.Buses.Pci;
using Virtbus.Core;
using Virtbus.Memory.Dma;
using Virtbus.Pci;
using Virtbus.Platform;
using Virtbus.Transports.HostVfio;

namespace Virtbus.Tests.Vfio.HostVfio;

/// <summary>A function of the host behind VFIO on the bus: a driver finds registers, interrupts and DMA as with any other function.</summary>
public sealed class HostFunctionTests
{
    private static readonly TimeSpan Limit = TimeSpan.FromSeconds(30);

    [Fact]
    public async Task Registers_and_config_space_are_the_devices_own()
    {
        var (link, _, device) = await PlugAsync();
        Assert.Equal((0x1AF4, 0x10F5), (device.VendorId, device.DeviceId));
        Assert.Equal(new PciBar(PciBarKind.Memory32, 0x4000), device.GetRegion(0).Bar);
        Assert.Equal(new PciBar(PciBarKind.Io, 32), device.GetRegion(1).Bar);
        device.Enable();
        device.GetRegion(0).Write32(4, 0x12345678);
        var bytes = new byte[4];
        link.TryRead(0, 4, bytes);
        Assert.Equal(0x12345678u, BitConverter.ToUInt32(bytes));
        Assert.True(device.TryReset(out _));
        Assert.Equal(0u, device.GetRegion(0).Read32(4));
    }

    [Theory]
    [InlineData(PciInterruptKinds.MsiX, 2u, 8)]
    [InlineData(PciInterruptKinds.Msi, 1u, 4)]
    public async Task Signals_of_the_host_become_messages_of_their_vector(PciInterruptKinds kind, uint index, int signals)
    {
        var (link, _, device) = await PlugAsync();
        device.Enable();
        device.SetMaster(true);
        var vectors = device.AllocateVectors(4, 4, kind);
        using var came = new SemaphoreSlim(0);
        var last = -1;
        for (var i = 0; i < 4; i++)
        {
            var at = i;
            vectors[i].SetHandler(() =>
            {
                Volatile.Write(ref last, at);
                came.Release();
            });
        }
        Assert.Contains($"{index} ActionTrigger {signals}", link.Calls);
        for (var i = 3; i >= 0; i--)
        {
            link.Fire(index, i);
            Assert.True(await came.WaitAsync(Limit));
            Assert.Equal(i, Volatile.Read(ref last));
        }
        // A masked one waits, as on hardware.
        vectors[2].Mask();
        link.Fire(index, 2);
        link.Fire(index, 1);
        Assert.True(await came.WaitAsync(Limit));
        Assert.Equal(1, Volatile.Read(ref last));
        vectors[2].Unmask();
        Assert.True(await came.WaitAsync(Limit));
        Assert.Equal(2, Volatile.Read(ref last));
        Assert.Equal(2, vectors[2].Count);
        device.FreeVectors();
        Assert.Equal("0 ActionTrigger 1", link.Calls[^1]);
    }

    [Fact]
    public async Task Line_is_asked_about_again_after_each_access()
    {
        var (link, _, device) = await PlugAsync();
        device.Enable();
        var vector = device.AllocateVectors(1, 1, PciInterruptKinds.INTx)[0];
        using var quiet = new SemaphoreSlim(0);
        var region = device.GetRegion(0);
        var calls = 0;
        vector.SetHandler(() =>
        {
            // The first call only looks, so the line is up again; the second one quiets it.
            if (Interlocked.Increment(ref calls) == 1)
            {
                region.Read32(4);
                return;
            }
            region.Write32(8, 1);
            quiet.Release();
        });
        link.RaiseLine();
        Assert.True(await quiet.WaitAsync(Limit));
        Assert.False(link.IsLineUp);
        link.RaiseLine();
        Assert.True(await quiet.WaitAsync(Limit));
        Assert.True(calls >= 3);
    }

    [Fact]
    public async Task Memory_of_the_owner_is_mapped_for_the_device_and_taken_away_with_the_ownership()
    {
        var (link, world, device) = await PlugAsync();
        Assert.Empty(link.Maps);
        DmaBuffer? buffer = null;
        var driver = new Driver(world, d =>
        {
            Assert.True(d.IommuGroup.TryAllocate(8192, out buffer, out _));
            d.SetMaster(true);
        });
        await world.Fabric!.RegisterDriverAsync(driver);
        Assert.Equal([$"{buffer!.Address.Value:x}+2000 ReadWrite"], link.Maps);
        Assert.True(link.Write(buffer.Address.Value + 4096, 77));
        Assert.Equal(77, BitConverter.ToInt32(buffer.Span[4096..]));
        var address = buffer.Address.Value;
        buffer.Dispose();
        Assert.Empty(link.Maps);
        Assert.False(link.Write(address, 1));
        Assert.True(device.IommuGroup.TryAllocate(4096, out buffer, out _));
        Assert.Single(link.Maps);
        await world.Fabric!.UnbindAsync(driver, device.Name);
        Assert.Empty(link.Maps);
        await world.UnplugAsync(device);
        Assert.False(link.IsBusMaster);
    }

    [Fact]
    public async Task Function_that_the_host_wants_back_is_lost()
    {
        var (link, bus, device) = await PlugAsync();
        link.Fire(4, 0);
        var deadline = Environment.TickCount64 + (long)Limit.TotalMilliseconds;
        while (bus.Find(device.Address) is not null && Environment.TickCount64 < deadline)
            await Task.Yield();
        Assert.Null(bus.Find(device.Address));
        Assert.Equal(uint.MaxValue, device.ReadConfig32(0));
    }

    [Fact]
    public void Every_word_of_the_capabilities_reads_as_written_and_the_rest_is_the_devices()
    {
        using var link = new FakeLink();
        using var function = new VfioFunction("0000:03:00.0", link, NullLogger.Instance);
        var real = new byte[function.ConfigSize];
        link.TryRead(7, 0, real);
        var shown = new byte[function.ConfigSize];
        function.ReadConfig(0, shown);
        // Nothing is enabled, so nothing differs.
        Assert.Equal(real, shown);
        var msi = Find(real, 5);
        function.WriteConfig(msi + 4, [0x70, 0x01, 0xE0, 0xFE, 0, 0, 0, 0, 0x21, 0x43]);
        function.WriteConfig(msi + 2, [0x21]);
        function.ReadConfig(msi, shown.AsSpan(0, 14));
        Assert.Equal([0x70, 0x01, 0xE0, 0xFE, 0, 0, 0, 0, 0x21, 0x43], shown[4..14]);
        Assert.Equal(0x21, shown[2] & 0x71);
        // The device's own registers were not touched, and one write over their border reaches both.
        link.TryRead(7, (ulong)msi, shown.AsSpan(0, 14));
        Assert.All(shown[4..14], b => Assert.Equal(0, b));
        function.WriteConfig(msi - 1, [0xFF]);
        function.WriteConfig(0x3C, [0x0B]);
        function.ReadConfig(0x3C, shown.AsSpan(0, 1));
        Assert.Equal(0x0B, shown[0]);

        static int Find(byte[] config, byte id)
        {
            var at = (int)config[0x34];
            while (config[at] != id)
                at = config[at + 1];
            return at;
        }
    }

    private static async Task<(FakeLink Link, PciBus Bus, PciDevice Device)> PlugAsync()
    {
        var fabric = new Fabric();
        var bus = fabric.RegisterBus(new PciBus());
        var link = new FakeLink();
        var device = await bus.PlugAsync(new VfioFunction("0000:03:00.0", link, NullLogger.Instance));
        return (link, bus, device);
    }

    private sealed class Driver(PciBus bus, Action<PciDevice> probe) : PciDriver(bus, "card", new PciDeviceId(0x1AF4, 0x10F5))
    {
        protected override ValueTask ProbeAsync(PciDevice device, PciDeviceId id, CancellationToken cancellationToken)
        {
            probe(device);
            return default;
        }
    }
}
