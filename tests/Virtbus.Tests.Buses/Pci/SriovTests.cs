using Virtbus.Buses.Pci;
using Virtbus.Core;
using Virtbus.Platform;

namespace Virtbus.Tests.Buses.Pci;

/// <summary>Virtual functions: the rules of sriov_numvfs, where they are, who takes them away.</summary>
public sealed class SriovTests
{
    private static readonly PciDeviceId Cards = new(0x1AF4, 0x10F5);
    private static readonly PciDeviceId Parts = new(0x1AF4, 0x10F6);

    [Theory]
    [InlineData(0, "4", null)]
    [InlineData(0, "8", null)]
    [InlineData(0, "0", null)]
    [InlineData(4, "4", null)]
    [InlineData(4, "0", null)]
    [InlineData(4, "2", Errno.EBUSY)]
    [InlineData(4, "8", Errno.EBUSY)]
    [InlineData(0, "9", Errno.ERANGE)]
    [InlineData(4, "9", Errno.ERANGE)]
    [InlineData(0, "70000", Errno.ERANGE)]
    [InlineData(0, "many", Errno.EINVAL)]
    [InlineData(0, "-1", Errno.EINVAL)]
    [InlineData(0, "", Errno.EINVAL)]
    public async Task Number_of_functions_follows_the_kernels_rules(int before, string value, Errno? errno)
    {
        var world = await PciWorld.NewAsync();
        await world.RegisterAsync("pf", Cards);
        var (card, device) = await world.PlugAsync(new CardOptions { TotalVfs = 8 });
        await world.WriteAsync(device, "sriov_numvfs", $"{before}");
        if (errno is { } refused)
        {
            await Expect.RefusedAsync(refused, () => world.WriteAsync(device, "sriov_numvfs", value));
            value = $"{before}";
        }
        else
        {
            await world.WriteAsync(device, "sriov_numvfs", value);
        }
        Assert.Equal(value + "\n", world.Read(device.DevPath + "/sriov_numvfs"));
        Assert.Equal(value, $"{device.VirtualFunctions.Count}");
        Assert.Equal(value, $"{card.VirtualFunctions.Count}");
    }

    [Fact]
    public async Task Without_a_driver_or_with_one_that_does_not_do_it_nothing_is_enabled()
    {
        var world = await PciWorld.NewAsync();
        var (_, device) = await world.PlugAsync(new CardOptions { TotalVfs = 8 });
        var e = await Expect.RefusedAsync(Errno.ENOENT, () => world.WriteAsync(device, "sriov_numvfs", "2"));
        Assert.Equal("Device 0000:01:00.0 has no driver, which would enable its virtual functions. Bind one first.", e.Message);
        await world.Fabric.RegisterDriverAsync(new TestDriver(world, "plain", Cards) { HasVirtualFunctions = false });
        e = await Expect.RefusedAsync(Errno.ENOENT, () => world.WriteAsync(device, "sriov_numvfs", "2"));
        Assert.Equal("Driver plain of 0000:01:00.0 enables no virtual functions. Bind one that does.", e.Message);
        // As many as there are is no change, whoever asks.
        await world.WriteAsync(device, "sriov_numvfs", "0");
        var (_, single) = await world.PlugAsync();
        Assert.DoesNotContain(List(world, single), n => n.StartsWith("sriov_", StringComparison.Ordinal));
        await Expect.RefusedAsync(Errno.ENOSYS, () => single.SetVirtualFunctionsAsync(1));
        await Expect.RefusedAsync(Errno.ERANGE, () => device.SetVirtualFunctionsAsync(9));
    }

