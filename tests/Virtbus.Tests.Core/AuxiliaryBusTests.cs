using System.Reflection;
using Virtbus.Buses.Auxiliary;
using Virtbus.Core;
using Virtbus.Platform;

namespace Virtbus.Tests.Core;

/// <summary>
/// The virtual bus: VB-01, VB-02, VB-03, VB-04, VB-05, VB-06, VB-08, VB-09, VB-10, VB-12, VB-14, VB-16, VB-20, VB-23, VB-24, VB-28, VB-29,
/// VB-30, VB-31, VB-32, VB-33.
/// </summary>
public sealed class AuxiliaryBusTests
{
    /// <summary>A creator's own container.</summary>
    private sealed class QueuePart(AuxiliaryBus bus, uint id, Device parent) : AuxiliaryDevice(bus, "lan", "rdma", id, parent)
    {
        public List<string> Users { get; } = [];

        public int Allocate(string user)
        {
            Users.Add(user);
            return Users.Count;
        }
    }

    private sealed class QueueDriver(AuxiliaryBus bus) : AuxiliaryDriver<QueuePart>(bus, "irdma", null, new AuxiliaryDeviceId("lan.rdma"))
    {
        protected override ValueTask ProbeAsync(QueuePart device, AuxiliaryDeviceId id, CancellationToken cancellationToken)
        {
            device.Allocate(Name);
            device.Resources.AddAction(() =>
            {
                device.Users.Remove(Name);
                return default;
            });
            return default;
        }
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task Payload_and_matched_entry_reach_probe_in_either_order(bool driverFirst)
    {
        var world = await World.NewAsync();
        var driver = world.Driver("d", "other", "part");
        var seen = "";
        driver.OnProbe = (d, id, _) =>
        {
            seen = $"{((AuxiliaryDevice<string>)d).Payload} {id.DriverData}";
            return default;
        };
        if (driverFirst)
            await world.Fabric.RegisterDriverAsync(driver);
        var device = await world.Bus.CreateAsync(world.Parent, "mod", "part", "hello", 7u);
        if (!driverFirst)
            await world.Fabric.RegisterDriverAsync(driver);
        Assert.Equal("hello 2", seen);
        Assert.Same(driver, device.Driver);
        await world.Bus.DestroyAsync(device);
        Assert.Equal(DeviceState.Released, device.State);
    }

    [Fact]
    public async Task Consumer_gets_the_creators_own_container_and_calls_back_through_it()
    {
        var world = await World.NewAsync();
        await world.Fabric.RegisterDriverAsync(new QueueDriver(world.Bus));
        var part = new QueuePart(world.Bus, 0, world.Parent);
        await world.Bus.AddAsync(part);
        Assert.Equal(["irdma"], part.Users);
        await world.Fabric.UnbindAsync(part.Driver!, part.Name);
        Assert.Empty(part.Users);
    }

    [Fact]
    public async Task Part_of_another_type_under_a_served_name_is_refused_not_cast()
    {
        var world = await World.NewAsync();
        await world.Fabric.RegisterDriverAsync(new QueueDriver(world.Bus));
        var wrong = await world.Bus.CreateAsync(world.Parent, "lan", "rdma", "a string", 1u);
        Assert.Null(wrong.Driver);
        Assert.Contains(world.Lines.Lines, l => l.Contains("Driver irdma takes devices of type QueuePart; lan.rdma.1 is a AuxiliaryDevice<String>", StringComparison.Ordinal));
    }

    [Theory]
    [InlineData("mod", "part", 7u, "mod.part.7")]
    [InlineData("m-o_d", "P-1_x", uint.MaxValue, "m-o_d.P-1_x.4294967295")]
    public async Task Name_is_module_name_id(string module, string part, uint id, string name)
    {
        var world = await World.NewAsync();
        var device = await world.Bus.CreateAsync(world.Parent, module, part, "payload", id);
        Assert.Equal((name, $"{module}.{part}", $"auxiliary:{module}.{part}"), (device.Name, device.MatchName, device.Modalias));
        await Expect.RefusedAsync(Errno.EEXIST, async () => await world.Bus.CreateAsync(world.Parent, module, part, "payload", id));
    }

