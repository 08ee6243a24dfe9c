using System.Buffers.Binary;
using System.Collections.Concurrent;
using Virtbus.Buses.Pci;
using Virtbus.Buses.Virtio;
using Virtbus.Drivers.VirtioPci;
using Virtbus.Ethernet;
using Virtbus.Hardware.VirtioPci;
using Virtbus.Models.VirtioNet;
using Virtbus.Models.VirtioRng;
using Virtbus.Pci;
using Virtbus.Platform;
using Virtbus.Virtio;
using static Virtbus.Tests.Drivers.Virtio.SpoiledFunction;

namespace Virtbus.Tests.Drivers.Virtio;

/// <summary>What the transport driver writes and reads register by register, and what it does where an answer is not the one that it wants.</summary>
public sealed class VirtioPciRegisterTests
{
    private const int Ports = 0;
    private const int Registers = 4;
    private const int OffsetField = 8;
    private const int ConfigPage = 0x2000;
    private const int NotifyPage = 0x3000;
    private const int LegacyQueueVector = 22;
    private const int LegacyConfig = 20;

    [Fact]
    public async Task Capabilities_in_a_circle_have_an_end()
    {
        await using var rig = await VirtioRig.StartAsync();
        var inner = new VirtioFunction(new VirtioRngDevice("dice"));
        var first = Find(inner, VirtioPciCapability.VIRTIO_PCI_CAP_COMMON_CFG);
        var device = await rig.PlugAsync(new SpoiledFunction(inner)
        {
            Config = (offset, bytes) =>
            {
                Put(offset, bytes, first + 1, (uint)first, 1);
                Put(offset, bytes, first + 3, 0x77, 1);
            },
        });
        Assert.Null(device.Driver);
        Assert.Contains("no common configuration", rig.Base.Log.Text, StringComparison.Ordinal);
    }

    // The second one of a kind is good too, and lies elsewhere.
    [Theory]
    [InlineData(VirtioPciCapability.VIRTIO_PCI_CAP_COMMON_CFG)]
    [InlineData(VirtioPciCapability.VIRTIO_PCI_CAP_NOTIFY_CFG)]
    [InlineData(VirtioPciCapability.VIRTIO_PCI_CAP_ISR_CFG)]
    public async Task First_good_capability_of_a_kind_counts(byte type)
    {
        await using var rig = await VirtioRig.StartAsync();
        var inner = new VirtioFunction(new VirtioRngDevice("dice", new CountingFill().Fill), new VirtioFunctionOptions { Vectors = 0 });
        var window = Find(inner, VirtioPciCapability.VIRTIO_PCI_CAP_PCI_CFG);
        var good = new byte[20];
        inner.ReadConfig(Find(inner, type), good);
        BinaryPrimitives.WriteUInt32LittleEndian(good.AsSpan(OffsetField), ConfigPage);
        var device = await rig.PlugAsync(new SpoiledFunction(inner)
        {
            Config = (offset, bytes) =>
            {
                for (var i = 3; i < good.Length; i++)
                    Put(offset, bytes, window + i, good[i], 1);
            },
        });
        Assert.NotNull(device.Driver);
        Assert.Equal(CountingFill.First(100), rig.Read(100));
    }

    // A vector that does not stick is none: all for one, then the line, and nothing of the attempts before stays.
    [Theory]
    [InlineData(false, VirtioCommonConfig.config_msix_vector)]
    [InlineData(false, VirtioCommonConfig.queue_msix_vector)]
    [InlineData(true, LegacyQueueVector)]
    [InlineData(true, LegacyConfig)]
    public async Task Function_that_has_vectors_and_gives_none_has_its_line(bool isLegacy, int register)
    {
        await using var rig = await VirtioRig.StartAsync();
        var inner = new VirtioFunction(new VirtioRngDevice("dice", new CountingFill().Fill), new VirtioFunctionOptions { IsTransitional = isLegacy });
        var function = isLegacy ? WithoutCapabilities(inner) : new SpoiledFunction(inner);
        function.Bar = (bar, offset, bytes) =>
        {
            if (bar == (isLegacy ? Ports : Registers) && offset == (ulong)register && bytes.Length == 2)
                bytes.Fill(0xFF);
        };
        var device = await rig.PlugAsync(function);
        Assert.Equal(CountingFill.First(100), rig.Read(100));
        Assert.Equal(PciInterruptKinds.INTx, Assert.Single(device.Vectors).Kind);
        using var map = device.Dma.Snapshot();
        Assert.Equal(2, map.Ranges.Length);
    }

