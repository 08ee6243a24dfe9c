using System.Buffers.Binary;
using Virtbus.Buses.Pci;
using Virtbus.Buses.Virtio;
using Virtbus.Drivers.VirtioPci;
using Virtbus.Ethernet;
using Virtbus.Hardware.VirtioPci;
using Virtbus.Memory;
using Virtbus.Models.VirtioNet;
using Virtbus.Models.VirtioRng;
using Virtbus.Pci;
using Virtbus.Platform;
using Virtbus.Virtio;
using Virtbus.Virtio.Rings;
using static Virtbus.Tests.Drivers.Virtio.SpoiledFunction;

namespace Virtbus.Tests.Drivers.Virtio;

/// <summary>Functions that die, lie and go at each moment of a probe, and drivers that are wrong: an error comes back, and nothing is left behind.</summary>
public sealed class VirtioPciHostileTests
{
    private const int Registers = 4;
    private const int OffsetField = 8;

    [Theory]
    [InlineData(false, null)]
    [InlineData(false, 0)]
    [InlineData(true, null)]
    [InlineData(true, 0)]
    public async Task Function_that_answers_nothing_from_any_moment_of_a_probe_on_leaves_nothing_behind(bool isLegacy, int? vectors)
    {
        await using var rig = await VirtioRig.StartAsync();
        var (function, pci, transport) = await PlugAsync(rig, isLegacy, vectors);
        var (failed, shown) = (0, function.Config);
        for (var moment = 1; ; moment++)
        {
            await rig.Fabric.UnbindAsync(transport, pci.Name).In();
            var left = moment;
            bool IsDead() => Interlocked.Decrement(ref left) < 0;
            function.Bar = (_, _, bytes) => Fill(bytes, IsDead());
            function.Config = (offset, bytes) =>
            {
                shown?.Invoke(offset, bytes);
                Fill(bytes, IsDead());
            };
            failed += await TryBindAsync(rig, transport, pci) ? 0 : 1;
            await rig.Fabric.SettleAsync().In();
            var isOver = Volatile.Read(ref left) >= 0;
            if (pci.Driver is not null)
                await rig.Fabric.UnbindAsync(transport, pci.Name).In();
            AssertNothing(rig, pci);
            // It is there again.
            (function.Bar, function.Config) = (null, shown);
            await rig.Fabric.BindAsync(transport, pci.Name).In();
            Assert.Equal(10, rig.Read(10).Length);
            if (isOver)
                break;
        }

        Assert.True(failed > 20, $"{failed} failed");
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task Function_that_is_pulled_at_any_moment_of_a_probe_leaves_nothing_behind(bool isLegacy)
    {
        for (var moment = 1; ; moment++)
        {
            await using var rig = await VirtioRig.StartAsync();
            var (function, pci, transport) = await PlugAsync(rig, isLegacy, null);
            await rig.Fabric.UnbindAsync(transport, pci.Name).In();
            var left = moment;
            Task? pull = null;
            void Look()
            {
                if (Interlocked.Decrement(ref left) != 0)
                    return;
                pull = Task.Run(() => rig.Base.Pci.SurpriseRemoveAsync(pci).AsTask());
                Deadline.Until(() => pci.IsGone, "the pull");
            }

            function.Bar = (_, _, _) => Look();
            function.OnWrite = (_, _, _) => Look();
            await TryBindAsync(rig, transport, pci);
            await rig.Fabric.SettleAsync().In();
            function.Bar = null;
            function.OnWrite = null;
            var isOver = pull is null;
            await (pull ?? rig.Base.Pci.SurpriseRemoveAsync(pci).AsTask()).In();
            // Where somebody waits for it, it is done beside.
            await rig.Fabric.SettleAsync().In();
            AssertNothing(rig, pci);
            Assert.False(pci.Dma.IsBusMaster && pci.Dma.AddressSpace is not null);
            if (isOver)
                break;
        }
    }

    [Theory]
    [InlineData(false, null)]
    [InlineData(false, 2)]
    [InlineData(true, null)]
    [InlineData(true, 0)]
    public async Task Function_that_lies_now_and_then_is_refused_or_driven_and_leaves_nothing_behind(bool isLegacy, int? vectors)
    {
        await using var rig = await VirtioRig.StartAsync();
        var (function, pci, transport) = await PlugAsync(rig, isLegacy, vectors);
        var random = new Random(20_261_130);
        var (bound, failed) = (0, 0);
        for (var round = 0; round < 400; round++)
        {
            await rig.Fabric.UnbindAsync(transport, pci.Name).In();
            var seed = random.Next();
            function.Bar = (_, offset, bytes) =>
            {
                lock (random)
                {
                    // A reset that never ends has a test of its own, and takes its time.
                    if (random.Next(25) != 0 || (seed % 2 == 0 && offset == VirtioCommonConfig.device_status))
                        return;
                    if (random.Next(2) == 0)
                        random.NextBytes(bytes);
                    else
                        bytes[random.Next(bytes.Length)] ^= (byte)(1 << random.Next(8));
                }
            };
            if (await TryBindAsync(rig, transport, pci))
                bound++;
            await rig.Fabric.SettleAsync().In();
            function.Bar = null;
            failed += pci.Driver is null || rig.Base.Virtio.Devices is not [{ Driver: not null }] ? 1 : 0;
            if (pci.Driver is not null)
                await rig.Fabric.UnbindAsync(transport, pci.Name).In();
            AssertNothing(rig, pci);
            await rig.Fabric.BindAsync(transport, pci.Name).In();
            Assert.Equal(10, rig.Read(10).Length);
        }

        Assert.True(bound > 20 && failed > 20, $"{bound} bound, {failed} failed");
    }

    [Theory]
    [InlineData(null)]
    [InlineData(2)]
    public async Task Interrupts_without_cause_at_any_moment_disturb_nobody(int? vectors)
    {
        await using var rig = await VirtioRig.StartAsync();
        var (function, pci, transport) = await PlugAsync(rig, isLegacy: false, vectors);
        var address = 0xFEE0_0000UL | ((ulong)pci.Address.RoutingId << 4);
        var isOver = false;
        var storm = Task.Factory.StartNew(
            () =>
            {
                for (var data = 0u; !Volatile.Read(ref isOver); data++)
                {
                    function.Port!.SendMessage(address, data % 2);
                    Thread.SpinWait(100);
                }
            },
            TestContext.Current.CancellationToken,
            TaskCreationOptions.LongRunning,
            TaskScheduler.Default);
        Assert.True(rig.Base.Virtio.TryGetDriver(VirtioRig.Rng, out var driver));
        try
        {
            for (var i = 0; i < 100; i++)
            {
                Assert.Equal(100, rig.Read(100).Length);
                await rig.Fabric.UnbindAsync(driver, "virtio0").In();
                await rig.Fabric.BindAsync(driver, "virtio0").In();
                Assert.Equal(100, rig.Read(100).Length);
                await rig.Fabric.UnbindAsync(transport, pci.Name).In();
                AssertNothing(rig, pci);
                await rig.Fabric.BindAsync(transport, pci.Name).In();
            }
        }
        finally
        {
            Volatile.Write(ref isOver, true);
            await storm.In();
        }

        Assert.Equal(0, pci.Dma.Faults);
        Assert.DoesNotContain("failed", rig.Base.Log.Text, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Thousand_binds_leave_nothing_behind()
    {
        await using var rig = await VirtioRig.StartAsync();
        var (_, pci, transport) = await PlugAsync(rig, isLegacy: false, null);
        Assert.True(rig.Base.Virtio.TryGetDriver(VirtioRig.Rng, out var driver));
        var (irq, name) = (pci.Vectors[^1].Irq, Assert.Single(rig.Random.Sources).Name);
        for (var i = 0; i < 1000; i++)
        {
            await rig.Fabric.UnbindAsync(driver, "virtio0").In();
            await rig.Fabric.BindAsync(driver, "virtio0").In();
            if (i % 10 != 0)
                continue;
            await rig.Fabric.UnbindAsync(transport, pci.Name).In();
            AssertNothing(rig, pci);
            await rig.Fabric.BindAsync(transport, pci.Name).In();
        }

        Assert.Equal((irq, name, "virtio0"), (pci.Vectors[^1].Irq, Assert.Single(rig.Random.Sources).Name, rig.Only.Name));
        Assert.Equal(2, pci.Dma.AddressSpace!.Count);
        Assert.Equal(64, rig.Read(64).Length);
        Assert.Equal(0, pci.Dma.Faults);
    }

    // Each does what it likes, and may be refused; in the end nothing is left, and all goes on.
    [Fact]
    public async Task Operators_at_once_leave_nothing_behind()
    {
        await using var rig = await VirtioRig.StartAsync();
        var (_, pci, transport) = await PlugAsync(rig, isLegacy: false, null);
        Assert.True(rig.Base.Virtio.TryGetDriver(VirtioRig.Rng, out var driver));
        var tree = rig.Fabric.Tree;
        Func<ValueTask>[] operations =
        [
            () => rig.Fabric.UnbindAsync(driver, "virtio0"),
            () => rig.Fabric.BindAsync(driver, "virtio0"),
            () => rig.Fabric.UnbindAsync(transport, pci.Name),
            () => rig.Fabric.BindAsync(transport, pci.Name),
            () => tree.WriteAsync(pci.DevPath + "/reset", "1"),
            () => rig.Fabric.SuspendAsync(),
            () => rig.Fabric.ResumeAsync(),
            () => Read("/class/misc/hw_random/data"),
            () => Read("/bus/virtio/devices/virtio0/status"),
        ];
        await Task.WhenAll(Enumerable.Range(1, 6).Select(seed => Task.Run(
            async () =>
            {
                var random = new Random(seed);
                for (var i = 0; i < 150; i++)
                    await TryAsync(operations[random.Next(operations.Length)]);
            },
            TestContext.Current.CancellationToken))).In();
        await rig.Fabric.ResumeAsync().In();
        await rig.Fabric.SettleAsync().In();
        await TryAsync(() => rig.Fabric.UnbindAsync(transport, pci.Name));
        AssertNothing(rig, pci);
        await rig.Fabric.BindAsync(transport, pci.Name).In();
        Assert.Equal(64, rig.Read(64).Length);
        Assert.Equal(("virtio0", 0), (rig.Only.Name, pci.Dma.Faults));

        ValueTask Read(string path)
        {
            rig.Base.Read(path);
            return default;
        }

        static async Task TryAsync(Func<ValueTask> operation)
        {
            try
            {
                await operation().In();
            }
            catch (VirtbusException)
            {
                // Refused, in the middle of another one's.
            }
        }
    }

    [Fact]
    public async Task Function_whose_table_of_vectors_is_in_a_BAR_that_there_is_not_has_its_line()
    {
        await using var rig = await VirtioRig.StartAsync();
        var inner = new VirtioFunction(new VirtioRngDevice("dice", new CountingFill().Fill));
        var table = inner.ConfigLayout.FindCapability(PciCapabilityId.PCI_CAP_ID_MSIX) + PciMsix.PCI_MSIX_TABLE;
        var device = await rig.PlugAsync(new SpoiledFunction(inner) { Config = (offset, bytes) => Put(offset, bytes, table, 3, 1) });
        Assert.Equal(CountingFill.First(100), rig.Read(100));
        Assert.Equal(PciInterruptKinds.INTx, Assert.Single(device.Vectors).Kind);
    }

    [Fact]
    public async Task Notification_of_four_bytes_at_a_place_of_two_is_refused()
    {
        await using var rig = await VirtioRig.StartAsync();
        var inner = new VirtioFunction(new VirtioRngDevice("dice"), new VirtioFunctionOptions { HasNotificationData = true });
        var at = Find(inner, VirtioPciCapability.VIRTIO_PCI_CAP_NOTIFY_CFG) + OffsetField;
        Span<byte> offset = stackalloc byte[4];
        inner.ReadConfig(at, offset);
        var place = BinaryPrimitives.ReadUInt32LittleEndian(offset);
        await rig.PlugAsync(new SpoiledFunction(inner) { Config = (o, bytes) => Put(o, bytes, at, place + 2, 4) });
        Assert.Null(rig.Only.Driver);
        Assert.Contains("not aligned to 4", rig.Base.Log.Text, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(100, 64)]
    [InlineData(63, 32)]
    [InlineData(1, 1)]
    public async Task Split_queue_has_the_size_below_the_one_that_was_asked_for(int asked, int size)
    {
        await using var rig = await FabricRig.StartAsync();
        var sizes = new List<int>();
        var driver = await StartAsync(rig, VirtioDeviceId.VIRTIO_ID_RNG);
        driver.OnProbe = d =>
        {
            sizes.Add(d.CreateQueues(new VirtioQueueSpec("input", null, asked))[0].Size);
            return default;
        };
        await rig.PlugAsync(new VirtioFunction(new VirtioRngDevice("dice")));
        await rig.Fabric.SettleAsync().In();
        Assert.Equal([size], sizes);
    }

    [Fact]
    public async Task Driver_that_gives_up_the_IOMMU_of_a_real_function_is_refused()
    {
        await using var rig = await FabricRig.StartAsync();
        var driver = await StartAsync(rig, VirtioDeviceId.VIRTIO_ID_RNG);
        driver.Choice = static features => features.Without(VirtioFeatures.VIRTIO_F_ACCESS_PLATFORM);
        await rig.PlugAsync(new VirtioFunction(new VirtioRngDevice("dice")));
        await rig.PlugAsync(new SpoiledFunction(new VirtioFunction(new VirtioRngDevice("dice"))) { IsReal = true });
        await rig.Fabric.SettleAsync().In();
        // The first one is not real.
        Assert.Equal([driver, null], rig.Virtio.Devices.Select(static d => d.Driver));
        var error = await Expect.RefusedAsync(Errno.EINVAL, () => rig.Fabric.BindAsync(driver, "virtio1"));
        Assert.Contains("would pass the IOMMU by", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Driver_that_resets_the_function_in_its_own_probe_is_refused_and_the_device_is_not_forgotten()
    {
        await using var rig = await FabricRig.StartAsync();
        var driver = await StartAsync(rig, VirtioDeviceId.VIRTIO_ID_RNG);
        VirtbusException? error = null;
        driver.OnProbe = async d => error = await Expect.RefusedAsync(Errno.EDEADLK, () => rig.Fabric.Tree.WriteAsync(d.Parent!.DevPath + "/reset", "1"));
        var pci = await rig.PlugAsync(new VirtioFunction(new VirtioRngDevice("dice")));
        await rig.Fabric.SettleAsync().In();
        Assert.NotNull(error);
        Assert.Equal(driver, Assert.Single(rig.Virtio.Devices).Driver);
        await rig.Fabric.UnbindAsync(pci.Driver!, pci.Name).In();
        Assert.Empty(rig.Virtio.Devices);
    }

    [Fact]
    public async Task Function_that_does_not_come_back_from_a_reset_does_no_DMA_and_a_later_one_brings_it_back()
    {
        await using var rig = await VirtioRig.StartAsync();
        var (function, pci, transport) = await PlugAsync(rig, isLegacy: false, null);
        function.Bar = static (bar, offset, bytes) => Fill(bytes, bar == Registers && offset == VirtioCommonConfig.device_status);
        await Expect.RefusedAsync(Errno.ENODEV, () => rig.Fabric.Tree.WriteAsync(pci.DevPath + "/reset", "1"));
        Assert.Equal((transport, false), (pci.Driver, pci.Dma.IsBusMaster));
        AssertNothing(rig, pci);
        function.Bar = null;
        await rig.Fabric.Tree.WriteAsync(pci.DevPath + "/reset", "1").In();
        Assert.Equal(64, rig.Read(64).Length);
    }

    [Fact]
    public async Task Callback_that_throws_keeps_nothing_from_the_queues_that_share_its_vector()
    {
        await using var rig = await FabricRig.StartAsync();
        var told = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        var driver = await StartAsync(rig, VirtioDeviceId.VIRTIO_ID_NET);
        driver.OnProbe = d =>
        {
            var memory = d.Resources.Add(d.Allocate(4096));
            var queues = d.CreateQueues(
                new VirtioQueueSpec("input", static _ => throw new InvalidOperationException("Mine.")), new VirtioQueueSpec("output", _ => told.TrySetResult()));
            d.Ready();
            queues[1].Add(new DriverBuffer(memory.Address, 12 + 60, false));
            queues[1].Kick();
            return default;
        };
        var pci = await rig.PlugAsync(new VirtioFunction(new VirtioNetDevice("net0", new EthernetSwitch(), new VirtioNetOptions(0x020000000001)), new VirtioFunctionOptions { Vectors = 2 }));
        await rig.Fabric.SettleAsync().In();
        Assert.Equal(2, pci.Vectors.Count);
        await told.Task.In();
    }

    private static void Fill(Span<byte> bytes, bool isDead)
    {
        if (isDead)
            bytes.Fill(0xFF);
    }

    private static async Task<ProbeDriver> StartAsync(FabricRig rig, uint type)
    {
        await rig.InitModuleAsync(new VirtioPciModule(), "virtio_pci");
        var driver = new ProbeDriver(rig.Virtio, type);
        await rig.Fabric.RegisterDriverAsync(driver).In();
        return driver;
    }

    private static async Task<(SpoiledFunction Function, PciDevice Device, PciDriver Transport)> PlugAsync(VirtioRig rig, bool isLegacy, int? vectors)
    {
        var inner = new VirtioFunction(
            new VirtioRngDevice("dice", static bytes => bytes.Fill(7)), new VirtioFunctionOptions { IsTransitional = isLegacy, Vectors = vectors });
        var function = isLegacy ? WithoutCapabilities(inner) : new SpoiledFunction(inner);
        var device = await rig.PlugAsync(function);
        Assert.Equal(isLegacy, rig.Only.IsLegacy);
        Assert.Equal(10, rig.Read(10).Length);
        return (function, device, (PciDriver)device.Driver!);
    }

    // An error of another kind is a bug, and ends the test.
    private static async Task<bool> TryBindAsync(VirtioRig rig, PciDriver transport, PciDevice device)
    {
        try
        {
            await rig.Fabric.BindAsync(transport, device.Name).In();
            return true;
        }
        catch (VirtbusException)
        {
            return false;
        }
    }

    private static void AssertNothing(VirtioRig rig, PciDevice device)
    {
        Assert.Empty(rig.Base.Virtio.Devices);
        Assert.Empty(rig.Random.Sources);
        Assert.Empty(device.Vectors);
        using var map = device.Dma.Snapshot();
        Assert.Equal((0, 0), (map.Ranges.Length, device.Dma.AddressSpace?.Count ?? 0));
    }
}
