using Virtbus.Buses.Auxiliary;
using Virtbus.Buses.Pci;
using Virtbus.Core;
using Virtbus.Pci;
using Virtbus.Platform;
using Virtbus.Provisioning;

namespace Virtbus.Tests.Buses.Pci;

/// <summary>Where things are in the tree, what addresses they get, and how they come and go (DM-15, DM-16, VB-20).</summary>
public sealed class TopologyTests
{
    private static readonly PciDeviceId Cards = new(0x1AF4, 0x10F5);
    private static readonly PciDeviceId Parts = new(0x1AF4, 0x10F6);

    [Fact]
    public async Task Adapters_sit_on_buses_of_their_own_behind_ports_with_linuxs_paths()
    {
        var world = await PciWorld.NewAsync();
        var (_, first) = await world.PlugAsync();
        var (_, second) = await world.PlugAsync();
        Assert.Equal("/devices/pci0000:00/0000:00:01.0/0000:01:00.0", first.DevPath);
        Assert.Equal("/devices/pci0000:00/0000:00:02.0/0000:03:00.0", second.DevPath);
        Assert.Equal(["0000:00:01.0", "0000:00:02.0"], world.Host.Children.Select(c => c.Name));
        var port = (PciDevice)first.Parent!;
        Assert.True(port.IsBridge);
        Assert.Equal("1\n", world.Read(port.DevPath + "/secondary_bus_number"));
        Assert.Equal("2\n", world.Read(port.DevPath + "/subordinate_bus_number"));
        Assert.Equal(0x060400u, port.ClassCode);
        Assert.Same(first, world.Bus.Find(first.Address));
    }

    [Fact]
    public async Task Function_on_the_root_bus_takes_the_lowest_free_slot()
    {
        var world = await PciWorld.NewAsync();
        var one = await world.Bus.AddFunctionAsync(world.Host, new Card(new CardOptions()));
        var far = await world.Bus.AddFunctionAsync(world.Host, new Card(new CardOptions()), device: 3, functionNumber: 2);
        var two = await world.Bus.AddFunctionAsync(world.Host, new Card(new CardOptions()));
        Assert.Equal(["0000:00:01.0", "0000:00:03.2", "0000:00:02.0"], [one.Name, far.Name, two.Name]);
        var four = await world.Bus.AddFunctionAsync(world.Host, new Card(new CardOptions()));
        Assert.Equal("0000:00:04.0", four.Name);
    }

    [Fact]
    public async Task Functions_that_come_back_side_by_side_each_have_their_place()
    {
        const int Rounds = 2000;
        string[] places = ["0000:0b:00.0", "0000:05:00.0", "0000:09:00.0", "0000:03:00.0"];
        for (var round = 0; round < Rounds; round++)
        {
            var world = await PciWorld.NewAsync();
            var plugs = Task.WhenAll(places.Select(place => Task.Run(async () => await world.Bus.PlugAsync(
                new Card(new CardOptions()), place: PciAddress.TryParse(place, out var wanted) ? wanted : null))));
            await plugs.EndsAsync("the plugs");
            Assert.Equal(places, (await plugs).Select(static d => d.Name));
        }
    }

