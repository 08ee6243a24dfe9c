using System.Buffers.Binary;
using Virtbus.Buses.Pci;
using Virtbus.Hardware.VirtioPci;
using Virtbus.Models.VirtioRng;
using Virtbus.Pci;
using Virtbus.Platform;
using Virtbus.Provisioning;
using Virtbus.Virtio;
using static Virtbus.Tests.Drivers.Virtio.SpoiledFunction;

namespace Virtbus.Tests.Drivers.Virtio;

/// <summary>The transport driver: which functions it takes, and what it makes of their registers. VA-01.</summary>
public sealed class VirtioPciTests
{
    private const int Registers = 4;
    private const int BarField = 4;
    private const int OffsetField = 8;
    private const int LengthField = 12;
    private const int MultiplierField = 16;

    [Theory]
    [InlineData(null, PciInterruptKinds.MsiX)]
    [InlineData(0, PciInterruptKinds.INTx)]
    public async Task Transitional_function_without_modern_registers_is_driven_by_its_ports(int? vectors, PciInterruptKinds kind)
    {
        await using var rig = await VirtioRig.StartAsync();
        var inner = new VirtioFunction(
            new VirtioRngDevice("dice", new CountingFill().Fill), new VirtioFunctionOptions { IsTransitional = true, Vectors = vectors });
        var device = await rig.PlugAsync(WithoutCapabilities(inner));
        Assert.True(rig.Only.IsLegacy);
        Assert.Equal(CountingFill.First(300), rig.Read(300));
        Assert.Equal((4u, kind, false), (rig.Only.VirtioType, device.Vectors[0].Kind, rig.Only.Has(VirtioFeatures.VIRTIO_F_VERSION_1)));
        Assert.Equal("0x00000007\n", rig.Base.Read(rig.Only.DevPath + "/status"));
        // The ring has the size that the device says.
        Assert.Equal(64, rig.Only.Queues[0].Size);
        await rig.Fabric.UnbindAsync(rig.Only.Driver!, rig.Only.Name).In();
        Assert.Equal(0, inner.Device.Status & ~VirtioStatus.ACKNOWLEDGE);
        Assert.True(rig.Base.Virtio.TryGetDriver(VirtioRig.Rng, out var driver));
        await rig.Fabric.BindAsync(driver, rig.Only.Name).In();
        Assert.Equal(64, rig.Read(64).Length);
        Assert.Equal(0, device.Dma.Faults);
    }

    [Fact]
    public async Task Function_of_the_vendor_that_is_no_virtio_device_is_left_alone()
    {
        await using var rig = await VirtioRig.StartAsync();
        var device = await rig.PlugAsync(WithConfig(static (offset, bytes) => Put(offset, bytes, PciHeader.PCI_DEVICE_ID, 0x1080, 2)));
        Assert.Null(device.Driver);
    }

    [Fact]
    public async Task Modern_function_without_registers_is_refused_in_a_sentence()
    {
        await using var rig = await VirtioRig.StartAsync();
        var device = await rig.PlugAsync(WithoutCapabilities(new VirtioFunction(new VirtioRngDevice("dice"))));
        Assert.Null(device.Driver);
        var error = await RefusedAsync(rig, device, Errno.ENODEV);
        Assert.Contains("has no virtio registers: no common configuration", error, StringComparison.Ordinal);
    }

    // The first capability of a kind is one that makes no sense: the one behind it counts.
    [Theory]
    [InlineData(BarField, 6)]
    [InlineData(BarField, 255)]
    [InlineData(BarField, 3)]
    [InlineData(OffsetField, 2)]
    [InlineData(OffsetField, 0x4000)]
    [InlineData(OffsetField, 0xFFFFFFFC)]
    [InlineData(LengthField, 55)]
    [InlineData(LengthField, 0)]
    [InlineData(LengthField, 0xFFFFFFFF)]
    public async Task Capability_that_makes_no_sense_is_passed_over(int field, uint value)
    {
        await using var rig = await VirtioRig.StartAsync();
        var device = await rig.PlugAsync(WithCapability(VirtioPciCapability.VIRTIO_PCI_CAP_COMMON_CFG, field, value));
        Assert.Contains("no common configuration", await RefusedAsync(rig, device, Errno.ENODEV), StringComparison.Ordinal);
    }

