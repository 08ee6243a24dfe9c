using Virtbus.Buses.Pci;
using Virtbus.Core;
using Virtbus.Hardware.VirtioPci;
using Virtbus.Memory.Dma;
using Virtbus.Models.VirtioRng;
using Virtbus.Platform;
using Virtbus.Virtio;

namespace Virtbus.Tests.Drivers.Virtio;

/// <summary>An entropy source through the whole way: function, virtio_pci, virtio bus, virtio_rng, hw_random. VA-01.</summary>
public sealed class VirtioRngTests
{
    private const string Misc = "/class/misc/hw_random/";

    [Fact]
    public async Task Bytes_of_the_device_come_in_order_and_each_once()
    {
        await using var rig = await VirtioRig.StartAsync();
        await rig.PlugAsync(new VirtioRngDevice("dice", new CountingFill().Fill));
        // Over several buffers of the driver.
        Assert.Equal(CountingFill.First(1000), rig.Read(1000));
    }

    [Theory]
    [InlineData(false, null, PciInterruptKinds.MsiX, 2)]
    [InlineData(false, 2, PciInterruptKinds.MsiX, 2)]
    [InlineData(false, 1, PciInterruptKinds.INTx, 1)]
    [InlineData(false, 0, PciInterruptKinds.INTx, 1)]
    [InlineData(true, null, PciInterruptKinds.MsiX, 2)]
    [InlineData(true, 0, PciInterruptKinds.INTx, 1)]
    public async Task Interrupts_are_the_best_that_the_function_has(bool isTransitional, int? vectors, PciInterruptKinds kind, int count)
    {
        await using var rig = await VirtioRig.StartAsync();
        var device = await rig.PlugAsync(
            new VirtioRngDevice("dice", new CountingFill().Fill), new VirtioFunctionOptions { IsTransitional = isTransitional, Vectors = vectors });
        Assert.False(rig.Only.IsLegacy);
        Assert.Equal(CountingFill.First(300), rig.Read(300));
        Assert.Equal((kind, count), (device.Vectors[0].Kind, device.Vectors.Count));
        Assert.True(device.Vectors[^1].Count > 0);
    }

    [Fact]
    public async Task Device_has_the_attributes_and_formats_of_Linux()
    {
        await using var rig = await VirtioRig.StartAsync();
        var pci = await rig.PlugAsync(new VirtioRngDevice("dice"));
        const string Place = "/bus/virtio/devices/virtio0/";
        Assert.Equal("0x0004\n", rig.Base.Read(Place + "device"));
        Assert.Equal("0x1af4\n", rig.Base.Read(Place + "vendor"));
        Assert.Equal("0x0000000f\n", rig.Base.Read(Place + "status"));
        Assert.Equal("virtio:d00000004v00001AF4\n", rig.Base.Read(Place + "modalias"));
        var features = rig.Base.Read(Place + "features").TrimEnd('\n');
        Assert.Equal(VirtioFeatures.Count, features.Length);
        Assert.Equal(rig.Only.Features, Enumerable.Range(0, features.Length).Where(bit => features[bit] == '1').Aggregate(VirtioFeatures.None, static (all, bit) => all.With(bit)));
        Assert.True(rig.Only.Has(VirtioFeatures.VIRTIO_F_VERSION_1));
        Assert.True(rig.Only.Has(VirtioFeatures.VIRTIO_F_EVENT_IDX));
        Assert.False(rig.Only.Has(VirtioFeatures.VIRTIO_F_INDIRECT_DESC));
        Assert.Equal(pci.DevPath + "/virtio0", rig.Only.DevPath);
        Assert.Contains("MODALIAS=virtio:d00000004v00001AF4", rig.Base.Read(Place + "uevent"), StringComparison.Ordinal);
    }