    [Fact]
    public async Task Places_that_are_taken_or_are_none_are_refused_and_leave_nothing()
    {
        var world = await PciWorld.NewAsync();
        var (_, device) = await world.PlugAsync();
        var card = new Card(new CardOptions());
        var count = world.Bus.DeviceCount;
        var e = await Expect.RefusedAsync(Errno.EEXIST, async () => await world.Bus.AddFunctionAsync(world.Host, card, 1));
        Assert.Equal("Slot 0000:00:01.0 is taken. Unplug what is there or choose another one.", e.Message);
        e = await Expect.RefusedAsync(Errno.ENOSPC, async () => await world.Bus.AddFunctionAsync(device.Parent!, card));
        Assert.Equal("Every slot of 0000:00:01.0 is taken. Unplug a device or add a port.", e.Message);
        e = await Expect.RefusedAsync(Errno.EINVAL, async () => await world.Bus.AddFunctionAsync(device, card));
        Assert.Equal("Device 0000:01:00.0 is no bridge of this PCI bus. Name a host bridge or a port.", e.Message);
        await Expect.RefusedAsync(Errno.EINVAL, async () => await world.Bus.AddFunctionAsync(world.Host, card, 32));
        await Expect.RefusedAsync(Errno.EEXIST, async () => await world.Bus.AddHostBridgeAsync());
        card.Dispose();
        e = await Expect.RefusedAsync(Errno.ENODEV, async () => await world.Bus.AddFunctionAsync(world.Host, new Nothing()));
        Assert.Equal("Nothing answers at 0000:00:02.0: the function's vendor id reads as none.", e.Message);
        Assert.Equal(count, world.Bus.DeviceCount);
        // The place is free again.
        Assert.Equal("0000:00:02.0", (await world.Bus.AddFunctionAsync(world.Host, new Card(new CardOptions()))).Name);
    }

    [Fact]
    public async Task Bars_are_sized_by_their_registers_and_get_aligned_addresses_inside_the_windows_of_the_port()
    {
        var world = await PciWorld.NewAsync();
        var (card, device) = await world.PlugAsync(new CardOptions { TotalVfs = 8 });
        var memory = device.GetRegion(0);
        Assert.Equal(card.GetBar(0), memory.Bar);
        Assert.Equal(0UL, memory.Start % memory.Bar.Size);
        Assert.Equal(card.GetBarAddress(0), memory.Start);
        Assert.Equal(card.GetBar(2), device.GetRegion(2).Bar);
        Assert.Equal(card.GetBarAddress(2), device.GetRegion(2).Start);
        Assert.Equal(0UL, device.GetRegion(1).Bar.Size);
        Assert.Equal(card.GetBar(PciBar.Rom), device.GetRegion(PciBar.Rom).Bar);
        Assert.Equal(card.GetBarAddress(PciBar.Rom), device.GetRegion(PciBar.Rom).Start);
        Assert.NotEqual(0UL, card.GetVirtualBarAddress(0));

        var port = (PciDevice)device.Parent!;
        var window = ((ulong)port.ReadConfig32(0x28) << 32) | ((ulong)(port.ReadConfig16(0x24) & 0xFFF0) << 16);
        var limit = ((ulong)port.ReadConfig32(0x2C) << 32) | ((ulong)(port.ReadConfig16(0x26) & 0xFFF0) << 16) | 0xFFFFF;
        Assert.InRange(memory.Start, window, limit - memory.Bar.Size + 1);
        Assert.InRange(card.GetVirtualBarAddress(0), window, limit - (8 * 0x4000) + 1);
        var io = (ulong)(port.ReadConfig8(0x1C) & 0xF0) << 8;
        Assert.InRange(device.GetRegion(2).Start, io, io + 0xFFF);
    }

    [Fact]
    public async Task Large_bars_get_large_windows_and_what_finds_no_room_is_not_enabled()
    {
        var world = await PciWorld.NewAsync();
        var (_, large) = await world.PlugAsync(new CardOptions { RegisterBytes = 0x4000_0000 });
        Assert.NotEqual(0UL, large.GetRegion(0).Start);
        large.Enable();
        // I/O ports are few: a window of a port takes 4 KiB of 60.
        PciDevice last = large;
        for (var i = 0; i < 15; i++)
            (_, last) = await world.PlugAsync();
        Assert.Equal(0UL, last.GetRegion(2).Start);
        var e = Expect.Refused(Errno.EINVAL, last.Enable);
        Assert.Equal("Device 0000:1f:00.0 can't be enabled: BAR 2 of 64 bytes has no address. Free space below 0000:00:10.0 or plug it elsewhere.", e.Message);
        Assert.Contains(world.Lines.Lines, l => l.Contains("0000:1f:00.0: BAR 2 of 64 bytes got no address", StringComparison.Ordinal));
    }

