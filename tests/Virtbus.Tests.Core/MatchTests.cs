using FsCheck;
using FsCheck.Fluent;
using Virtbus.Buses.Auxiliary;
using Virtbus.Core;
using Virtbus.Platform;

namespace Virtbus.Tests.Core;

/// <summary>Match and order: DM-05, DM-06, DM-24, VB-08, VB-10, VB-11, VB-13, VB-15.</summary>
public sealed class MatchTests
{
    [Fact]
    public void Any_number_of_matches_leaves_the_device_identical()
    {
        var names = Gen.Elements("mod.a", "mod.b", "mod.aa", "other.a", "test.d1");
        var tables = names.NonEmptyListOf().Select(l => l.Take(5).ToArray()).NonEmptyListOf().Select(l => l.Take(6).ToArray()).ToArbitrary();
        Prop.ForAll(tables, all =>
        {
            var world = new World();
            var device = world.New("a", 1);
            device.SetDriverData("mine");
            var before = Describe(device);
            var drivers = all.Select((ids, i) => new TestDriver(world, "d" + i, [.. ids.Select((n, j) => new AuxiliaryDeviceId(n, (ulong)j))])).ToArray();
            Parallel.For(0, 64, i =>
            {
                var driver = drivers[i % drivers.Length];
                var expected = Array.IndexOf(all[i % drivers.Length], "mod.a");
                var id = world.Bus.Match(device, driver);
                Assert.Equal(expected < 0 ? null : (ulong)expected, id?.DriverData);
            });
            return before == Describe(device);
        }).QuickCheckThrowOnFailure();
    }

    private static string Describe(AuxiliaryDevice d) => string.Join(
        '|', d.Name, d.Id, d.MatchName, d.State, d.Binding, d.DriverOverride, d.GetDriverData<string>(), d.References, d.Sequence, d.DeferredReason, d.Modalias);

    [Fact]
    public void What_a_bus_is_given_to_match_has_no_way_to_write()
    {
        var views = typeof(AuxiliaryBus).Assembly.GetTypes().Append(typeof(IDeviceIdentity)).Where(t => t.IsInterface && typeof(IDeviceIdentity).IsAssignableFrom(t)).ToList();
        Assert.Contains(typeof(Virtbus.Buses.Pci.IPciIdentity), views);
        Assert.Contains(typeof(Virtbus.Buses.Vdpa.IVdpaIdentity), views);
        Assert.Contains(typeof(Virtbus.Buses.Virtio.IVirtioIdentity), views);
        Assert.All(views.SelectMany(v => v.GetMethods()), m => Assert.True(m.Name.StartsWith("get_", StringComparison.Ordinal) && IsValue(m.ReturnType), m.Name));
        // And each bus's match takes such a view.
        Assert.All(
            typeof(AuxiliaryBus).Assembly.GetTypes().Where(t => t.IsSubclassOf(typeof(Bus))).SelectMany(b => b.GetMethods().Where(m => m.Name == "Match")),
            m => Assert.Equal([typeof(IDeviceIdentity), typeof(Driver)], m.GetParameters().Select(p => p.ParameterType)));

        static bool IsValue(Type type) =>
            type.IsPrimitive || type == typeof(string)
            || (type.IsValueType && type.IsDefined(typeof(System.Runtime.CompilerServices.IsReadOnlyAttribute), inherit: false));
    }

    [Fact]
    public async Task Matched_entry_with_its_driver_data_reaches_probe()
    {
        var world = await World.NewAsync();
        var driver = new TestDriver(world, "d", new("mod.x", 10), new("mod.a", 0x123456789ABCDEF0), new("mod.a", 30));
        await world.Fabric.RegisterDriverAsync(driver);
        await world.AddAsync("a", 1);
        Assert.Equal(["test.d probe mod.a.1 1311768467463790320"], world.Calls);
    }

    [Fact]
    public async Task Many_devices_of_one_name_bind_to_one_driver_whichever_came_first()
    {
        var world = await World.NewAsync();
        for (var i = 0u; i < 10; i++)
            await world.AddAsync("a", i);
        var driver = await world.RegisterAsync("d", "a");
        for (var i = 10u; i < 20; i++)
            await world.AddAsync("a", i);
        Assert.Equal(20, driver.Devices.Count);
        Assert.Equal(20, world.Calls.Distinct().Count());
    }