    [Fact]
    public async Task Line_that_nobody_answers_for_is_masked_at_once()
    {
        await using var rig = await VirtioRig.StartAsync();
        var function = new SpoiledFunction(new VirtioFunction(new VirtioRngDevice("dice"), new VirtioFunctionOptions { Vectors = 0 }));
        var device = await rig.PlugAsync(function);
        Assert.Equal(64, rig.Read(64).Length);
        await Deadline.UntilAsync(() => Assert.Single(rig.Random.Sources).Read(new byte[1], TimeSpan.Zero) == 1, "the next bytes");
        function.Bar = static (bar, offset, bytes) =>
        {
            if (bar == Registers && offset == 0x1000)
                bytes.Fill(0xFF);
        };
        var before = device.Vectors[0].Count;
        function.Port!.SetInterruptLine(true);
        Assert.Equal(before + 1, device.Vectors[0].Count);
        function.Port!.SetInterruptLine(false);
    }

    [Theory]
    [InlineData(false, null)]
    [InlineData(false, 2)]
    [InlineData(false, 0)]
    [InlineData(true, null)]
    [InlineData(true, 0)]
    public async Task Change_of_the_configuration_comes_by_each_way_of_interrupting(bool isLegacy, int? vectors)
    {
        await using var rig = await FabricRig.StartAsync();
        var driver = await StartAsync(rig);
        var calls = 0;
        driver.OnProbe = d => Made(d.CreateQueues(new VirtioQueueSpec("input", _ => Interlocked.Increment(ref calls))));
        var model = Net();
        var function = new VirtioFunction(model, new VirtioFunctionOptions { IsTransitional = isLegacy, Vectors = vectors });
        await rig.PlugAsync(isLegacy ? WithoutCapabilities(function) : function);
        await rig.Fabric.SettleAsync().In();
        model.SetLink(false);
        await Deadline.UntilAsync(() => Volatile.Read(ref driver.Changes) == 1, "the change");
        Assert.Equal(0, calls);
    }