    [Fact]
    public async Task Removed_device_comes_back_by_a_rescan_with_its_name_and_addresses()
    {
        var world = await PciWorld.NewAsync();
        await world.RegisterAsync("card", Cards);
        var (card, device) = await world.PlugAsync();
        var start = device.GetRegion(0).Start;
        await world.WriteAsync(device, "remove", "0");
        Assert.Equal(DeviceState.Added, device.State);
        await world.WriteAsync(device, "remove", "1");
        Assert.Equal(DeviceState.Released, device.State);
        Assert.Equal(0xFFFFFFFFu, device.ReadConfig32(0));
        Assert.Null(world.Bus.Find(device.Address));
        await world.Fabric.Tree.WriteAsync("/bus/pci/rescan", "1");
        var again = world.Bus.Find(device.Address)!;
        Assert.NotSame(device, again);
        Assert.Same(card, again.Function);
        Assert.Equal(start, again.GetRegion(0).Start);
        Assert.Equal(["card probe 0000:01:00.0 0", "card remove 0000:01:00.0", "card probe 0000:01:00.0 0"], world.Calls);
        // A device's own rescan looks at its bus: the port's finds what is behind it too.
        await world.WriteAsync(again, "remove", "1");
        await world.WriteAsync((PciDevice)device.Parent!, "rescan", "1");
        Assert.NotNull(world.Bus.Find(device.Address));
        await Expect.RefusedAsync(Errno.EINVAL, () => world.Fabric.Tree.WriteAsync("/bus/pci/rescan", "yes"));
    }

    [Fact]
    public async Task Port_that_is_removed_takes_what_is_behind_along_and_brings_it_back()
    {
        var world = await PciWorld.NewAsync();
        var (_, device) = await world.PlugAsync();
        await world.WriteAsync((PciDevice)device.Parent!, "remove", "1");
        Assert.Equal(0, world.Bus.DeviceCount);
        await world.Fabric.Tree.WriteAsync("/bus/pci/rescan", "1");
        Assert.Equal(["0000:00:01.0", "0000:01:00.0"], world.Bus.Devices.Select(d => d.Name));
    }

    [Fact]
    public async Task Unplugged_hardware_stays_out_and_its_slot_is_used_again()
    {
        var world = await PciWorld.NewAsync();
        var (card, device) = await world.PlugAsync();
        await world.Bus.UnplugAsync(device);
        await world.Bus.RescanAsync();
        Assert.Equal(["0000:00:01.0"], world.Bus.Devices.Select(d => d.Name));
        card.Dispose();
        var (_, next) = await world.PlugAsync();
        Assert.Equal("0000:01:00.0", next.Name);
        // A port goes like any function; its bus numbers are free then.
        await world.Bus.UnplugAsync((PciDevice)next.Parent!);
        Assert.Equal(0, world.Bus.DeviceCount);
        var (_, last) = await world.PlugAsync();
        Assert.Equal("/devices/pci0000:00/0000:00:01.0/0000:01:00.0", last.DevPath);
    }

    [Fact]
    public async Task Hardware_is_unplugged_whichever_device_stands_for_it()
    {
        var world = await PciWorld.NewAsync();
        var (card, device) = await world.PlugAsync();
        await world.Bus.RemoveAsync(device);
        await world.Bus.RescanAsync();
        Assert.NotSame(device, world.Bus.Find(device.Address));
        await Expect.RefusedAsync(Errno.ENODEV, () => world.Bus.UnplugAsync(device));
        await world.Bus.UnplugAsync(card);
        await world.Bus.RescanAsync();
        Assert.Null(world.Bus.Find(device.Address));
        // In no slot at all.
        await world.Bus.UnplugAsync(card);

        // Removed, so that none stands for it.
        var (next, removed) = await world.PlugAsync();
        await world.Bus.RemoveAsync(removed);
        await world.Bus.UnplugAsync(next);
        await world.Bus.RescanAsync();
        Assert.Null(world.Bus.Find(removed.Address));
    }