    [Fact]
    public async Task Functions_hang_beside_their_physical_one_with_its_ids_and_groups_of_their_own()
    {
        var world = await PciWorld.NewAsync();
        await world.RegisterAsync("pf", Cards);
        await world.RegisterAsync("vf", Parts);
        var (card, device) = await world.PlugAsync(new CardOptions { TotalVfs = 8, VfOffset = 2, VfStride = 3 });
        await world.WriteAsync(device, "sriov_numvfs", "3");
        var functions = device.VirtualFunctions;
        Assert.Equal(["0000:01:00.2", "0000:01:00.5", "0000:01:01.0"], functions.Select(f => f.Name));
        Assert.Equal(["/devices/pci0000:00/0000:00:01.0/0000:01:00.2", "/devices/pci0000:00/0000:00:01.0/0000:01:01.0"], [functions[0].DevPath, functions[2].DevPath]);
        foreach (var (function, index) in functions.Select((f, i) => (f, i)))
        {
            Assert.Equal("vf", function.Driver?.Name);
            Assert.Equal((0x1AF4, 0x10F6, 0x1AF4, 0x1100, 0x020000u), (function.VendorId, function.DeviceId, function.SubsystemVendorId, function.SubsystemId, function.ClassCode));
            Assert.Equal(0x10F61AF4u, function.ReadConfig32(0));
            Assert.Equal(0x10F6, function.ReadConfig16(2));
            Assert.Same(device, function.PhysicalFunction);
            Assert.Equal(index, function.VirtualFunctionIndex);
            Assert.Equal(card.GetVirtualBarAddress(0) + ((ulong)index * 0x4000), function.GetRegion(0).Start);
            Assert.NotSame(device.IommuGroup, function.IommuGroup);
            Assert.Equal(device.DevPath, Link(world, function, "physfn"));
            Assert.Equal(function.DevPath, Link(world, device, $"virtfn{index}"));
            Assert.Equal($"/kernel/iommu_groups/{function.IommuGroup.Number}", Link(world, function, "iommu_group"));
            Assert.Equal(function.DevPath, ((TreeLink)world.Fabric.Tree.Find($"/kernel/iommu_groups/{function.IommuGroup.Number}/devices/{function.Name}", follow: false)).Target);
        }
        Assert.Equal(4, functions.Append(device).Select(f => f.IommuGroup.Number).Distinct().Count());
        // Each has registers of its own.
        functions[0].GetRegion(0).Write32(0, 1);
        functions[1].GetRegion(0).Write32(0, 2);
        Assert.Equal([1u, 2u, 0u], functions.Select(f => f.GetRegion(0).Read32(0)));
        Assert.Equal("2\n", world.Read(device.DevPath + "/sriov_offset"));
        Assert.Equal("3\n", world.Read(device.DevPath + "/sriov_stride"));
        Assert.Equal("10f6\n", world.Read(device.DevPath + "/sriov_vf_device"));
        Assert.Equal("8\n", world.Read(device.DevPath + "/sriov_totalvfs"));
        Assert.Equal("0\n", world.Read(device.DevPath + "/sriov_vf_total_msix"));
    }

    [Fact]
    public async Task Events_tell_of_the_functions_and_then_of_the_change()
    {
        var world = await PciWorld.NewAsync();
        await world.RegisterAsync("pf", Cards);
        await world.RegisterAsync("vf", Parts);
        var (_, device) = await world.PlugAsync(new CardOptions { TotalVfs = 8 });
        var before = world.Fabric.Uevents.Seqnum;
        await world.WriteAsync(device, "sriov_numvfs", "2");
        Assert.Equal(["add 0000:01:00.1", "add 0000:01:00.2", "change 0000:01:00.0"], world.Events(before).Where(e => !e.StartsWith("bind", StringComparison.Ordinal)));
        before = world.Fabric.Uevents.Seqnum;
        await world.WriteAsync(device, "sriov_numvfs", "0");
        Assert.Equal(
            ["unbind 0000:01:00.2", "remove 0000:01:00.2", "unbind 0000:01:00.1", "remove 0000:01:00.1", "change 0000:01:00.0"], world.Events(before));
    }