    [Theory]
    [InlineData(VirtioCommonConfig.queue_enable, 1, "enabled right after a reset")]
    [InlineData(VirtioCommonConfig.queue_enable, 0, "does not enable its virtio queue 0")]
    public async Task Queue_that_is_enabled_too_early_or_never_is_refused(int register, int value, string words)
    {
        await using var rig = await VirtioRig.StartAsync();
        await rig.PlugAsync(Answers(register, (ushort)value));
        Assert.Null(rig.Only.Driver);
        Assert.Contains(words, rig.Base.Log.Text, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Modern_function_without_VERSION_1_is_refused()
    {
        await using var rig = await VirtioRig.StartAsync();
        await rig.PlugAsync(new SpoiledFunction(new VirtioFunction(new VirtioRngDevice("dice")))
        {
            // Bit 32; bit 0 is none of such a device.
            Bar = static (bar, offset, bytes) =>
            {
                if (bar == Registers && offset == VirtioCommonConfig.device_feature)
                    bytes[0] &= 0xFE;
            },
        });
        Assert.Null(rig.Only.Driver);
        Assert.Contains("does not offer VIRTIO_F_VERSION_1", rig.Base.Log.Text, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Notification_carries_what_the_device_asks_for()
    {
        await using var rig = await VirtioRig.StartAsync();
        var function = Answers(VirtioCommonConfig.queue_notify_data, 0x1234);
        var words = new ConcurrentQueue<ushort>();
        function.OnWord = (offset, value) =>
        {
            if (offset >= NotifyPage)
                words.Enqueue(value);
        };
        await rig.PlugAsync(function);
        Assert.True(rig.Only.Has(VirtioFeatures.VIRTIO_F_NOTIF_CONFIG_DATA));
        Assert.Equal((ushort)0x1234, Assert.Single(words.Distinct()));
    }

    [Fact]
    public async Task Queue_that_is_polled_has_no_vector()
    {
        await using var rig = await FabricRig.StartAsync();
        var driver = await StartAsync(rig);
        driver.OnProbe = static d => Made(d.CreateQueues(new VirtioQueueSpec("input", static _ => { }), new VirtioQueueSpec("output", null)));
        var function = new SpoiledFunction(new VirtioFunction(Net()));
        var words = new ConcurrentQueue<ushort>();
        function.OnWord = (offset, value) =>
        {
            if (offset == VirtioCommonConfig.queue_msix_vector)
                words.Enqueue(value);
        };
        var device = await rig.PlugAsync(function);
        await rig.Fabric.SettleAsync().In();
        Assert.Equal(new ushort[] { 1, VirtioCommonConfig.VIRTIO_MSI_NO_VECTOR }, words);
        Assert.Equal(2, device.Vectors.Count);
    }

    [Fact]
    public async Task Queues_that_share_have_one_vector()
    {
        await using var rig = await FabricRig.StartAsync();
        var driver = await StartAsync(rig);
        driver.OnProbe = static d => Made(d.CreateQueues(new VirtioQueueSpec("input", static _ => { }), new VirtioQueueSpec("output", static _ => { })));
        var function = new SpoiledFunction(new VirtioFunction(Net(), new VirtioFunctionOptions { Vectors = 2 }));
        var words = new ConcurrentQueue<ushort>();
        function.OnWord = (offset, value) =>
        {
            if (offset == VirtioCommonConfig.queue_msix_vector)
                words.Enqueue(value);
        };
        var device = await rig.PlugAsync(function);
        await rig.Fabric.SettleAsync().In();
        Assert.Equal(new ushort[] { 1, 1 }, words);
        Assert.Equal(2, device.Vectors.Count);
    }

    // The first queue is the device's already when the second one gets no vector, and is taken back.
    [Fact]
    public async Task Legacy_queue_is_taken_back_before_the_next_way_of_interrupting_is_tried()
    {
        await using var rig = await FabricRig.StartAsync();
        var driver = await StartAsync(rig);
        driver.OnProbe = static d => Made(d.CreateQueues(new VirtioQueueSpec("input", static _ => { }), new VirtioQueueSpec("output", static _ => { })));
        var function = WithoutCapabilities(new VirtioFunction(Net(), new VirtioFunctionOptions { IsTransitional = true }));
        function.Bar = static (bar, offset, bytes) =>
        {
            if (bar == Ports && offset == LegacyQueueVector && bytes.Length == 2 && BinaryPrimitives.ReadUInt16LittleEndian(bytes) == 2)
                bytes.Fill(0xFF);
        };
        var device = await rig.PlugAsync(function);
        await rig.Fabric.SettleAsync().In();
        Assert.Equal(driver, Assert.Single(rig.Virtio.Devices).Driver);
        Assert.Equal((PciInterruptKinds.MsiX, 2), (device.Vectors[0].Kind, device.Vectors.Count));
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task Configuration_is_read_by_its_fields_and_not_beyond_its_end(bool isLegacy)
    {
        await using var rig = await FabricRig.StartAsync();
        var driver = await StartAsync(rig);
        driver.OnProbe = static d => Made(d.CreateQueues(new VirtioQueueSpec("input", static _ => { })));
        var inner = new VirtioFunction(Net(), new VirtioFunctionOptions { IsTransitional = isLegacy });
        var function = isLegacy ? WithoutCapabilities(inner) : new SpoiledFunction(inner);
        await rig.PlugAsync(function);
        await rig.Fabric.SettleAsync().In();
        var device = (VirtioBusDevice)Assert.Single(rig.Virtio.Devices);
        var reads = new ConcurrentQueue<int>();
        function.Bar = (_, offset, bytes) =>
        {
            if (!isLegacy && offset >= ConfigPage)
                reads.Enqueue(bytes.Length);
        };
        var mac = new byte[6];
        Assert.True(device.TryReadConfig(0, mac, out _));
        Assert.Equal([2, 0, 0, 0, 0, 1], mac);
        Assert.Equal(isLegacy ? [] : new[] { 4, 2 }, reads);
        Assert.False(device.TryReadConfig(1 << 20, mac, out var fault));
        Assert.Equal(Errno.EINVAL, fault.Errno);
        Expect.Refused(Errno.EINVAL, () => device.ReadConfig(1 << 20, mac));
        Assert.Throws<ArgumentOutOfRangeException>(() => device.TryReadConfig(-1, mac, out _));
        function.Bar = static (_, _, bytes) => bytes.Fill(0xFF);
        Assert.False(device.TryReadConfig(0, mac, out fault));
        Assert.Equal(Errno.ENODEV, fault.Errno);
        // The generation, or a byte of it, is another one at each look.
        var look = 0;
        function.Bar = (bar, offset, bytes) =>
        {
            if (isLegacy ? offset >= LegacyConfig : offset == VirtioCommonConfig.config_generation)
                bytes[0] = (byte)++look;
        };
        Assert.False(device.TryReadConfig(0, mac, out fault));
        Assert.Equal(Errno.EAGAIN, fault.Errno);
        // And then it is not.
        look = 0;
        function.Bar = (bar, offset, bytes) =>
        {
            if (isLegacy ? offset >= LegacyConfig : offset == VirtioCommonConfig.config_generation)
                bytes[0] = (byte)Math.Min(++look, 5);
        };
        Assert.True(device.TryReadConfig(0, mac, out _));
        Assert.True(look >= 6, $"{look} looks");
        Assert.Equal([isLegacy ? (byte)5 : (byte)2, 0, 0, 0, 0, 1], mac);
    }

    [Theory]
    [InlineData(PciHeader.PCI_REVISION_ID, 1, 1)]
    [InlineData(PciHeader.PCI_DEVICE_ID, 0x1044, 2)]
    public async Task Ports_are_those_of_a_transitional_function_alone(int register, uint value, int bytes)
    {
        await using var rig = await VirtioRig.StartAsync();
        var function = WithoutCapabilities(new VirtioFunction(new VirtioRngDevice("dice"), new VirtioFunctionOptions { IsTransitional = true }));
        var inner = function.Config!;
        function.Config = (offset, destination) =>
        {
            inner(offset, destination);
            Put(offset, destination, register, value, bytes);
        };
        var device = await rig.PlugAsync(function);
        Assert.Null(device.Driver);
        Assert.Contains("no ports of a transitional device", rig.Base.Log.Text, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(8, 1, "in use right after a reset")]
    [InlineData(12, 0, "has no virtio queue 0")]
    [InlineData(12, 3, "which no such queue can have")]
    public async Task Legacy_queue_that_makes_no_sense_is_refused(int register, int value, string words)
    {
        await using var rig = await VirtioRig.StartAsync();
        var function = WithoutCapabilities(new VirtioFunction(new VirtioRngDevice("dice"), new VirtioFunctionOptions { IsTransitional = true }));
        function.Bar = (bar, offset, bytes) =>
        {
            if (bar == Ports && offset == (ulong)register)
                bytes[0] = (byte)value;
        };
        await rig.PlugAsync(function);
        Assert.Null(rig.Only.Driver);
        Assert.Contains(words, rig.Base.Log.Text, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Virtual_functions_are_there_while_a_driver_runs_the_device()
    {
        await using var rig = await VirtioRig.StartAsync();
        var device = await rig.PlugAsync(
            new VirtioFunction(new VirtioRngDevice("dice"), new VirtioFunctionOptions { VirtualFunctions = 4 }, static i => new VirtioRngDevice($"dice{i}")));
        var number = device.DevPath + "/sriov_numvfs";
        Assert.Equal(4, device.TotalVirtualFunctions);
        Assert.True(rig.Base.Virtio.TryGetDriver(VirtioRig.Rng, out var driver));
        await rig.Fabric.UnbindAsync(driver, "virtio0").In();
        var error = await Expect.RefusedAsync(Errno.EBUSY, () => rig.Fabric.Tree.WriteAsync(number, "2"));
        Assert.Contains("before a driver runs its virtio device", error.Message, StringComparison.Ordinal);
        await rig.Fabric.BindAsync(driver, "virtio0").In();
        await rig.Fabric.Tree.WriteAsync(number, "2").In();
        await rig.Fabric.SettleAsync().In();
        Assert.Equal(2, device.VirtualFunctions.Count);
        await rig.Fabric.Tree.WriteAsync(number, "0").In();
        Assert.Empty(device.VirtualFunctions);
        await rig.Fabric.Tree.WriteAsync(number, "3").In();
        await rig.Fabric.SettleAsync().In();
        await rig.Fabric.UnbindAsync(device.Driver!, device.Name).In();
        Assert.Empty(device.VirtualFunctions);
        Assert.Empty(rig.Base.Virtio.Devices);
    }

    [Fact]
    public async Task Rings_have_what_was_settled()
    {
        await using var rig = await VirtioRig.StartAsync();
        await rig.PlugAsync(new VirtioNetDevice("net0", new EthernetSwitch(), new VirtioNetOptions(0x020000000001) { Packed = true }));
        var layout = rig.Only.Queues[0].Layout;
        Assert.Equal(
            (rig.Only.Has(VirtioFeatures.VIRTIO_F_RING_PACKED), rig.Only.Has(VirtioFeatures.VIRTIO_F_EVENT_IDX), rig.Only.Has(VirtioFeatures.VIRTIO_F_IN_ORDER)),
            (layout.Packed, layout.EventIndex, layout.InOrder));
        Assert.Equal((true, true, true), (layout.Packed, layout.EventIndex, layout.InOrder));
    }

    private static ValueTask Made(IReadOnlyList<VirtioQueue> queues)
    {
        Assert.NotEmpty(queues);
        return default;
    }

    private static VirtioNetDevice Net() => new("net0", new EthernetSwitch(), new VirtioNetOptions(0x020000000001));

    private static SpoiledFunction Answers(int register, ushort value) => new(new VirtioFunction(new VirtioRngDevice("dice")))
    {
        Bar = (bar, offset, bytes) =>
        {
            if (bar == Registers && offset == (ulong)register && bytes.Length == 2)
                BinaryPrimitives.WriteUInt16LittleEndian(bytes, value);
        },
    };

    private static async Task<ProbeDriver> StartAsync(FabricRig rig)
    {
        await rig.InitModuleAsync(new VirtioPciModule(), "virtio_pci");
        var driver = new ProbeDriver(rig.Virtio, VirtioDeviceId.VIRTIO_ID_NET);
        await rig.Fabric.RegisterDriverAsync(driver).In();
        return driver;
    }
}