    [Fact]
    public async Task Second_capability_of_a_kind_counts_where_the_first_makes_no_sense()
    {
        await using var rig = await VirtioRig.StartAsync();
        var inner = new VirtioFunction(new VirtioRngDevice("dice", new CountingFill().Fill));
        // The window's capability is behind the others and is not looked for: it becomes the second ISR.
        var (isr, window) = (Find(inner, VirtioPciCapability.VIRTIO_PCI_CAP_ISR_CFG), Find(inner, VirtioPciCapability.VIRTIO_PCI_CAP_PCI_CFG));
        var good = new byte[16];
        inner.ReadConfig(isr, good);
        var device = await rig.PlugAsync(new SpoiledFunction(inner)
        {
            Config = (offset, bytes) =>
            {
                Put(offset, bytes, isr + BarField, 7, 1);
                for (var i = 3; i < good.Length; i++)
                    Put(offset, bytes, window + i, good[i], 1);
            },
        });
        Assert.Equal("virtio-pci", device.Driver?.Name);
        Assert.Equal(CountingFill.First(100), rig.Read(100));
    }

    [Theory]
    [InlineData(56)]
    [InlineData(57)]
    public async Task Feature_whose_field_lies_beyond_the_common_configuration_is_refused(uint length)
    {
        await using var rig = await VirtioRig.StartAsync();
        var device = await rig.PlugAsync(WithCapability(VirtioPciCapability.VIRTIO_PCI_CAP_COMMON_CFG, LengthField, length));
        Assert.Equal("virtio-pci", device.Driver?.Name);
        Assert.Null(rig.Only.Driver);
        Assert.Equal("0x00000083\n", rig.Base.Read(rig.Only.DevPath + "/status"));
        Assert.True(rig.Base.Virtio.TryGetDriver(VirtioRig.Rng, out var driver));
        var error = await Expect.RefusedAsync(Errno.EINVAL, () => rig.Fabric.BindAsync(driver, rig.Only.Name));
        Assert.Contains($"has {length} bytes, and VIRTIO_F_NOTIF_CONFIG_DATA needs a field that ends at 58", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Short_common_configuration_does_where_no_feature_needs_more()
    {
        await using var rig = await VirtioRig.StartAsync();
        var function = WithCapability(VirtioPciCapability.VIRTIO_PCI_CAP_COMMON_CFG, LengthField, VirtioCommonConfig.ShortSize);
        // Bit 39 of what is offered; the selector is not looked at, as no driver takes bit 7 of the first word.
        function.Bar = static (bar, offset, bytes) =>
        {
            if (bar == Registers && offset == VirtioCommonConfig.device_feature)
                BinaryPrimitives.WriteUInt32LittleEndian(bytes, BinaryPrimitives.ReadUInt32LittleEndian(bytes) & ~(1u << 7));
        };
        await rig.PlugAsync(function);
        Assert.Equal(100, rig.Read(100).Length);
        Assert.False(rig.Only.Has(VirtioFeatures.VIRTIO_F_NOTIF_CONFIG_DATA));
    }

    [Fact]
    public async Task Notifications_carry_what_was_settled()
    {
        foreach (var withData in (bool[])[false, true])
        {
            await using var rig = await VirtioRig.StartAsync();
            var widths = new System.Collections.Concurrent.ConcurrentQueue<int>();
            var function = new VirtioFunction(new VirtioRngDevice("dice", new CountingFill().Fill), new VirtioFunctionOptions { HasNotificationData = withData });
            await rig.PlugAsync(new SpoiledFunction(function) { OnWrite = (bar, offset, length) => widths.Enqueue(bar == Registers && offset >= 0x3000 ? length : 0) });
            Assert.Equal(CountingFill.First(200), rig.Read(200));
            Assert.Equal(withData, rig.Only.Has(VirtioFeatures.VIRTIO_F_NOTIFICATION_DATA));
            Assert.Equal([withData ? 4 : 2], widths.Where(static w => w > 0).Distinct());
        }
    }

    [Theory]
    [InlineData(VirtioPciCapability.VIRTIO_PCI_CAP_NOTIFY_CFG, LengthField, 1)]
    [InlineData(VirtioPciCapability.VIRTIO_PCI_CAP_ISR_CFG, LengthField, 0)]
    public async Task Other_structures_are_needed_too(byte type, int field, uint value)
    {
        await using var rig = await VirtioRig.StartAsync();
        await RefusedAsync(rig, await rig.PlugAsync(WithCapability(type, field, value)), Errno.ENODEV);
    }

    [Fact]
    public async Task Notification_outside_of_its_structure_is_refused()
    {
        await using var rig = await VirtioRig.StartAsync();
        var function = WithCapability(VirtioPciCapability.VIRTIO_PCI_CAP_NOTIFY_CFG, MultiplierField, 4);
        function.Bar = static (bar, offset, bytes) =>
        {
            if (bar == Registers && offset == VirtioCommonConfig.queue_notify_off)
                BinaryPrimitives.WriteUInt16LittleEndian(bytes, 1);
        };
        await rig.PlugAsync(function);
        Assert.Null(rig.Only.Driver);
        Assert.Equal("0x00000083\n", rig.Base.Read(rig.Only.DevPath + "/status"));
        Assert.Contains("wants the notifications of its virtio queue 0 at 4, outside of the 4 bytes", rig.Base.Log.Text, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(3, "which no such queue can have")]
    [InlineData(0, "has no virtio queue 0")]
    [InlineData(0x8001, "which no such queue can have")]
    public async Task Queue_of_a_size_that_there_is_not_is_refused(ushort size, string words)
    {
        await using var rig = await VirtioRig.StartAsync();
        await rig.PlugAsync(new SpoiledFunction(new VirtioFunction(new VirtioRngDevice("dice")))
        {
            Bar = (bar, offset, bytes) =>
            {
                if (bar == Registers && offset == VirtioCommonConfig.queue_size)
                    BinaryPrimitives.WriteUInt16LittleEndian(bytes, size);
            },
        });
        Assert.Null(rig.Only.Driver);
        Assert.Contains(words, rig.Base.Log.Text, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Real_function_that_would_pass_the_IOMMU_by_is_refused_in_a_sentence()
    {
        await using var rig = await VirtioRig.StartAsync();
        Assert.Equal("virtio-pci", (await rig.PlugAsync(new SpoiledFunction(new VirtioFunction(new VirtioRngDevice("dice"))) { IsReal = true })).Driver?.Name);
        var device = await rig.PlugAsync(new SpoiledFunction(new VirtioFunction(new VirtioRngDevice("dice")))
        {
            IsReal = true,
            // Bit 33 of what is offered.
            Bar = static (bar, offset, bytes) =>
            {
                if (bar == Registers && offset == VirtioCommonConfig.device_feature)
                    BinaryPrimitives.WriteUInt32LittleEndian(bytes, BinaryPrimitives.ReadUInt32LittleEndian(bytes) & ~2u);
            },
        });
        Assert.Contains("would pass the IOMMU by", await RefusedAsync(rig, device, Errno.EPERM), StringComparison.Ordinal);
        // Who plugs it in for that driver is told, too.
        var error = await Assert.ThrowsAsync<VirtbusException>(() => ProvisioningEngine.Of(rig.Fabric).RequireDriverAsync("nic0", device, "virtio-pci", TestContext.Current.CancellationToken).AsTask());
        Assert.StartsWith($"Function 'nic0': Device {device.Name} is real and does not offer VIRTIO_F_ACCESS_PLATFORM, so it would pass the IOMMU by", error.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(0x40)]
    [InlineData(0xFF)]
    public async Task Device_that_does_not_come_out_of_its_reset_is_refused_and_not_waited_for(byte status)
    {
        await using var rig = await VirtioRig.StartAsync();
        var function = new SpoiledFunction(new VirtioFunction(new VirtioRngDevice("dice"))) { Bar = (bar, offset, bytes) => Status(bar, offset, bytes, status) };
        var device = await rig.PlugAsync(function);
        Assert.Empty(rig.Base.Virtio.Devices);
        await RefusedAsync(rig, device, status == 0xFF ? Errno.ENODEV : Errno.ETIMEDOUT);
        function.Bar = null;
        Assert.True(rig.Base.Pci.TryGetDriver("virtio-pci", out var driver));
        await rig.Fabric.BindAsync(driver, device.Name).In();
        Assert.Equal(10, rig.Read(10).Length);
        // When it lets go it hangs again: the driver goes, and its memory with it.
        function.Bar = (bar, offset, bytes) => Status(bar, offset, bytes, status);
        await rig.Fabric.UnbindAsync(driver, device.Name).In();
        using var map = device.Dma.Snapshot();
        Assert.Equal((0, 0), (map.Ranges.Length, device.Vectors.Count));
    }

    private static void Status(int bar, ulong offset, Span<byte> bytes, byte status)
    {
        if (bar == Registers && offset == VirtioCommonConfig.device_status)
            bytes[0] = status;
    }

    private static async Task<string> RefusedAsync(VirtioRig rig, PciDevice device, Errno errno)
    {
        Assert.Null(device.Driver);
        Assert.True(rig.Base.Pci.TryGetDriver("virtio-pci", out var driver));
        return (await Expect.RefusedAsync(errno, () => rig.Fabric.BindAsync(driver, device.Name))).Message;
    }

    private static SpoiledFunction WithConfig(Spoil spoil) => new(new VirtioFunction(new VirtioRngDevice("dice"))) { Config = spoil };

    private static SpoiledFunction WithCapability(byte type, int field, uint value)
    {
        var inner = new VirtioFunction(new VirtioRngDevice("dice"));
        var at = Find(inner, type);
        return new SpoiledFunction(inner) { Config = (offset, bytes) => Put(offset, bytes, at + field, value, field == BarField ? 1 : 4) };
    }
}