    [Fact]
    public async Task Bridges_nest_and_take_numbers_from_the_bus_above()
    {
        var world = await PciWorld.NewAsync();
        var upper = await world.Bus.AddPortAsync(world.Host);
        var lower = await world.Bus.AddPortAsync(upper);
        var device = await world.Bus.AddFunctionAsync(lower, new Card(new CardOptions()));
        Assert.Equal("/devices/pci0000:00/0000:00:01.0/0000:01:00.0/0000:02:00.0", device.DevPath);
        Assert.NotEqual(0UL, device.GetRegion(0).Start);
        Assert.NotEqual(0UL, device.GetRegion(2).Start);
        // What lies behind the lower one lies behind the upper one.
        Assert.Equal(upper.ReadConfig16(0x24) & 0xFFF0, lower.ReadConfig16(0x24) & 0xFFF0);
        Assert.Equal(2, lower.ReadConfig8(0x19));
        Assert.Equal(2, lower.ReadConfig8(0x1A));
    }

    [Fact]
    public async Task Function_that_answers_nonsense_harms_nobody()
    {
        var world = await PciWorld.NewAsync();
        var (_, good) = await world.PlugAsync();
        good.Enable();
        var port = await world.Bus.AddPortAsync(world.Host);
        var added = 0;
        for (var seed = 1; seed <= 500; seed++)
        {
            using var nonsense = new Nonsense(seed);
            try
            {
                var device = await world.Bus.AddFunctionAsync(port, nonsense).In();
                added++;
                foreach (var file in ((TreeDirectory)world.Fabric.Tree.Find(device.DevPath)).List().OfType<TreeFile>().Where(f => (f.Mode & 0x100) != 0 && !f.IsBinary))
                    file.Read();
                try
                {
                    device.Enable();
                    device.AllocateVectors(1, 2048);
                    await device.SetVirtualFunctionsAsync(Math.Min(1, device.TotalVirtualFunctions));
                }
                catch (VirtbusException)
                {
                    // It has not what it promised.
                }
                device.TryReset(out _);
                await world.Bus.UnplugAsync(device).In();
            }
            catch (VirtbusException)
            {
                // Refused as a whole.
            }
        }
        Assert.InRange(added, 100, 500);
        Assert.Equal(["0000:00:01.0", "0000:01:00.0", "0000:00:02.0"], world.Bus.Devices.Select(d => d.Name));
        good.GetRegion(0).Write32(0, 5);
        Assert.Equal(5u, good.GetRegion(0).Read32(0));
        // All addresses and numbers are free again.
        var card = await world.Bus.AddFunctionAsync(port, new Card(new CardOptions { TotalVfs = 256 }));
        card.Enable();
        await card.SetVirtualFunctionsAsync(256);
    }

    [Fact]
    public async Task Domains_are_apart()
    {
        var world = await PciWorld.NewAsync();
        var other = await world.Bus.AddHostBridgeAsync(1);
        var port = await world.Bus.AddPortAsync(other);
        var device = await world.Bus.AddFunctionAsync(port, new Card(new CardOptions()));
        Assert.Equal("/devices/pci0001:00/0001:00:01.0/0001:01:00.0", device.DevPath);
    }

    [Fact]
    public async Task Sleep_goes_from_virtual_function_over_physical_function_to_the_bus_and_back()
    {
        var world = await PciWorld.NewAsync();
        await world.RegisterAsync("vf", Parts);
        await world.RegisterAsync("pf", Cards);
        await world.RegisterAsync("port", new PciDeviceId(Class: 0x060400, ClassMask: 0xFFFFFF));
        var (_, device) = await world.PlugAsync(new CardOptions { TotalVfs = 2 });
        await world.WriteAsync(device, "sriov_numvfs", "2");
        world.ClearCalls();
        await world.Fabric.SuspendAsync();
        Assert.Equal(["vf suspend 0000:01:00.2", "vf suspend 0000:01:00.1", "pf suspend 0000:01:00.0", "port suspend 0000:00:01.0"], world.Calls);
        world.ClearCalls();
        await world.Fabric.ResumeAsync();
        Assert.Equal(["port resume 0000:00:01.0", "pf resume 0000:01:00.0", "vf resume 0000:01:00.1", "vf resume 0000:01:00.2"], world.Calls);
    }