    [Fact]
    public async Task Name_of_the_driver_alone_matches_nothing()
    {
        var world = await World.NewAsync();
        var device = await world.Bus.CreateAsync(world.Parent, "test", "d", "payload", 0u);
        await world.RegisterAsync("d", "a");
        Assert.Null(device.Driver);
        Expect.Refused(Errno.EINVAL, () => world.Driver("without"));
    }

    [Fact]
    public async Task Creators_module_is_part_of_the_match()
    {
        var world = await World.NewAsync();
        await world.RegisterAsync("d", "a");
        var other = await world.Bus.CreateAsync(world.Parent, "another", "a", "payload", 1u);
        Assert.Null(other.Driver);
    }

    [Fact]
    public async Task Table_is_copied_so_the_drivers_maker_can_not_change_it()
    {
        var world = await World.NewAsync();
        AuxiliaryDeviceId[] table = [new("mod.a", 1)];
        var driver = new TestDriver(world, "d", table);
        table[0] = new("mod.b", 2);
        await world.Fabric.RegisterDriverAsync(driver);
        Assert.NotNull((await world.AddAsync("a", 1)).Driver);
        Assert.Null((await world.AddAsync("b", 1)).Driver);
    }

    [Fact]
    public async Task First_registered_driver_wins_and_a_failed_probe_goes_on_to_the_next()
    {
        var world = await World.NewAsync();
        var first = await world.RegisterAsync("z", "a");
        var second = await world.RegisterAsync("a", "a");
        var one = await world.AddAsync("a", 1);
        Assert.Same(first, one.Driver);
        first.OnProbe = (_, _, _) => throw new VirtbusException(Errno.EIO, "No answer from the device.");
        var two = await world.AddAsync("a", 2);
        Assert.Same(second, two.Driver);
        Assert.Contains(world.Lines.Lines, l => l == "Warning mod.a.2: probe with driver test.z failed: No answer from the device. (EIO)");
    }

    [Fact]
    public async Task Driver_that_declines_with_enodev_is_passed_over_quietly()
    {
        var world = await World.NewAsync();
        (await world.RegisterAsync("d", "a")).OnProbe = (_, _, _) => throw new VirtbusException(Errno.ENODEV, "Not mine.");
        var device = await world.AddAsync("a", 1);
        Assert.Null(device.Driver);
        Assert.DoesNotContain(world.Lines.Lines, l => l.StartsWith("Warning", StringComparison.Ordinal));
    }

    [Fact]
    public async Task Driver_registered_while_another_ones_probe_runs_gets_the_device_when_that_fails()
    {
        var world = await World.NewAsync();
        var inProbe = new TaskCompletionSource();
        var fail = new TaskCompletionSource();
        var first = await world.RegisterAsync("first", "a");
        first.OnProbe = async (_, _, _) =>
        {
            inProbe.SetResult();
            await fail.Task;
        };
        var add = world.AddAsync("a", 1);
        await inProbe.Task.In();
        var second = world.Driver("second", "a");
        var register = world.Fabric.RegisterDriverAsync(second).AsTask();
        fail.SetException(new VirtbusException(Errno.EIO, "No."));
        var device = await add.In();
        await register.In();
        Assert.Same(second, device.Driver);
    }

    [Fact]
    public async Task Driver_registered_while_another_one_is_unbound_gets_the_device()
    {
        var world = await World.NewAsync();
        var inRemove = new TaskCompletionSource();
        var go = new TaskCompletionSource();
        var first = await world.RegisterAsync("first", "a");
        first.OnRemove = async _ =>
        {
            inRemove.SetResult();
            await go.Task;
        };
        var device = await world.AddAsync("a", 1);
        var unregister = world.Fabric.UnregisterDriverAsync(first).AsTask();
        await inRemove.Task.In();
        var second = world.Driver("second", "a");
        var register = world.Fabric.RegisterDriverAsync(second).AsTask();
        go.SetResult();
        await Task.WhenAll(unregister, register).In();
        Assert.Same(second, device.Driver);
    }