    [Fact]
    public async Task Functions_may_spill_to_the_next_bus_number_where_it_is_free()
    {
        var world = await PciWorld.NewAsync();
        await world.RegisterAsync("pf", Cards);
        var (_, device) = await world.PlugAsync(new CardOptions { TotalVfs = 256 });
        await world.WriteAsync(device, "sriov_numvfs", "256");
        Assert.Equal("0000:01:1f.7", device.VirtualFunctions[254].Name);
        Assert.Equal("0000:02:00.0", device.VirtualFunctions[255].Name);
        Assert.Equal("/devices/pci0000:00/0000:00:01.0/0000:02:00.0", device.VirtualFunctions[255].DevPath);

        // More than a port has: the numbers behind it are taken when nobody has them.
        var (_, wide) = await world.PlugAsync(new CardOptions { TotalVfs = 256, VfStride = 2 });
        await world.WriteAsync(wide, "sriov_numvfs", "256");
        Assert.Equal("0000:03:00.0", wide.Name);
        Assert.Equal("0000:04:1f.7", wide.VirtualFunctions[255].Name);
        await world.WriteAsync(wide, "sriov_numvfs", "0");
        var (_, wider) = await world.PlugAsync(new CardOptions { TotalVfs = 256, VfStride = 3 });
        await world.WriteAsync(wider, "sriov_numvfs", "256");
        Assert.Equal("0000:07:1f.6", wider.VirtualFunctions[255].Name);
        Assert.Equal(7, ((PciDevice)wider.Parent!).ReadConfig8(0x1A));
    }

    [Fact]
    public async Task Functions_whose_bus_number_belongs_to_another_port_are_refused()
    {
        var world = await PciWorld.NewAsync();
        await world.RegisterAsync("pf", Cards);
        var (card, device) = await world.PlugAsync(new CardOptions { TotalVfs = 256, VfStride = 3 });
        await world.PlugAsync();
        var e = await Expect.RefusedAsync(Errno.ENOSPC, () => world.WriteAsync(device, "sriov_numvfs", "256"));
        Assert.Equal("Device 0000:01:00.0: virtual function 171 would be on bus 03, which is not free. Plug the device behind another port.", e.Message);
        Assert.Empty(card.VirtualFunctions);
        Assert.Empty(device.VirtualFunctions);
        // What was taken on the way is free again.
        await world.WriteAsync(device, "sriov_numvfs", "170");
        Assert.Equal(170, device.VirtualFunctions.Count);
    }

    [Fact]
    public async Task Functions_of_a_device_on_the_root_bus_do_not_take_another_ones_place()
    {
        var world = await PciWorld.NewAsync();
        await world.RegisterAsync("pf", Cards);
        var device = await world.Bus.AddFunctionAsync(world.Host, new Card(new CardOptions { TotalVfs = 16 }));
        var other = await world.Bus.AddFunctionAsync(world.Host, new Card(new CardOptions()), 2);
        var e = await Expect.RefusedAsync(Errno.EEXIST, () => world.WriteAsync(device, "sriov_numvfs", "16"));
        Assert.Equal("Device 0000:00:01.0: virtual function 7 would be at 0000:00:02.0, which is taken. Plug the device behind a port of its own.", e.Message);
        await world.Bus.UnplugAsync(other);
        await world.WriteAsync(device, "sriov_numvfs", "16");
        // A new function keeps clear of them.
        Assert.Equal("0000:00:04.0", (await world.Bus.AddFunctionAsync(world.Host, new Card(new CardOptions()))).Name);
    }

    [Fact]
    public async Task Unbound_physical_driver_leaves_no_functions_even_when_it_forgets_them()
    {
        var world = await PciWorld.NewAsync();
        var driver = await world.RegisterAsync("pf", Cards);
        await world.RegisterAsync("vf", Parts);
        var (card, device) = await world.PlugAsync(new CardOptions { TotalVfs = 8 });
        await world.WriteAsync(device, "sriov_numvfs", "4");
        world.ClearCalls();
        await world.Fabric.UnbindAsync(driver, device.Name);
        Assert.Empty(device.VirtualFunctions);
        Assert.Empty(card.VirtualFunctions);
        Assert.Equal("pf remove 0000:01:00.0", world.Calls[0]);
        Assert.Equal(4, world.Calls.Count(c => c.StartsWith("vf remove", StringComparison.Ordinal)));

        var forgetful = new Forgetful(world.Bus);
        await world.WriteAsync(device, "driver_override", "forgetful");
        await world.Fabric.RegisterDriverAsync(forgetful);
        await world.WriteAsync(device, "sriov_numvfs", "4");
        await world.Fabric.UnregisterDriverAsync(forgetful);
        Assert.Empty(device.VirtualFunctions);
        Assert.Empty(card.VirtualFunctions);
        Assert.Contains(world.Lines.Lines, l => l.Contains("driver forgetful left 4 virtual functions", StringComparison.Ordinal));
    }