    [Fact]
    public async Task Part_sleeps_before_the_function_that_it_hangs_below_and_wakes_after_it_wherever_else_something_is_newer()
    {
        var world = await PciWorld.NewAsync();
        var parts = world.Fabric.RegisterBus(new AuxiliaryBus());
        await world.RegisterAsync("pf", Cards);
        await world.RegisterAsync("port", new PciDeviceId(Class: 0x060400, ClassMask: 0xFFFFFF));
        await world.Fabric.RegisterDriverAsync(new PartDriver(world, parts));
        var (_, first) = await world.PlugAsync();
        var (_, second) = await world.PlugAsync();
        // The second function is older than the first one's part, and newer than the first one.
        await parts.CreateAsync(second, "mod", "part", "payload", 0u);
        await parts.CreateAsync(first, "mod", "part", "payload", 1u);
        Assert.Equal(first.DevPath + "/mod.part.1", parts.Devices[1].DevPath);
        world.ClearCalls();
        await world.Fabric.SuspendAsync(first);
        Assert.Equal(["part suspend mod.part.1", $"pf suspend {first.Name}"], world.Calls);
        await world.Fabric.ResumeAsync(first);
        Assert.Equal([$"pf resume {first.Name}", "part resume mod.part.1"], world.Calls[2..]);
        world.ClearCalls();
        await world.Fabric.SuspendAsync();
        var down = world.Calls;
        foreach (var (below, above) in new[] { ("mod.part.1", first.Name), ("mod.part.0", second.Name), (first.Name, first.Parent!.Name), (second.Name, second.Parent!.Name) })
            Assert.True(At(below) < At(above), string.Join(", ", down));
        world.ClearCalls();
        await world.Fabric.ResumeAsync();
        Assert.Equal(down.Reverse().Select(c => c.Replace("suspend", "resume", StringComparison.Ordinal)), world.Calls);

        int At(string name) => Array.FindIndex(down, c => c.EndsWith(" " + name, StringComparison.Ordinal));
    }

    private sealed class PartDriver(PciWorld world, AuxiliaryBus bus) : AuxiliaryDriver<AuxiliaryDevice<string>>(bus, "part", null, new AuxiliaryDeviceId("mod.part"))
    {
        protected override ValueTask SuspendAsync(AuxiliaryDevice<string> device) => Say("suspend", device);

        protected override ValueTask ResumeAsync(AuxiliaryDevice<string> device) => Say("resume", device);

        private ValueTask Say(string call, Device device)
        {
            world.Say($"part {call} {device.Name}");
            return default;
        }
    }

    /// <summary>Config space of random bytes, of which random bits can be written; each register anew at each read now and then.</summary>
    private sealed class Nonsense : Nothing
    {
        private readonly Random _random;
        private readonly byte[] _config = new byte[4096];
        private readonly byte[] _writable = new byte[4096];

        public Nonsense(int seed)
        {
            _random = new Random(seed);
            _random.NextBytes(_config);
            _random.NextBytes(_writable);
            // Some shapes that random bytes rarely have: a plain header, bits that all stick, lists that lead somewhere.
            if (seed % 4 != 0)
                _config[0x0E] = (byte)(seed % 8 == 1 ? 1 : 0);
            if (seed % 3 == 0)
                _writable.AsSpan(0x10, 0x30).Fill(0xFF);
            if (seed % 5 < 3)
            {
                byte[] ids = [1, 5, 0x10, 0x11, 0x13];
                _config[0x34] = 0x40;
                for (var i = 0; i < ids.Length; i++)
                    (_config[0x40 + (i * 0x20)], _config[0x41 + (i * 0x20)]) = (ids[i], (byte)(0x60 + (i * 0x20)));
                byte[] extended = [0x10, 0, 0x01, 0x18, 0x0E, 0, 0x01, 0x10];
                extended.AsSpan(0, 4).CopyTo(_config.AsSpan(0x100));
                extended.AsSpan(4, 4).CopyTo(_config.AsSpan(0x180));
            }
        }