    [Fact]
    public async Task Class_tells_which_sources_there_are_and_lets_one_be_chosen()
    {
        await using var rig = await VirtioRig.StartAsync();
        await rig.PlugAsync(new VirtioRngDevice("a", new CountingFill().Fill));
        await rig.PlugAsync(new VirtioRngDevice("b", static bytes => bytes.Fill(0xBB)));
        Assert.Equal("virtio_rng.0 virtio_rng.1\n", rig.Base.Read(Misc + "rng_available"));
        Assert.Equal(("virtio_rng.0\n", "0\n"), (rig.Base.Read(Misc + "rng_current"), rig.Base.Read(Misc + "rng_selected")));
        Assert.Equal(Convert.ToHexStringLower(CountingFill.First(32)) + "\n", rig.Base.Read(Misc + "data"));
        await rig.Fabric.Tree.WriteAsync(Misc + "rng_current", "virtio_rng.1");
        Assert.Equal(("virtio_rng.1\n", "1\n"), (rig.Base.Read(Misc + "rng_current"), rig.Base.Read(Misc + "rng_selected")));
        Assert.Equal(string.Concat(Enumerable.Repeat("bb", 32)) + "\n", rig.Base.Read(Misc + "data"));
        await Expect.RefusedAsync(Errno.ENODEV, () => rig.Fabric.Tree.WriteAsync(Misc + "rng_current", "dice"));
        foreach (var device in rig.Base.Virtio.Devices)
            await rig.Fabric.UnbindAsync(device.Driver!, device.Name).In();
        Assert.Equal(("\n", "none\n", "0\n"), (rig.Base.Read(Misc + "rng_available") + "\n", rig.Base.Read(Misc + "rng_current"), rig.Base.Read(Misc + "rng_selected")));
        Expect.Refused(Errno.ENODEV, () => rig.Base.Read(Misc + "data"));
    }

    [Fact]
    public async Task Unbind_resets_the_device_and_leaves_nothing_mapped_and_a_bind_goes_on()
    {
        await using var rig = await VirtioRig.StartAsync();
        var function = new VirtioFunction(new VirtioRngDevice("dice", new CountingFill().Fill));
        var pci = await rig.PlugAsync(function);
        var virtio = rig.Only;
        Assert.Equal(CountingFill.First(64), rig.Read(64));
        using (var map = pci.Dma.Snapshot())
            Assert.Equal(2, map.Ranges.Length);
        await rig.Fabric.UnbindAsync(virtio.Driver!, virtio.Name).In();
        Assert.Equal((VirtioStatus.ACKNOWLEDGE, 0), (function.Device.Status, pci.Vectors.Count));
        Assert.Empty(virtio.Queues);
        using (var map = pci.Dma.Snapshot())
            Assert.Equal(0, map.Ranges.Length);
        Assert.Empty(rig.Random.Sources);
        Assert.True(rig.Base.Virtio.TryGetDriver(VirtioRig.Rng, out var driver));
        await rig.Fabric.BindAsync(driver, virtio.Name).In();
        Assert.Equal(64, rig.Read(64).Length);
        // The transport goes, and the device with it; it comes back under its name.
        await rig.Fabric.UnbindAsync(pci.Driver!, pci.Name).In();
        Assert.Empty(rig.Base.Virtio.Devices);
        Assert.Equal((0, DmaOwnerKind.None, false), (function.Device.Status, pci.IommuGroup.OwnerKind, pci.IsEnabled));
        Assert.True(rig.Base.Pci.TryGetDriver("virtio-pci", out var transport));
        await rig.Fabric.BindAsync(transport, pci.Name).In();
        Assert.Equal("virtio0", rig.Only.Name);
        Assert.Equal(64, rig.Read(64).Length);
        Assert.Equal(0, pci.Dma.Faults);
    }