    [Fact]
    public async Task Removal_of_the_physical_function_takes_the_virtual_ones_out_first()
    {
        var world = await PciWorld.NewAsync();
        await world.RegisterAsync("pf", Cards);
        await world.RegisterAsync("vf", Parts);
        var (_, device) = await world.PlugAsync(new CardOptions { TotalVfs = 8 });
        await world.WriteAsync(device, "sriov_numvfs", "2");
        world.ClearCalls();
        await world.WriteAsync(device, "remove", "1");
        Assert.Equal(["vf remove 0000:01:00.2", "vf remove 0000:01:00.1", "pf remove 0000:01:00.0"], world.Calls);
        Assert.Equal(["0000:00:01.0"], world.Bus.Devices.Select(d => d.Name));
        // They come back as a fresh function has them: none.
        await world.Bus.RescanAsync();
        Assert.Equal("0\n", world.Read("/bus/pci/devices/0000:01:00.0/sriov_numvfs"));
        // The core's own removal keeps the order too.
        var again = world.Bus.Find(device.Address)!;
        await world.WriteAsync(again, "sriov_numvfs", "2");
        world.ClearCalls();
        await world.Fabric.DeleteAsync(world.Host);
        Assert.Equal(["vf remove 0000:01:00.2", "vf remove 0000:01:00.1", "pf remove 0000:01:00.0"], world.Calls);
    }

    [Fact]
    public async Task Functions_take_no_driver_by_themselves_when_that_is_turned_off()
    {
        var world = await PciWorld.NewAsync();
        await world.RegisterAsync("pf", Cards);
        var vf = await world.RegisterAsync("vf", Parts);
        var (_, device) = await world.PlugAsync(new CardOptions { TotalVfs = 8 });
        await world.WriteAsync(device, "sriov_drivers_autoprobe", "0");
        await world.WriteAsync(device, "sriov_numvfs", "2");
        Assert.All(device.VirtualFunctions, f => Assert.Null(f.Driver));
        var e = await Expect.RefusedAsync(Errno.ENODEV, () => world.Fabric.BindAsync(vf, "0000:01:00.1"));
        Assert.Contains("sriov_drivers_autoprobe of 0000:01:00.0 is 0", e.Message, StringComparison.Ordinal);
        await world.WriteAsync(device.VirtualFunctions[0], "driver_override", "vf");
        await world.Fabric.BindAsync(vf, "0000:01:00.1");
        await world.WriteAsync(device, "sriov_drivers_autoprobe", "1");
        await world.Fabric.BindAsync(vf, "0000:01:00.2");
        Assert.All(device.VirtualFunctions, f => Assert.Same(vf, f.Driver));
    }

    [Fact]
    public async Task Function_is_prepared_before_anybody_sees_it()
    {
        var world = await PciWorld.NewAsync();
        await world.RegisterAsync("vf", Parts);
        await world.RegisterAsync("special");
        var driver = new TestDriver(world, "pf", Cards)
        {
            OnProbe = async (device, _) => await device.SetVirtualFunctionsAsync(2, function =>
            {
                Assert.Equal(DeviceState.Initialized, function.State);
                Assert.Null(world.Bus.Find(function.Address));
                // The hardware behind is there already.
                function.GetRegion(0).Write32(0, 0x40u + (uint)function.VirtualFunctionIndex);
                if (function.VirtualFunctionIndex == 1)
                    world.Fabric.SetDriverOverride(function, "special");
                return default;
            }),
        };
        await world.Fabric.RegisterDriverAsync(driver);
        var (_, device) = await world.PlugAsync(new CardOptions { TotalVfs = 8 });
        Assert.Equal(["vf", "special"], device.VirtualFunctions.Select(f => f.Driver?.Name));
        Assert.Equal([0x40u, 0x41u], device.VirtualFunctions.Select(f => f.GetRegion(0).Read32(0)));
    }