    [Theory]
    [InlineData("", "part")]
    [InlineData("mod", "")]
    [InlineData("mo.d", "part")]
    [InlineData("mod", "pa/rt")]
    [InlineData("mod", "pärt")]
    [InlineData("twenty_characters_ab", "twenty_characters_ab")]
    public void Name_that_breaks_the_rules_is_refused(string module, string part)
    {
        var world = new World();
        Expect.Refused(Errno.EINVAL, () => new AuxiliaryDevice(world.Bus, module, part, 0, world.Parent));
    }

    [Fact]
    public void Name_of_39_characters_is_the_longest()
    {
        var world = new World();
        Assert.Equal(39, new AuxiliaryDevice(world.Bus, new string('m', 19), new string('p', 19), 0, world.Parent).MatchName.Length);
        Expect.Refused(Errno.EINVAL, () => new TestDriver(world, "d", new AuxiliaryDeviceId(new string('m', 20) + "." + new string('p', 19))));
    }

    [Fact]
    public void Parent_and_bus_are_mandatory_and_nothing_is_to_be_undone_when_they_are_missing()
    {
        var world = new World();
        // A bug of the caller, as any null is.
        Assert.Throws<ArgumentNullException>(() => new AuxiliaryDevice(world.Bus, "mod", "a", 0, null!));
        Assert.Throws<ArgumentNullException>(() => new AuxiliaryDevice(null!, "mod", "a", 0, world.Parent));
        Assert.Equal(1, world.Parent.References);
    }

    [Fact]
    public async Task Create_in_one_call_leaves_nothing_behind_when_it_fails()
    {
        var world = await World.NewAsync();
        var ids = new IdAllocator(limit: 2);
        await Expect.RefusedAsync(Errno.EINVAL, async () => await world.Bus.CreateAsync(world.Parent, "mo.d", "a", "payload", ids));
        await Assert.ThrowsAsync<ArgumentNullException>(async () => await world.Bus.CreateAsync<string>(world.Parent, "mod", "a", null!, ids));
        Assert.Equal(0, ids.Count);
        await world.Bus.CreateAsync(world.Parent, "mod", "a", "payload", 0u);
        await Expect.RefusedAsync(Errno.EEXIST, async () => await world.Bus.CreateAsync(world.Parent, "mod", "a", "payload", ids));
        Assert.Equal(0, ids.Count);
        var first = await world.Bus.CreateAsync(world.Parent, "mod", "b", "payload", ids);
        await world.Bus.CreateAsync(world.Parent, "mod", "b", "payload", ids);
        await Expect.RefusedAsync(Errno.ENOSPC, async () => await world.Bus.CreateAsync(world.Parent, "mod", "b", "payload", ids));
        await world.Bus.DestroyAsync(first);
        Assert.Equal("mod.b.0", (await world.Bus.CreateAsync(world.Parent, "mod", "b", "payload", ids)).Name);
        var unregistered = new AuxiliaryBus();
        await Expect.RefusedAsync(Errno.EINVAL, async () => await unregistered.CreateAsync(world.Parent, "mod", "a", "payload", 5u));
    }

    [Fact]
    public async Task Several_kinds_of_parts_on_one_parent_each_get_their_driver_and_none_needs_another()
    {
        var world = await World.NewAsync();
        var net = await world.RegisterAsync("net", "net");
        var rdma = await world.RegisterAsync("rdma", "rdma");
        var netPart = await world.AddAsync("net", 0);
        var rdmaPart = await world.AddAsync("rdma", 0);
        Assert.Same(net, netPart.Driver);
        Assert.Same(rdma, rdmaPart.Driver);
        await world.Fabric.UnregisterAsync(netPart);
        Assert.Same(rdma, rdmaPart.Driver);
    }