    [Fact]
    public async Task Sleep_resets_the_device_and_it_goes_on_after_it()
    {
        await using var rig = await VirtioRig.StartAsync();
        var function = new VirtioFunction(new VirtioRngDevice("dice", new CountingFill().Fill));
        var pci = await rig.PlugAsync(function);
        var features = rig.Only.Features;
        Assert.Equal(CountingFill.First(10), rig.Read(10));
        await rig.Fabric.SuspendAsync().In();
        Assert.Equal((0, 0, false), (function.Device.Status, pci.Vectors.Count, pci.Dma.IsBusMaster));
        Assert.Equal(0, Assert.Single(rig.Random.Sources).Read(new byte[1], TimeSpan.Zero));
        await rig.Fabric.ResumeAsync().In();
        Assert.Equal(64, rig.Read(64).Length);
        Assert.Equal((features, 0xF), (rig.Only.Features, (int)rig.Only.Status));
    }

    [Fact]
    public async Task Reset_of_the_function_brings_the_device_back()
    {
        await using var rig = await VirtioRig.StartAsync();
        var pci = await rig.PlugAsync(new VirtioRngDevice("dice", new CountingFill().Fill));
        Assert.Equal(CountingFill.First(64), rig.Read(64));
        await rig.Fabric.Tree.WriteAsync(pci.DevPath + "/reset", "1").In();
        Assert.Equal("virtio0", rig.Only.Name);
        Assert.Equal(64, rig.Read(64).Length);
    }

    [Fact]
    public async Task Who_waits_for_bytes_of_a_device_that_is_pulled_gets_none()
    {
        await using var rig = await VirtioRig.StartAsync();
        var pci = await rig.PlugAsync(new VirtioRngDevice("dice", static bytes => bytes.Fill(1)));
        pci.SetMaster(false);
        var source = Assert.Single(rig.Random.Sources);
        // What is there; then the device has no way to memory.
        while (source.Read(new byte[64], TimeSpan.Zero) > 0)
            continue;
        var reader = Task.Run(() => source.Read(new byte[1], Deadline.Limit), TestContext.Current.CancellationToken);
        await rig.Base.Pci.SurpriseRemoveAsync(pci).In();
        Assert.Equal(0, await reader.In());
        Assert.Empty(rig.Base.Virtio.Devices);
        Assert.Empty(rig.Random.Sources);
    }

    [Fact]
    public async Task Readers_at_once_wait_until_there_are_bytes_for_each()
    {
        await using var rig = await VirtioRig.StartAsync();
        await rig.PlugAsync(new VirtioRngDevice("dice", static bytes => bytes.Fill(1)));
        var source = Assert.Single(rig.Random.Sources);
        var readers = Enumerable.Range(0, 4).Select(_ => Task.Run(
            () =>
            {
                // A whole buffer each time: what one has is nobody else's.
                var bytes = new byte[64];
                return Enumerable.Range(0, 500).Count(_ => source.Read(bytes, Deadline.Limit) == 0);
            },
            TestContext.Current.CancellationToken));
        var empty = await Task.WhenAll(readers).In();
        Assert.Equal([0, 0, 0, 0], empty);
    }

    [Fact]
    public async Task Device_that_gives_nothing_is_waited_for_as_long_as_the_reader_wants()
    {
        await using var rig = await VirtioRig.StartAsync();
        var pci = await rig.PlugAsync(new VirtioRngDevice("dice", static bytes => bytes.Fill(1)));
        var source = Assert.Single(rig.Random.Sources);
        // The buffer is back, with some left in it: of one that is out the interrupt would be lost that comes while the function may not send it.
        Assert.Equal(1, source.Read(new byte[1], Timeout.InfiniteTimeSpan));
        pci.SetMaster(false);
        while (source.Read(new byte[64], TimeSpan.Zero) > 0)
            continue;
        Assert.Equal(0, source.Read(new byte[64], TimeSpan.FromMilliseconds(1)));
        var reader = Task.Factory.StartNew(
            () => source.Read(new byte[64], Timeout.InfiniteTimeSpan), TestContext.Current.CancellationToken, TaskCreationOptions.LongRunning, TaskScheduler.Default);
        pci.SetMaster(true);
        Assert.Equal(64, await reader.In());
    }
}