    [Fact]
    public async Task Preparation_that_fails_enables_nothing()
    {
        var world = await PciWorld.NewAsync();
        await world.RegisterAsync("pf", Cards);
        var (card, device) = await world.PlugAsync(new CardOptions { TotalVfs = 8 });
        await Expect.RefusedAsync(Errno.EINVAL, () => device.SetVirtualFunctionsAsync(4, f => f.VirtualFunctionIndex == 2 ? throw new VirtbusException(Errno.EINVAL, "no profile") : default));
        Assert.Empty(card.VirtualFunctions);
        Assert.Empty(device.VirtualFunctions);
        await device.SetVirtualFunctionsAsync(4);
        Assert.Equal(4, device.VirtualFunctions.Count);
    }

    [Fact]
    public async Task Vectors_are_shared_out_by_the_physical_driver_to_functions_without_a_driver()
    {
        var world = await PciWorld.NewAsync();
        var plain = await world.RegisterAsync("pf", Cards);
        var (_, device) = await world.PlugAsync(new CardOptions { TotalVfs = 8 });
        await world.WriteAsync(device, "sriov_numvfs", "2");
        var function = device.VirtualFunctions[1];
        await Expect.RefusedAsync(Errno.EOPNOTSUPP, () => world.WriteAsync(function, "sriov_vf_msix_count", "5"));
        await world.Fabric.UnregisterDriverAsync(plain);
        var given = new List<string>();
        await world.Fabric.RegisterDriverAsync(new TestDriver(world, "sharing", Cards) { OnVectors = (f, count) => given.Add($"{f.Name} {count}") });
        await world.WriteAsync(device, "sriov_numvfs", "2");
        function = device.VirtualFunctions[1];
        await world.WriteAsync(function, "sriov_vf_msix_count", "5");
        Assert.Equal(["0000:01:00.2 5"], given);
        Assert.Equal("64\n", world.Read(device.DevPath + "/sriov_vf_total_msix"));
        await Expect.RefusedAsync(Errno.EINVAL, () => world.WriteAsync(function, "sriov_vf_msix_count", "-5"));
        await world.RegisterAsync("vf", Parts);
        await Expect.RefusedAsync(Errno.EBUSY, () => world.WriteAsync(function, "sriov_vf_msix_count", "6"));
        Assert.Single(given);
    }

    [Fact]
    public async Task Reset_of_the_physical_function_brings_its_functions_back()
    {
        var world = await PciWorld.NewAsync();
        await world.RegisterAsync("pf", Cards);
        await world.RegisterAsync("vf", Parts);
        var (card, device) = await world.PlugAsync(new CardOptions { TotalVfs = 8 });
        await world.WriteAsync(device, "sriov_numvfs", "2");
        var region = device.VirtualFunctions[1].GetRegion(0);
        region.Write32(0, 7);
        Assert.True(device.TryReset(out _));
        Assert.Equal(2, card.VirtualFunctions.Count);
        Assert.Same(card.VirtualFunctions[1], device.VirtualFunctions[1].Function);
        Assert.Equal(0u, region.Read32(0));
        region.Write32(0, 8);
        Assert.Equal(8u, region.Read32(0));
    }

