using Virtbus.Buses.Pci;
using Virtbus.Core;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Pci;
using Virtbus.Platform;

namespace Virtbus.Tests.Buses.Pci;

/// <summary>Config space, regions, DMA and its owner, reset, and all of these while the hardware goes away.</summary>
public sealed class AccessTests
{
    private static readonly PciDeviceId Cards = new(0x1AF4, 0x10F5);

    [Fact]
    public async Task Registers_answer_while_the_function_decodes_and_inside_the_bar()
    {
        var world = await PciWorld.NewAsync();
        var (_, device) = await world.PlugAsync();
        var memory = device.GetRegion(0);
        var ports = device.GetRegion(2);
        memory.Write32(0, 5);
        Assert.Equal((uint.MaxValue, uint.MaxValue, false), (memory.Read32(0), ports.Read32(0), memory.IsEnabled));
        device.Enable();
        memory.Write64(8, 0x1122334455667788);
        ports.Write32(4, 0xAABBCCDD);
        Assert.Equal((0u, 0x55667788u, 0x1122334455667788UL, 0xAABBCCDDu), (memory.Read32(0), memory.Read32(8), memory.Read64(8), ports.Read32(4)));
        var bytes = new byte[8];
        Assert.False(memory.Read(0x3FFC, bytes));
        Assert.All(bytes, b => Assert.Equal(0xFF, b));
        Assert.False(memory.Write(0x3FFC, bytes));
        Assert.False(memory.Read(ulong.MaxValue, bytes));
        Assert.True(memory.Read(0x3FF8, bytes));
        // The bits count, whoever writes them.
        device.WriteConfig16(4, 0x0001);
        Assert.Equal((false, true), (memory.IsEnabled, ports.IsEnabled));
        device.WriteConfig8(4, 0x02);
        Assert.Equal((true, false), (memory.IsEnabled, ports.IsEnabled));
        // The ROM has a bit of its own.
        var rom = device.GetRegion(PciBar.Rom);
        Assert.False(rom.IsEnabled);
        device.WriteConfig32(0x30, (uint)rom.Start | 1);
        Assert.True(rom.IsEnabled);
        Assert.Throws<ArgumentOutOfRangeException>(() => device.GetRegion(7));
    }

    [Fact]
    public async Task Range_and_decode_are_checked_by_the_bus_once_and_the_function_sees_what_passed_only()
    {
        var world = await PciWorld.NewAsync();
        var (card, device) = await world.PlugAsync();
        var region = device.GetRegion(0);
        var size = region.Bar.Size;
        Fault fault;
        // Whatever the way: nothing is decoded yet.
        Assert.False(region.TryWrite(0, [1, 2, 3, 4], out fault));
        Assert.Equal(Errno.EIO, fault.Errno);
        Assert.False(region.TryWriteRegisters(0, new byte[24], out fault));
        device.Enable();
        foreach (var (offset, length) in new[] { (size, 1), (size - 4, 8), (size - 1, 4), (ulong.MaxValue, 4), (ulong.MaxValue - 2, 4) })
        {
            var bytes = new byte[length];
            Assert.False(region.TryRead(offset, bytes, out fault));
            Assert.Equal(Errno.EINVAL, fault.Errno);
            Assert.All(bytes, static b => Assert.Equal(0xFF, b));
            Assert.False(region.TryReadRegisters(offset, bytes, out fault));
            Assert.False(region.TryWrite(offset, bytes, out fault));
            Assert.Equal(Errno.EINVAL, fault.Errno);
            Assert.False(region.TryWriteRegisters(offset, bytes, out fault));
            Assert.False(region.Holds(offset, length, out fault));
        }
        // A BAR that is not there, and the ROM by way of another BAR.
        Assert.False(device.GetRegion(5).TryRead(0, new byte[4], out fault));
        Assert.False(region.TryReadRom(0, new byte[4], out fault));
        Assert.Empty(card.Accesses);
        Assert.True(region.TryWriteRegisters(2, new byte[15], out fault), fault.Message);
        // Registers as a processor would reach them.
        Assert.Equal(["write 2 2", "write 4 4", "write 8 8", "write 10 1"], card.Accesses);
    }