    [Fact]
    public async Task Creator_that_allows_one_user_at_a_time_says_so_in_its_contract()
    {
        var world = await World.NewAsync();
        var driver = await world.RegisterAsync("d", "a");
        var taken = false;
        driver.OnProbe = (d, _, _) =>
        {
            if (taken)
                throw new VirtbusException(Errno.EBUSY, "The port is in use.");
            taken = true;
            d.Resources.AddAction(() =>
            {
                taken = false;
                return default;
            });
            return default;
        };
        var one = await world.AddAsync("a", 1);
        var two = await world.AddAsync("a", 2);
        Assert.Null(two.Driver);
        await Expect.RefusedAsync(Errno.EBUSY, () => world.Fabric.BindAsync(driver, two.Name));
        await world.Fabric.UnbindAsync(driver, one.Name);
        await world.Fabric.BindAsync(driver, two.Name);
        Assert.Same(driver, two.Driver);
    }

    /// <summary>A creator's port: frames and storage do not go together on it, a clock goes with either.</summary>
    private sealed class Port
    {
        private string? _user;

        public void Claim(string use, Device part)
        {
            if (use == "ptp")
                return;
            if (_user is not null)
                throw new VirtbusException(Errno.EBUSY, $"The port serves {_user}.");
            _user = use;
            part.Resources.AddAction(() =>
            {
                _user = null;
                return default;
            });
        }
    }

    [Fact]
    public async Task Creator_refuses_one_class_of_users_while_another_is_active_and_allows_what_goes_together()
    {
        var world = await World.NewAsync();
        var drivers = new List<TestDriver>();
        foreach (var use in new[] { "net", "scsi", "ptp" })
        {
            var driver = await world.RegisterAsync(use, use);
            driver.OnProbe = (part, _, _) =>
            {
                ((AuxiliaryDevice<Port>)part).Payload.Claim(use, part);
                return default;
            };
            drivers.Add(driver);
        }
        var port = new Port();
        var net = await world.Bus.CreateAsync(world.Parent, "mod", "net", port, 0u);
        var scsi = await world.Bus.CreateAsync(world.Parent, "mod", "scsi", port, 0u);
        var clock = await world.Bus.CreateAsync(world.Parent, "mod", "ptp", port, 0u);
        Assert.Equal([drivers[0], null, drivers[2]], new[] { net, scsi, clock }.Select(p => p.Driver));
        var e = await Expect.RefusedAsync(Errno.EBUSY, () => world.Fabric.BindAsync(drivers[1], scsi.Name));
        Assert.Equal("Probe of mod.scsi.0 by test.scsi failed: The port serves net.", e.Message);
        // The other's leave is what makes room, and then it is the first one that is refused.
        await world.Fabric.UnbindAsync(drivers[0], net.Name);
        await world.Fabric.BindAsync(drivers[1], scsi.Name);
        await Expect.RefusedAsync(Errno.EBUSY, () => world.Fabric.BindAsync(drivers[0], net.Name));
        Assert.Equal([null, drivers[1], drivers[2]], new[] { net, scsi, clock }.Select(p => p.Driver));
    }

    [Fact]
    public async Task Calls_between_creator_and_consumer_go_by_no_bus_and_a_part_has_no_resources_of_it()
    {
        var world = await World.NewAsync();
        var part = new CalledPart(world.Bus, world.Parent);
        var driver = world.Driver("d", "called");
        driver.OnProbe = (device, _, _) =>
        {
            Assert.Same(part, device);
            // What the bus itself gives a part.
            Assert.Equal(0, device.Resources.Count);
            return default;
        };
        await world.Fabric.RegisterDriverAsync(driver);
        await world.Bus.AddAsync(part);
        Assert.Same(driver, part.Driver);
        part.Call();
        Assert.NotEmpty(part.Callers);
        Assert.DoesNotContain(typeof(AuxiliaryBus).Assembly, part.Callers);
        Assert.DoesNotContain(typeof(Fabric).Assembly, part.Callers);
        var files = ((TreeDirectory)world.Fabric.Tree.Find(part.DevPath)).List().Select(n => n.Name);
        Assert.Equal(["driver", "driver_override", "driver_override_bind", "modalias", "power", "subsystem", "uevent", "waiting_for_supplier"], files.Order(StringComparer.Ordinal));
        // Nothing of the bus takes a request to hand on: it has no delegate and no event.
        Assert.All(
            typeof(AuxiliaryBus).Assembly.GetExportedTypes().Where(t => t.Namespace == typeof(AuxiliaryBus).Namespace),
            t => Assert.True(!t.IsSubclassOf(typeof(Delegate)) && t.GetEvents().Length == 0, t.Name));
    }