    [Fact]
    public async Task Reset_attribute_of_the_physical_function_tells_the_drivers_of_all_and_keeps_their_number()
    {
        var world = await PciWorld.NewAsync();
        await world.RegisterAsync("pf", Cards);
        await world.RegisterAsync("vf", Parts);
        var (card, device) = await world.PlugAsync(new CardOptions { TotalVfs = 8 });
        await world.WriteAsync(device, "sriov_numvfs", "2");
        var functions = device.VirtualFunctions.ToArray();
        world.ClearCalls();
        await world.WriteAsync(device, "reset", "1");
        Assert.Equal(
            [
                "vf prepare 0000:01:00.1", "vf prepare 0000:01:00.2", "pf prepare 0000:01:00.0",
                "pf done 0000:01:00.0", "vf done 0000:01:00.2", "vf done 0000:01:00.1",
            ],
            world.Calls);
        Assert.Equal("2\n", world.Read(device.DevPath + "/sriov_numvfs"));
        Assert.Equal(functions, device.VirtualFunctions);
        Assert.Equal(card.VirtualFunctions, functions.Select(f => f.Function));
    }

    [Fact]
    public async Task Function_that_leaves_already_is_waited_for_by_a_reset_of_its_physical_one_and_passed_over()
    {
        var world = await PciWorld.NewAsync();
        await world.RegisterAsync("pf", Cards);
        var driver = await world.RegisterAsync("vf", Parts);
        var (card, device) = await world.PlugAsync(new CardOptions { TotalVfs = 8 });
        await world.WriteAsync(device, "sriov_numvfs", "2");
        var isLeaving = new TaskCompletionSource();
        var mayLeave = new TaskCompletionSource();
        driver.OnRemove = async _ =>
        {
            isLeaving.SetResult();
            await mayLeave.Task;
        };
        var removal = world.WriteAsync(device.VirtualFunctions[0], "remove", "1").AsTask();
        await isLeaving.Task.In();
        driver.OnRemove = null;
        world.ClearCalls();
        var reset = world.WriteAsync(device, "reset", "1").AsTask();
        Assert.False(reset.IsCompleted);
        mayLeave.SetResult();
        await Task.WhenAll(removal, reset).In();
        Assert.Equal(["vf prepare 0000:01:00.2", "pf prepare 0000:01:00.0", "pf done 0000:01:00.0", "vf done 0000:01:00.2"], world.Calls);
        Assert.Equal(2, card.VirtualFunctions.Count);
    }

    [Theory]
    [InlineData("numvfs", "vf remove 0000:01:00.2", "vf remove 0000:01:00.1")]
    [InlineData("unbind", "vf remove 0000:01:00.1")]
    [InlineData("remove", "vf remove 0000:01:00.1")]
    public async Task Function_that_is_to_leave_while_its_physical_one_is_reset_leaves_afterwards(string way, params string[] calls)
    {
        var world = await PciWorld.NewAsync();
        var physical = await world.RegisterAsync("pf", Cards);
        var driver = await world.RegisterAsync("vf", Parts);
        var (card, device) = await world.PlugAsync(new CardOptions { TotalVfs = 8 });
        await world.WriteAsync(device, "sriov_numvfs", "2");
        var function = device.VirtualFunctions[0];
        var isBegun = new TaskCompletionSource();
        var mayGoOn = new TaskCompletionSource();
        physical.OnPrepareReset = async _ =>
        {
            isBegun.SetResult();
            await mayGoOn.Task;
        };
        world.ClearCalls();
        var reset = world.WriteAsync(device, "reset", "1").AsTask();
        await isBegun.Task.In();
        var leave = way switch
        {
            "numvfs" => world.WriteAsync(device, "sriov_numvfs", "0").AsTask(),
            "unbind" => world.Fabric.UnbindAsync(driver, function.Name).AsTask(),
            _ => world.WriteAsync(function, "remove", "1").AsTask(),
        };
        Assert.Equal((3, false, false), (world.Calls.Length, leave.IsCompleted, reset.IsCompleted));
        mayGoOn.SetResult();
        await Task.WhenAll(reset, leave).In();
        Assert.Equal(
            [
                "vf prepare 0000:01:00.1", "vf prepare 0000:01:00.2", "pf prepare 0000:01:00.0",
                "pf done 0000:01:00.0", "vf done 0000:01:00.2", "vf done 0000:01:00.1", .. calls,
            ],
            world.Calls);
        Assert.Equal(way == "numvfs" ? 0 : 2, card.VirtualFunctions.Count);
        Assert.Equal(card.VirtualFunctions.Count, device.VirtualFunctions.Count);
        Assert.Null(function.Driver);
    }