    [Fact]
    public async Task Enable_counts_and_the_last_disable_ends_mastering_too()
    {
        var world = await PciWorld.NewAsync();
        var (_, device) = await world.PlugAsync();
        device.Enable();
        device.Enable();
        device.SetMaster(true);
        Assert.Equal(7, device.ReadConfig16(4) & 7);
        device.Disable();
        Assert.Equal(7, device.ReadConfig16(4) & 7);
        device.Disable();
        device.Disable();
        Assert.Equal(0, device.ReadConfig16(4) & 7);
        Assert.False(device.IsEnabled);
    }

    [Fact]
    public async Task Config_space_beyond_its_end_reads_as_ones_and_a_list_that_bites_its_tail_ends()
    {
        var world = await PciWorld.NewAsync();
        var (_, device) = await world.PlugAsync();
        Assert.Equal(4096, device.ConfigSize);
        Assert.Equal(uint.MaxValue, device.ReadConfig32(4096));
        Assert.Equal(0xFFFFu, device.ReadConfig32(4094) >> 16);
        device.WriteConfig32(4094, 0);
        Assert.Equal(0, device.FindCapability(0x7F));
        Assert.Equal(0, device.FindExtendedCapability(0x7FFF));
        Assert.NotEqual(0, device.FindCapability(0x10));
        Assert.NotEqual(0, device.FindExtendedCapability(0x0E));
        var (_, plain) = await world.PlugAsync(new CardOptions { IsExpress = false });
        Assert.Equal(0, plain.FindExtendedCapability(0x0E));
    }

    [Fact]
    public async Task Driver_owns_the_dma_while_bound_and_the_function_reaches_its_memory_as_master_only()
    {
        var world = await PciWorld.NewAsync();
        DmaBuffer? buffer = null;
        var driver = new TestDriver(world, "card", Cards)
        {
            OnProbe = (device, id) =>
            {
                Assert.True(device.IommuGroup.TryAllocate(4096, out buffer, out _));
                device.Enable();
                return default;
            },
        };
        await world.Fabric.RegisterDriverAsync(driver);
        var (card, device) = await world.PlugAsync();
        Assert.Equal("driver card\n", world.Read(device.DevPath + "/dma_owner"));
        Assert.Equal("0000:01:00.0", device.Dma.Name);
        Assert.False(card.Write(buffer!.Address.Value, 1));
        Assert.False(device.Dma.IsBusMaster);
        device.SetMaster(true);
        Assert.True(card.Write(buffer.Address.Value, 0x12345678));
        Assert.Equal(0x12345678u, BitConverter.ToUInt32(buffer.Span));
        await world.Fabric.UnbindAsync(driver, device.Name);
        Assert.Equal("none\n", world.Read(device.DevPath + "/dma_owner"));
        device.SetMaster(true);
        Assert.False(card.Write(buffer.Address.Value, 2));
        Assert.Equal("1\n", world.Read(device.DevPath + "/dma_faults"));
        Assert.Equal($"0x{buffer.Address.Value:x} Write ENODEV\n", world.Read(device.DevPath + "/dma_last_fault"));
    }