        public override bool IsPresent => true;

        public override int ConfigSize => 4096;

        public override void ReadConfig(int offset, Span<byte> destination)
        {
            _config.AsSpan(offset, destination.Length).CopyTo(destination);
            if (_random.Next(50) == 0)
                _random.NextBytes(destination);
        }

        public override void WriteConfig(int offset, ReadOnlySpan<byte> source)
        {
            for (var i = 0; i < source.Length; i++)
                _config[offset + i] = (byte)((_config[offset + i] & ~_writable[offset + i]) | (source[i] & _writable[offset + i]));
        }
    }

    /// <summary>Nothing is in the slot.</summary>
    [Fact]
    public async Task Provider_leaves_the_bus_when_nothing_of_it_is_used()
    {
        var world = await PciWorld.NewAsync();
        var (shelf, other) = (new Shelf(), new Shelf());
        world.Bus.AddProvider(shelf);
        // One of that name that is not there is none to take out.
        world.Bus.RemoveProvider(other);
        var device = await world.Bus.PlugAsync("shelf", "card", "one");
        var e = Assert.Throws<VirtbusException>(() => world.Bus.RemoveProvider(shelf));
        Assert.Equal((Errno.EBUSY, "Function 'one' of provider 'shelf' is plugged in. Unplug it first: virtbus function unplug one"), (e.Errno, e.Message));
        // Its hardware is there while its device is not.
        await world.WriteAsync(device, "remove", "1");
        Assert.Equal(Errno.EBUSY, Assert.Throws<VirtbusException>(() => world.Bus.RemoveProvider(shelf)).Errno);
        await world.Bus.UnplugOpenedAsync();
        var engine = ProvisioningEngine.Of(world.Fabric);
        engine.Define("two", "pci", null, [new("shelf", "card")]);
        e = Assert.Throws<VirtbusException>(() => world.Bus.RemoveProvider(shelf));
        Assert.Equal((Errno.EBUSY, "Function 'two' of provider 'shelf' is defined. Undefine it first: virtbus function undefine two"), (e.Errno, e.Message));
        engine.Undefine("two");
        world.Bus.RemoveProvider(shelf);
        Assert.Empty(world.Bus.Providers);
        await Expect.RefusedAsync(Errno.ENOENT, async () => await world.Bus.PlugAsync("shelf", "card"));
        Assert.Equal(Errno.EOPNOTSUPP, Assert.Throws<VirtbusException>(() => engine.Define("two", "pci", null, [new("shelf", "card")])).Errno);
        world.Bus.AddProvider(other);
        engine.Define("two", "pci", null, [new("shelf", "card")]);
        await engine.ActivateAsync(["two"], TestContext.Current.CancellationToken);
        Assert.Equal((1, 1), (shelf.Opened, other.Opened));
    }