    [Fact]
    public async Task Card_that_is_pulled_while_it_is_reset_ends_the_reset_and_leaves_nothing()
    {
        var world = await PciWorld.NewAsync();
        var physical = await world.RegisterAsync("pf", Cards);
        await world.RegisterAsync("vf", Parts);
        var (card, device) = await world.PlugAsync(new CardOptions { TotalVfs = 8 });
        await world.WriteAsync(device, "sriov_numvfs", "2");
        var isBegun = new TaskCompletionSource();
        var mayGoOn = new TaskCompletionSource();
        physical.OnPrepareReset = async _ =>
        {
            isBegun.SetResult();
            await mayGoOn.Task;
        };
        var reset = world.WriteAsync(device, "reset", "1").AsTask();
        await isBegun.Task.In();
        world.ClearCalls();
        card.Pull();
        mayGoOn.SetResult();
        await Expect.RefusedAsync(Errno.ENODEV, () => new ValueTask(reset));
        await Task.Run(() => Deadline.Until(() => world.Bus.Devices.Count == 1, "the end of the card"));
        Assert.Equal(["pf done 0000:01:00.0", "vf done 0000:01:00.2", "vf done 0000:01:00.1"], world.Calls[..3]);
        Assert.Equal(3, world.Calls.Count(c => c.Contains(" remove ", StringComparison.Ordinal)));
    }

    [Fact]
    public async Task Renewed_functions_are_others_behind_the_same_devices()
    {
        var world = await PciWorld.NewAsync();
        await world.RegisterAsync("pf", Cards);
        await world.RegisterAsync("vf", Parts);
        var (card, device) = await world.PlugAsync(new CardOptions { TotalVfs = 8 });
        await world.WriteAsync(device, "sriov_numvfs", "2");
        var functions = device.VirtualFunctions.ToArray();
        functions[0].GetRegion(0).Write32(0, 7);
        var between = -1;
        device.RenewVirtualFunctions(() => between = card.VirtualFunctions.Count);
        Assert.Equal((0, 2), (between, card.VirtualFunctions.Count));
        Assert.Equal(functions, device.VirtualFunctions);
        Assert.Equal(card.VirtualFunctions, functions.Select(f => f.Function));
        Assert.Equal(0u, functions[0].GetRegion(0).Read32(0));
    }

    [Fact]
    public async Task Two_hundred_and_fifty_six_functions_are_there_and_bound()
    {
        var world = await PciWorld.NewAsync();
        await world.RegisterAsync("pf", Cards);
        await world.RegisterAsync("vf", Parts);
        var (_, device) = await world.PlugAsync(new CardOptions { TotalVfs = 256 });
        await world.WriteAsync(device, "sriov_numvfs", "256");
        Assert.All(device.VirtualFunctions, f => Assert.Equal("vf", f.Driver?.Name));
        await world.WriteAsync(device, "sriov_numvfs", "0");
        Assert.Equal(2, world.Bus.DeviceCount);
    }

    private static string Link(PciWorld world, Device device, string name) =>
        ((TreeLink)world.Fabric.Tree.Find($"{device.DevPath}/{name}", follow: false)).Target;

    private static IEnumerable<string> List(PciWorld world, Device device) =>
        ((TreeDirectory)world.Fabric.Tree.Find(device.DevPath)).List().Select(n => n.Name);

    private sealed class Forgetful(PciBus bus) : PciDriver(bus, "forgetful")
    {
        public override Func<PciDevice, int, ValueTask>? ConfigureVirtualFunctions => static (device, count) => device.SetVirtualFunctionsAsync(count);
    }
}