    [Fact]
    public async Task Faults_are_told_by_events_a_few_at_a_time()
    {
        var clock = new Clock();
        var world = await PciWorld.NewAsync(new FabricOptions { Time = clock });
        var (card, device) = await world.PlugAsync();
        device.SetMaster(true);
        var before = world.Fabric.Uevents.Seqnum;
        for (var i = 0; i < 500; i++)
            card.Write(0x1000, 1);
        clock.Now = 1000;
        for (var i = 0; i < 500; i++)
            card.Write(0x1000, 1);
        var events = world.Fabric.Uevents.History(before);
        Assert.All(events, e => Assert.Equal(UeventAction.Change, e.Action));
        Assert.Equal(8, events.Count);
        string[] words = ["DMA_FAULT=0x1000", "DMA_FAULT_ACCESS=Write", "DMA_FAULT_REASON=ENODEV", "DMA_FAULTS=1"];
        Assert.Equal(words, events[0].Variables.Where(v => v.Key.StartsWith("DMA_", StringComparison.Ordinal)).Select(v => $"{v.Key}={v.Value}"));
        Assert.Equal("1000\n", world.Read(device.DevPath + "/dma_faults"));
    }

    [Fact]
    public async Task Function_that_a_user_owns_gets_no_driver_that_does_dma()
    {
        var world = await PciWorld.NewAsync();
        var (_, device) = await world.PlugAsync();
        var user = new object();
        Assert.True(device.IommuGroup.TryClaimForUser(user, "web1", out _));
        Assert.Equal("user web1\n", world.Read(device.DevPath + "/dma_owner"));
        var card = await world.RegisterAsync("card", Cards);
        var e = await Expect.RefusedAsync(Errno.EBUSY, () => world.Fabric.BindAsync(card, device.Name));
        Assert.Equal("Probe of 0000:01:00.0 by card failed: Device 0000:01:00.0 is owned by web1, so driver card can't have its DMA. Let that user close it first.", e.Message);
        // One that leaves the DMA to users may, and gets none itself.
        var vfio = new TestDriver(world, "users", Cards) { IsUsers = true };
        await world.Fabric.RegisterDriverAsync(vfio);
        Assert.Same(vfio, device.Driver);
        Assert.False(device.IommuGroup.TryAllocate(4096, out _, out var fault));
        Assert.Equal(Errno.EPERM, fault.Errno);
        Assert.Equal("user web1\n", world.Read(device.DevPath + "/dma_owner"));
        device.IommuGroup.ReleaseUser(user);
        Assert.False(device.IommuGroup.TryAllocate(4096, out _, out _));
        await world.Fabric.UnbindAsync(vfio, device.Name);
        await world.Fabric.BindAsync(card, device.Name);
        Assert.False(device.IommuGroup.TryClaimForUser(user, "web1", out fault));
        Assert.Equal(Errno.EBUSY, fault.Errno);
    }

    /// <summary>As in Linux: between the functions of one slot nothing keeps requests apart, so they have one owner.</summary>
    [Fact]
    public async Task Functions_of_one_slot_share_a_group_and_faults_are_told_of_the_one_that_made_them()
    {
        var world = await PciWorld.NewAsync();
        var one = await world.Bus.AddFunctionAsync(world.Host, new Card(new CardOptions()), 5, 0);
        var two = await world.Bus.AddFunctionAsync(world.Host, new Card(new CardOptions()), 5, 1);
        var far = await world.Bus.AddFunctionAsync(world.Host, new Card(new CardOptions()), 6, 0);
        Assert.Same(one.IommuGroup, two.IommuGroup);
        Assert.NotSame(one.IommuGroup, far.IommuGroup);
        var number = one.IommuGroup.Number;
        var devices = (TreeDirectory)world.Fabric.Tree.Find($"/kernel/iommu_groups/{number}/devices");
        Assert.Equal([one.Name, two.Name], devices.List().Select(n => n.Name));
        Assert.Contains($"{number}", ((TreeDirectory)world.Fabric.Tree.Find("/kernel/iommu_groups")).List().Select(n => n.Name));

        var user = new object();
        Assert.True(one.IommuGroup.TryClaimForUser(user, "web1", out _));
        Assert.Equal("user web1\n", world.Read(two.DevPath + "/dma_owner"));
        two.SetMaster(true);
        var before = world.Fabric.Uevents.Seqnum;
        Assert.False(two.Dma.TryWrite(new Iova(0x1000), [1]));
        Assert.Equal(("0\n", "1\n"), (world.Read(one.DevPath + "/dma_faults"), world.Read(two.DevPath + "/dma_faults")));
        Assert.Equal(two.DevPath, Assert.Single(world.Fabric.Uevents.History(before)).DevPath);
        one.IommuGroup.ReleaseUser(user);

        // The number is free when the last is out, and a function that comes back to a slot with others joins them.
        await world.Bus.UnplugAsync(one);
        one = await world.Bus.AddFunctionAsync(world.Host, new Card(new CardOptions()), 5, 0);
        Assert.Same(two.IommuGroup, one.IommuGroup);
        await world.Bus.UnplugAsync(one);
        await world.Bus.UnplugAsync(two);
        one = await world.Bus.AddFunctionAsync(world.Host, new Card(new CardOptions()), 5, 0);
        Assert.Equal(number, one.IommuGroup.Number);
        Assert.NotSame(two.IommuGroup, one.IommuGroup);
    }