    private sealed class CalledPart(AuxiliaryBus bus, Device parent) : AuxiliaryDevice(bus, "mod", "called", 0, parent)
    {
        public Assembly?[] Callers { get; private set; } = [];

        public void Call() => Callers = [.. new System.Diagnostics.StackTrace().GetFrames().Select(f => f.GetMethod()?.DeclaringType?.Assembly)];
    }

    [Fact]
    public async Task Interrupts_are_files_under_irqs_on_those_devices_that_have_any()
    {
        var world = await World.NewAsync();
        var device = await world.AddAsync("sf", 1);
        const string Path = "/bus/auxiliary/devices/mod.sf.1/irqs";
        Expect.Refused(Errno.EINVAL, () => device.RemoveIrq(5));
        Expect.Refused(Errno.ENOENT, () => world.Fabric.Tree.Find(Path));
        device.AddIrq(70);
        device.AddIrq(5);
        Expect.Refused(Errno.EEXIST, () => device.AddIrq(5));
        Assert.Equal(["5", "70"], Assert.IsType<TreeDirectory>(world.Fabric.Tree.Find(Path)).List().Select(n => n.Name));
        Assert.Equal("", world.Fabric.Tree.Read(Path + "/5"));
        device.RemoveIrq(5);
        Assert.Equal([70], device.Irqs);
        Assert.Throws<ArgumentOutOfRangeException>(() => device.AddIrq(-1));
    }

    [Fact]
    public void Public_surface_has_no_untyped_payload_and_dispatches_nothing()
    {
        foreach (var type in typeof(AuxiliaryBus).Assembly.GetExportedTypes().Where(t => t.Namespace == typeof(AuxiliaryBus).Namespace))
        {
            foreach (var member in type.GetMembers(BindingFlags.Public | BindingFlags.Instance | BindingFlags.Static | BindingFlags.DeclaredOnly))
            {
                var types = member switch
                {
                    PropertyInfo p => [p.PropertyType],
                    MethodInfo m when m.Name is not (nameof(Equals) or "op_Equality" or "op_Inequality") => m.GetParameters().Select(a => a.ParameterType).Append(m.ReturnType),
                    ConstructorInfo c => c.GetParameters().Select(a => a.ParameterType),
                    _ => [],
                };
                Assert.DoesNotContain(typeof(object), types);
                Assert.DoesNotContain(typeof(nint), types);
            }
        }
    }

    [Fact]
    public async Task Payload_is_valid_through_remove_and_release_and_a_use_after_the_delete_is_refused()
    {
        var world = await World.NewAsync();
        var seen = new List<string>();
        var driver = world.Driver("d", "a");
        driver.OnProbe = (device, _, _) => See("probe", device);
        driver.OnRemove = device => See("remove", device);
        await world.Fabric.RegisterDriverAsync(driver);
        var part = new AuxiliaryDevice<string>(world.Bus, "mod", "a", 1, world.Parent, "shared") { Release = d => seen.Add($"release {((AuxiliaryDevice<string>)d).Payload}") };
        Assert.Equal("shared", part.Payload);
        await world.Fabric.AddAsync(part);
        // A second driver's list of resources, kept by somebody.
        var resources = part.Resources;
        await world.Fabric.DeleteAsync(part);
        var e = Assert.Throws<ObjectDisposedException>(() => part.Payload);
        Assert.Equal("Device mod.a.1 was deleted, so its Payload is not valid any more. Who uses it has kept it past the unbind of its driver: let go of it in RemoveAsync.", e.Message.Split('\n')[0].TrimEnd('\r'));
        Assert.Throws<ObjectDisposedException>(() => resources.AddAction(static () => default));
        part.Put();
        Assert.Throws<ObjectDisposedException>(() => part.Payload);
        Assert.Equal(["probe shared", "remove shared", "release shared"], seen);

        ValueTask See(string where, AuxiliaryDevice device)
        {
            seen.Add($"{where} {((AuxiliaryDevice<string>)device).Payload}");
            return default;
        }
    }
}