    [Fact]
    public async Task Bus_whose_match_throws_loses_one_driver_not_the_add()
    {
        var lines = new RecordedLog();
        var fabric = new Fabric(new FabricOptions { LoggerFactory = lines });
        var bus = fabric.RegisterBus(new BrokenBus());
        var driver = new BrokenDriver(bus);
        await fabric.RegisterDriverAsync(driver);
        var device = new Device("d", bus: bus);
        await fabric.AddAsync(device);
        Assert.Null(device.Driver);
        Assert.Contains(lines.Lines, l => l.Contains("match by bus broken", StringComparison.Ordinal));
        bus.KeyThrows = true;
        await fabric.AddAsync(new Device("e", bus: bus));
        Assert.Contains(lines.Lines, l => l.Contains("looking for drivers on bus broken failed", StringComparison.Ordinal));
        bus.VariablesThrow = true;
        var last = new Device("f", bus: bus);
        await fabric.AddAsync(last);
        await fabric.DeleteAsync(last);
        Assert.Equal(["add", "remove"], fabric.Uevents.History().Where(e => e.DevPath == "/devices/f").Select(e => e.ActionName));
    }

    [Fact]
    public async Task Driver_narrows_its_match_by_typed_attributes_and_leaves_the_rest_to_others()
    {
        var world = await World.NewAsync();
        var net = new NarrowDriver(world, "net", static part => part.VirtioType == 1);
        await world.Fabric.RegisterDriverAsync(net);
        var card = await AddAsync(1, 1);
        var disk = await AddAsync(2, 2);
        Assert.Same(net, card.Driver);
        Assert.Null(disk.Driver);
        // A bind by hand asks the same question, an override asks none.
        await Expect.RefusedAsync(Errno.ENODEV, () => world.Fabric.BindAsync(net, disk.Name));
        var any = await world.RegisterAsync("any", "part");
        Assert.Same(any, disk.Driver);
        await world.Fabric.UnbindAsync(any, disk.Name);
        world.Fabric.SetDriverOverride(disk, net.Name);
        await world.Fabric.ProbeAsync(world.Bus, disk.Name);
        Assert.Same(net, disk.Driver);
        // A part without such attributes is not what the driver wants either.
        Assert.Same(any, (await world.AddAsync("part", 3)).Driver);

        async Task<VirtioPart> AddAsync(uint id, uint type)
        {
            var part = new VirtioPart(world, id, type);
            await world.Fabric.AddAsync(part);
            return part;
        }
    }

    [Fact]
    public async Task Predicate_that_throws_loses_one_driver_and_not_the_add()
    {
        var world = await World.NewAsync();
        await world.Fabric.RegisterDriverAsync(new NarrowDriver(world, "broken", static _ => throw new InvalidOperationException("predicate")));
        var any = await world.RegisterAsync("any", "part");
        var part = new VirtioPart(world, 1, 1);
        await world.Fabric.AddAsync(part);
        Assert.Same(any, part.Driver);
    }

    // What a creator tells of its parts beside their name.
    private interface IVirtioPart : IAuxiliaryIdentity
    {
        uint VirtioType { get; }
    }

    private sealed class VirtioPart(World world, uint id, uint type) : AuxiliaryDevice(world.Bus, "mod", "part", id, world.Parent), IVirtioPart
    {
        public uint VirtioType => type;
    }

    private sealed class NarrowDriver(World world, string name, Func<IVirtioPart, bool> accepts) : AuxiliaryDriver<AuxiliaryDevice>(world.Bus, "test", name, new AuxiliaryDeviceId("mod.part"))
    {
        protected override bool Accepts(IAuxiliaryIdentity device) => device is IVirtioPart part && accepts(part);
    }

    private sealed class BrokenBus() : Bus("broken")
    {
        public bool KeyThrows { get; set; }

        public bool VariablesThrow { get; set; }

        public override DeviceId? Match(IDeviceIdentity device, Driver driver) => throw new InvalidOperationException("match");

        protected internal override string? MatchKey(IDeviceIdentity device) => KeyThrows ? throw new InvalidOperationException("key") : null;

        protected internal override void AddUeventVariables(Device device, UeventVariables variables)
        {
            if (VariablesThrow)
                throw new InvalidOperationException("variables");
        }
    }

    private sealed class BrokenDriver(Bus bus) : Driver("broken")
    {
        public override Bus Bus { get; } = bus;

        protected internal override ValueTask ProbeAsync(Device device, DeviceId id, CancellationToken cancellationToken) => default;
    }
}