    [Fact]
    public async Task Reset_clears_the_function_and_keeps_what_the_system_wrote()
    {
        var world = await PciWorld.NewAsync();
        var (card, device) = await world.PlugAsync();
        device.Enable();
        device.SetMaster(true);
        device.WriteConfig8(0x3C, 11);
        var hits = 0;
        device.AllocateVectors(2, 2)[1].SetHandler(() => hits++);
        var before = Config(device);
        device.GetRegion(0).Write32(0, 77);
        Assert.True(device.TryReset(out _));
        Assert.Equal(1, card.Resets);
        Assert.Equal(before, Config(device));
        Assert.Equal(0u, device.GetRegion(0).Read32(0));
        card.Raise(1);
        Assert.Equal(1, hits);
        Assert.True(device.Dma.IsBusMaster);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task Function_decodes_nothing_and_sends_nothing_when_its_reset_begins(bool ofItsOwn)
    {
        var world = await PciWorld.NewAsync();
        var (card, device) = await world.PlugAsync(new CardOptions { HasFunctionReset = ofItsOwn });
        device.Enable();
        device.SetMaster(true);
        var commands = new List<(int Resets, int Command)>();
        card.OnCommand = command => commands.Add((card.Resets, command & 0x407));
        Assert.True(device.TryReset(out _));
        Assert.Equal(1, card.Resets);
        // The line is off as well until it is restored.
        Assert.Equal([(0, 0x400), (1, 7)], commands);
        Assert.Equal(7, device.ReadConfig16(4) & 7);
    }

    [Fact]
    public async Task Function_without_a_reset_of_its_own_is_reset_by_its_slot_when_it_is_alone_there()
    {
        var world = await PciWorld.NewAsync();
        var (card, device) = await world.PlugAsync(new CardOptions { HasFunctionReset = false });
        Assert.Equal("bus\n", world.Read(device.DevPath + "/reset_method"));
        device.Enable();
        Assert.True(device.TryReset(out _));
        Assert.Equal(1, card.Resets);
        Assert.True(device.GetRegion(0).IsEnabled);
        var (neighbour, second) = (new Card(new CardOptions { IsExpress = false }), default(PciDevice));
        second = await world.Bus.AddFunctionAsync(device.Parent!, neighbour, 0, 1);
        Assert.False(device.TryReset(out var fault));
        Assert.Equal(Errno.ENOTTY, fault.Errno);
        Assert.DoesNotContain("reset", ((TreeDirectory)world.Fabric.Tree.Find(device.DevPath)).List().Select(n => n.Name));
        // Everything behind a port is reset by its Secondary Bus Reset.
        var port = (PciDevice)device.Parent!;
        port.WriteConfig16(0x3E, 0x40);
        port.WriteConfig16(0x3E, 0);
        Assert.Equal((2, 1), (card.Resets, neighbour.Resets));
        Assert.False(device.GetRegion(0).IsEnabled);
        await world.Bus.UnplugAsync(device);
        Assert.False(device.TryReset(out fault));
        Assert.Equal(Errno.ENODEV, fault.Errno);
    }

    [Fact]
    public async Task Reset_attribute_asks_the_driver_before_and_after()
    {
        var world = await PciWorld.NewAsync();
        await world.RegisterAsync("card", Cards);
        var (card, device) = await world.PlugAsync();
        Assert.Equal("flr bus\n", world.Read(device.DevPath + "/reset_method"));
        world.ClearCalls();
        await world.WriteAsync(device, "reset", "1");
        Assert.Equal(["card prepare 0000:01:00.0", "card done 0000:01:00.0"], world.Calls);
        Assert.Equal(1, card.Resets);
        await Expect.RefusedAsync(Errno.EINVAL, () => world.WriteAsync(device, "reset", "2"));
        await Expect.RefusedAsync(Errno.EINVAL, () => world.WriteAsync(device, "reset_method", "pm"));
        await world.WriteAsync(device, "reset_method", "bus");
        Assert.Equal("bus\n", world.Read(device.DevPath + "/reset_method"));
        await world.WriteAsync(device, "reset", "1");
        Assert.Equal(2, card.Resets);
        await world.WriteAsync(device, "reset_method", "");
        await Expect.RefusedAsync(Errno.ENOTTY, () => world.WriteAsync(device, "reset", "1"));
        await world.WriteAsync(device, "reset_method", "default");
        Assert.Equal("flr bus\n", world.Read(device.DevPath + "/reset_method"));
    }

    [Fact]
    public async Task Function_that_is_pulled_reads_as_ones_and_leaves_with_its_parts()
    {
        var world = await PciWorld.NewAsync();
        await world.RegisterAsync("pf", Cards);
        var seen = new List<bool>();
        var vf = new TestDriver(world, "vf", new PciDeviceId(0x1AF4, 0x10F6))
        {
            OnRemove = d =>
            {
                seen.Add(d.IsGone && d.GetRegion(0).Read32(0) == uint.MaxValue);
                return default;
            },
        };
        await world.Fabric.RegisterDriverAsync(vf);
        var (card, device) = await world.PlugAsync(new CardOptions { TotalVfs = 4 });
        await world.WriteAsync(device, "sriov_numvfs", "2");
        var part = device.VirtualFunctions[0];
        var region = device.GetRegion(0);
        world.ClearCalls();
        card.Pull();
        Assert.Equal((uint.MaxValue, uint.MaxValue, uint.MaxValue, uint.MaxValue), (region.Read32(0), device.ReadConfig32(0), part.GetRegion(0).Read32(0), part.ReadConfig32(0)));
        region.Write32(0, 1);
        device.WriteConfig32(4, 7);
        await world.Fabric.SettleAsync().In();
        Assert.Equal(["0000:00:01.0"], world.Bus.Devices.Select(d => d.Name));
        Assert.Equal("pf remove 0000:01:00.0", world.Calls[^1]);
        Assert.Equal([true, true], seen);
        Assert.Equal(3, world.Calls.Length);
        // It is not there, so nothing finds it; the slot takes the next card.
        await world.Bus.RescanAsync();
        Assert.Equal(1, world.Bus.DeviceCount);
        var (_, next) = await world.PlugAsync();
        Assert.Equal(device.Name, next.Name);
    }

    [Fact]
    public async Task Cards_may_be_pulled_at_any_moment_of_their_use()
    {
        var world = await PciWorld.NewAsync();
        await world.RegisterAsync("pf", Cards);
        for (var round = 0; round < 100; round++)
        {
            var (card, device) = await world.PlugAsync(new CardOptions { TotalVfs = 4 });
            device.AllocateVectors(2, 2)[0].SetHandler(() => { });
            var region = device.GetRegion(0);
            var start = new Barrier(4);
            var users = new[]
            {
                Use(() => region.Write32(Card.Message, 0)),
                Use(() => device.ReadConfig32(0)),
                Use(() => device.TryReset(out _)),
            };
            Assert.True(start.SignalAndWait(Deadline.Limit), "the others do not come");
            Thread.SpinWait(round * 50);
            card.Pull();
            await Task.WhenAll(users).In();
            await world.Fabric.SettleAsync().In();
            Assert.Equal(1, world.Bus.DeviceCount);
            Assert.Equal(DeviceState.Released, device.State);

            // Threads of their own: those of the pool may all be at work for other tests while these wait for each other.
            Task Use(Action access) => Task.Factory.StartNew(
                () =>
                {
                    Assert.True(start.SignalAndWait(Deadline.Limit), "the others do not come");
                    while (device.ReadConfig16(0) != 0xFFFF)
                        access();
                },
                TestContext.Current.CancellationToken,
                TaskCreationOptions.LongRunning,
                TaskScheduler.Default);
        }
    }

    [Fact]
    public void Removals_of_every_kind_meet_in_every_order_and_nothing_is_left()
    {
        for (ulong seed = 1; seed <= 150; seed++)
        {
            var scheduler = new SeededScheduler(seed);
            scheduler.Run(async () =>
            {
                var world = await PciWorld.NewAsync(new FabricOptions { Scheduler = scheduler });
                await world.RegisterAsync("pf", Cards);
                await world.RegisterAsync("vf", new PciDeviceId(0x1AF4, 0x10F6));
                var (card, device) = await world.PlugAsync(new CardOptions { TotalVfs = 4 });
                var works = new List<Task>
                {
                    scheduler.Start(() => Allow(() => world.WriteAsync(device, "sriov_numvfs", "3"))),
                    scheduler.Start(() => Allow(() => world.WriteAsync(device, "remove", "1"))),
                    scheduler.Start(() => Allow(() => world.Bus.RescanAsync())),
                    scheduler.Start(() => Allow(() => world.WriteAsync(device, "sriov_numvfs", "0"))),
                };
                if (seed % 2 == 0)
                    works.Add(scheduler.Start(() => Allow(() => world.Bus.SurpriseRemoveAsync(device))));
                if (seed % 3 == 0)
                {
                    works.Add(scheduler.Start(() =>
                    {
                        card.Pull();
                        return Task.CompletedTask;
                    }));
                }
                foreach (var work in works)
                    await work;
                await world.Fabric.SettleAsync();
                // What was removed is still in its slot, unless it was pulled.
                await world.Bus.RescanAsync();
                if (world.Bus.Find(device.Address) is { } left)
                    await world.Bus.UnplugAsync(left);
                Assert.Equal(["0000:00:01.0"], world.Bus.Devices.Select(d => d.Name));
                Assert.Equal(DeviceState.Released, device.State);
                // A card that was pulled can't be told to disable them; its maker disposes it.
                card.Dispose();
                Assert.Empty(card.VirtualFunctions);
                // Place, addresses and groups are free again.
                var (_, next) = await world.PlugAsync();
                Assert.Equal(("0000:01:00.0", 1), (next.Name, next.IommuGroup.Number));
            });
        }

        static async Task Allow(Func<ValueTask> call)
        {
            try
            {
                await call();
            }
            catch (VirtbusException e) when (e.Errno is Errno.ENODEV or Errno.ENOENT or Errno.EBUSY or Errno.EINVAL or Errno.EIO)
            {
                // Another removal was first.
            }
        }
    }

    private sealed class Clock : TimeProvider
    {
        public long Now { get; set; }

        public override long TimestampFrequency => 1000;

        public override long GetTimestamp() => Now;
    }

    private static byte[] Config(PciDevice device)
    {
        var bytes = new byte[device.ConfigSize];
        device.ReadConfig(0, bytes);
        return bytes;
    }
}