    [Fact]
    public async Task Function_of_a_provider_is_the_buss_own_and_ends_when_it_leaves_its_slot()
    {
        var world = await PciWorld.NewAsync();
        var shelf = new Shelf();
        world.Bus.AddProvider(shelf);
        var e = Assert.Throws<VirtbusException>(() => world.Bus.AddProvider(new Shelf()));
        Assert.Equal((Errno.EEXIST, "The PCI bus has a provider 'shelf' already. Give this one another name."), (e.Errno, e.Message));
        Assert.Equal("card\n", world.Read("/bus/pci/providers/shelf"));

        // In order, pulled out by a person, pulled out by itself, and by itself while it has no device.
        await world.Bus.PlugAsync("shelf", "card", "one", "nobody");
        var one = world.Bus.Devices.OfType<PciDevice>().Single(d => d.Label == "one");
        Assert.Equal("nobody", one.DriverOverride);
        await world.WriteAsync(one, "unplug", "1");
        var two = await world.Bus.PlugAsync("shelf", "card", "one");
        await world.WriteAsync(two, "unplug", "surprise");
        await world.Bus.PlugAsync("shelf", "card");
        shelf.Last!.Pull();
        await world.Fabric.SettleAsync(TestContext.Current.CancellationToken);
        var four = await world.Bus.PlugAsync("shelf", "card");
        await world.WriteAsync(four, "remove", "1");
        shelf.Last!.Pull();
        await world.Fabric.SettleAsync(TestContext.Current.CancellationToken);
        Assert.Equal((4, 4), (shelf.Opened, shelf.Ended));
        // One that stays, while others are refused.
        var five = await world.Bus.PlugAsync("shelf", "card", "five");
        e = await Expect.RefusedAsync(Errno.EEXIST, async () => await world.Bus.PlugAsync("shelf", "card", "five"));
        Assert.Equal($"The function at {five.Name} is called 'five' already. Choose another name.", e.Message);
        await Expect.RefusedAsync(Errno.ENOENT, async () => await world.Bus.PlugAsync("shelf", "other"));
        e = await Expect.RefusedAsync(Errno.ENOENT, async () => await world.Bus.PlugAsync("drawer", "card"));
        Assert.Equal("The PCI bus has no provider 'drawer'. It has: shelf.", e.Message);
        await Expect.RefusedAsync(Errno.EINVAL, async () => await world.WriteAsync(five, "unplug", "2"));
        Assert.Equal((6, 5), (shelf.Opened, shelf.Ended));
        var (_, mine) = await world.PlugAsync();
        await world.Bus.UnplugOpenedAsync();
        Assert.Equal((6, 6), (shelf.Opened, shelf.Ended));
        Assert.Same(mine, world.Bus.Find(mine.Address));
    }

    private sealed class Shelf : IPciFunctionProvider
    {
        private int _ended;

        public string Name => "shelf";

        public int Opened { get; private set; }

        public int Ended => Volatile.Read(ref _ended);

        public Card? Last { get; private set; }

        public IReadOnlyList<string> List() => ["card"];

        public ValueTask<IPciFunction> OpenAsync(string name, CancellationToken cancellationToken = default)
        {
            if (name != "card")
                throw new VirtbusException(Errno.ENOENT, $"There is no '{name}' on the shelf.");
            Opened++;
            return ValueTask.FromResult<IPciFunction>(Last = new Card(new CardOptions()) { OnEnd = () => Interlocked.Increment(ref _ended) });
        }
    }

    private class Nothing : IPciFunction
    {
        public virtual int ConfigSize => 256;

        public virtual bool IsPresent => false;

        public IReadOnlyList<PciDoorbell> Doorbells => [];

        public IReadOnlyList<IPciFunction> VirtualFunctions => [];

        public void SetLostCallback(Action? lost)
        {
        }

        public virtual void ReadConfig(int offset, Span<byte> destination) => destination.Fill(0xFF);

        public virtual void WriteConfig(int offset, ReadOnlySpan<byte> source)
        {
        }

        public PciBar GetBar(int bar) => default;

        public IReadOnlyList<PciBarArea> GetBarAreas(int bar) => [];

        public void ReadBar(int bar, ulong offset, Span<byte> destination) => destination.Fill(0xFF);

        public void WriteBar(int bar, ulong offset, ReadOnlySpan<byte> source)
        {
        }

        public bool TryAttachDoorbell(in PciDoorbell doorbell, EventFd? signal, out Fault fault)
        {
            fault = default;
            return false;
        }

        public void Plug(IPciPort port)
        {
        }

        public void Unplug()
        {
        }

        public void Reset()
        {
        }

        public void Dispose()
        {
        }
    }
}
