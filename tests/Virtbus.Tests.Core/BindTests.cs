using Virtbus.Buses.Auxiliary;
using Virtbus.Core;
using Virtbus.Platform;

namespace Virtbus.Tests.Core;

/// <summary>What a user writes into bind, unbind, drivers_probe, driver_override, new_id: DM-13, DM-21, DM-25, DM-26, with Linux's errors.</summary>
public sealed class BindTests
{
    private const string Drivers = "/bus/auxiliary/drivers/";

    [Fact]
    public async Task One_part_is_unbound_and_bound_again_and_its_siblings_are_untouched()
    {
        var world = await World.NewAsync();
        await world.RegisterAsync("d", "a");
        var one = await world.AddAsync("a", 1);
        var two = await world.AddAsync("a", 2);
        world.ClearCalls();
        await world.Fabric.Tree.WriteAsync(Drivers + "test.d/unbind", "mod.a.1\n");
        Assert.Null(one.Driver);
        await world.Fabric.Tree.WriteAsync(Drivers + "test.d/bind", "mod.a.1\n");
        Assert.NotNull(one.Driver);
        Assert.NotNull(two.Driver);
        Assert.Equal(["test.d remove mod.a.1", "test.d probe mod.a.1 1"], world.Calls);
    }

    [Fact]
    public async Task Errors_are_linuxs_and_name_object_value_and_remedy()
    {
        var world = await World.NewAsync();
        var driver = await world.RegisterAsync("d", "a");
        var other = await world.RegisterAsync("e", "b");
        var device = await world.AddAsync("a", 1);
        var free = await world.AddAsync("c", 1);
        var e = await Expect.RefusedAsync(Errno.ENODEV, () => world.Fabric.BindAsync(driver, "mod.a.9"));
        Assert.Equal("Bus auxiliary has no device 'mod.a.9'. '/bus/auxiliary/devices' lists those there are.", e.Message);
        e = await Expect.RefusedAsync(Errno.EBUSY, () => world.Fabric.BindAsync(driver, "mod.a.1"));
        Assert.Equal("Device mod.a.1 is bound to test.d. Unbind it first.", e.Message);
        e = await Expect.RefusedAsync(Errno.EBUSY, () => world.Fabric.BindAsync(other, "mod.a.1"));
        Assert.Equal("Device mod.a.1 is bound to test.d. Unbind it first.", e.Message);
        e = await Expect.RefusedAsync(Errno.ENODEV, () => world.Fabric.BindAsync(driver, "mod.c.1"));
        Assert.Equal("Driver test.d does not serve mod.c.1 (auxiliary:mod.c): no entry of its id table matches.", e.Message);
        e = await Expect.RefusedAsync(Errno.ENODEV, () => world.Fabric.UnbindAsync(other, "mod.a.1"));
        Assert.Equal("Device mod.a.1 is not bound to test.e: it is bound to test.d.", e.Message);
        e = await Expect.RefusedAsync(Errno.ENODEV, () => world.Fabric.UnbindAsync(other, "mod.c.1"));
        Assert.Equal("Device mod.c.1 is not bound to test.e: it has no driver.", e.Message);
        await Expect.RefusedAsync(Errno.ENODEV, () => world.Fabric.ProbeAsync(world.Bus, "nobody"));
        await Expect.RefusedAsync(Errno.ENODEV, () => world.Fabric.UnregisterDriverAsync(world.Driver("never", "a")));
        e = await Expect.RefusedAsync(Errno.EBUSY, () => world.Fabric.RegisterDriverAsync(world.Driver("d", "x")));
        Assert.Equal("Driver 'test.d' is already registered on bus auxiliary. Unregister it first.", e.Message);
        Assert.NotNull(device.Driver);
        Assert.Null(free.Driver);
    }

    [Fact]
    public async Task Error_of_the_probe_is_the_error_of_the_bind()
    {
        var world = await World.NewAsync();
        var driver = world.Driver("d", "a");
        driver.OnProbe = (_, _, _) => throw new VirtbusException(Errno.ENOMEM, "No memory.");
        await world.Fabric.RegisterDriverAsync(driver);
        await world.AddAsync("a", 1);
        var e = await Expect.RefusedAsync(Errno.ENOMEM, () => world.Fabric.BindAsync(driver, "mod.a.1"));
        Assert.Equal("Probe of mod.a.1 by test.d failed: No memory.", e.Message);
        driver.OnProbe = (_, _, _) => throw new InvalidOperationException("a bug");
        await Expect.RefusedAsync(Errno.EIO, () => world.Fabric.BindAsync(driver, "mod.a.1"));
        driver.OnProbe = (_, _, _) => throw new ProbeDeferException("clock is missing");
        e = await Expect.RefusedAsync(Errno.EAGAIN, () => world.Fabric.BindAsync(driver, "mod.a.1"));
        Assert.Contains("clock is missing", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Override_with_bind_is_one_transition_that_nobody_comes_into()
    {
        var world = await World.NewAsync();
        var served = await world.RegisterAsync("served", "a");
        var wanted = await world.RegisterAsync("wanted", "b");
        var device = await world.AddAsync("a", 1);
        Assert.Same(served, device.Driver);
        world.ClearCalls();
        var before = world.Fabric.Uevents.Seqnum;
        var inRemove = new TaskCompletionSource();
        var go = new TaskCompletionSource();
        served.OnRemove = async _ =>
        {
            inRemove.SetResult();
            await go.Task;
        };
        var request = world.Fabric.Tree.WriteAsync("/bus/auxiliary/devices/mod.a.1/driver_override_bind", "test.wanted\n").AsTask();
        await inRemove.Task.In();
        // Between the two somebody has the bus look for a driver: that waits for the whole.
        var thief = world.Fabric.ProbeAsync(world.Bus, device.Name).AsTask();
        Assert.Equal((1, false), (world.Fabric.Transitions.Waiting, thief.IsCompleted));
        go.SetResult();
        await request.In();
        Assert.Same(wanted, device.Driver);
        Assert.Equal("test.wanted", device.DriverOverride);
        await thief.In();
        Assert.Equal(["test.served remove mod.a.1", "test.wanted probe mod.a.1 0"], world.Calls);
        Assert.Equal(["unbind mod.a.1", "bind mod.a.1"], world.Events(before));

        // An empty value lets the bus choose again.
        served.OnRemove = null;
        await world.Fabric.Tree.WriteAsync("/bus/auxiliary/devices/mod.a.1/driver_override_bind", "\n").In();
        Assert.Equal((served, null), (device.Driver, device.DriverOverride));
    }

    [Fact]
    public async Task Override_with_bind_that_can_not_be_changes_nothing_and_a_failed_probe_leaves_the_device_to_its_driver()
    {
        var world = await World.NewAsync();
        var served = await world.RegisterAsync("served", "a");
        var device = await world.AddAsync("a", 1);
        await Expect.RefusedAsync(Errno.ENOENT, () => world.Fabric.OverrideDriverAsync(device, "nobody"));
        await Expect.RefusedAsync(Errno.EINVAL, () => world.Fabric.OverrideDriverAsync(device, new string('x', 4096)));
        await Expect.RefusedAsync(Errno.EOPNOTSUPP, () => world.Fabric.OverrideDriverAsync(world.Parent, "test.served"));
        Assert.Equal((served, null), (device.Driver, device.DriverOverride));
        // The one that has it already keeps it.
        await world.Fabric.OverrideDriverAsync(device, "test.served");
        Assert.Equal((served, "test.served"), (device.Driver, device.DriverOverride));
        (await world.RegisterAsync("broken", "b")).OnProbe = (_, _, _) => throw new VirtbusException(Errno.EIO, "No answer.");
        var e = await Expect.RefusedAsync(Errno.EIO, () => world.Fabric.OverrideDriverAsync(device, "test.broken"));
        Assert.Equal("Probe of mod.a.1 by test.broken failed: No answer.", e.Message);
        Assert.Equal((null, "test.broken"), (device.Driver, device.DriverOverride));
        await Expect.RefusedAsync(Errno.ENODEV, () => world.Fabric.BindAsync(served, device.Name));
        await world.Fabric.DeleteAsync(device);
        await Expect.RefusedAsync(Errno.ENODEV, () => world.Fabric.OverrideDriverAsync(device, "test.served"));
    }

    [Fact]
    public async Task Override_with_bind_from_a_callback_of_the_device_is_refused_and_changes_nothing()
    {
        var world = await World.NewAsync();
        var other = await world.RegisterAsync("other", "b");
        var driver = world.Driver("d", "a");
        driver.OnProbe = async (device, _, _) => await Expect.RefusedAsync(Errno.EDEADLK, () => world.Fabric.OverrideDriverAsync(device, other.Name));
        await world.Fabric.RegisterDriverAsync(driver);
        var device = await world.AddAsync("a", 1);
        Assert.Equal((driver, null), (device.Driver, device.DriverOverride));
    }

    [Fact]
    public async Task Override_binds_its_driver_whatever_the_table_says_and_keeps_every_other_away()
    {
        var world = await World.NewAsync();
        var device = await world.AddAsync("a", 1);
        await world.Fabric.Tree.WriteAsync("/bus/auxiliary/devices/mod.a.1/driver_override", "test.wanted");
        var served = await world.RegisterAsync("served", "a");
        Assert.Null(device.Driver);
        var e = await Expect.RefusedAsync(Errno.ENODEV, () => world.Fabric.BindAsync(served, "mod.a.1"));
        Assert.Equal("Driver test.served can't bind mod.a.1: its driver_override is 'test.wanted'. Clear or change driver_override first.", e.Message);
        var wanted = await world.RegisterAsync("wanted", "elsewhere");
        Assert.Same(wanted, device.Driver);
        Assert.Equal("test.wanted\n", world.Fabric.Tree.Read("/bus/auxiliary/devices/mod.a.1/driver_override"));

        await world.Fabric.Tree.WriteAsync("/bus/auxiliary/devices/mod.a.1/driver_override", "\n");
        Assert.Equal("(null)\n", world.Fabric.Tree.Read("/bus/auxiliary/devices/mod.a.1/driver_override"));
        Assert.Same(wanted, device.Driver);
        await world.Fabric.UnbindAsync(wanted, "mod.a.1");
        await world.Fabric.Tree.WriteAsync("/bus/auxiliary/drivers_probe", "mod.a.1");
        Assert.Same(served, device.Driver);
        Expect.Refused(Errno.EOPNOTSUPP, () => world.Fabric.SetDriverOverride(world.Parent, "x"));
        Expect.Refused(Errno.EINVAL, () => world.Fabric.SetDriverOverride(device, new string('x', 5000)));
    }

    [Fact]
    public async Task Look_for_a_driver_succeeds_whatever_comes_of_it()
    {
        const string Probe = "/bus/auxiliary/drivers_probe";
        var world = await World.NewAsync();
        var driver = await world.RegisterAsync("d", "a");
        var device = await world.AddAsync("a", 1);
        await world.AddAsync("c", 1);
        await world.Fabric.Tree.WriteAsync(Probe, "mod.a.1");
        await world.Fabric.Tree.WriteAsync(Probe, "mod.c.1\n");
        await world.Fabric.UnbindAsync(driver, device.Name);
        driver.OnProbe = (_, _, _) => throw new VirtbusException(Errno.EIO, "No.");
        await world.Fabric.Tree.WriteAsync(Probe, "mod.a.1");
        driver.OnProbe = (_, _, _) => throw new ProbeDeferException("later");
        await world.Fabric.Tree.WriteAsync(Probe, "mod.a.1");
        Assert.Equal((null, "later"), (device.Driver, device.DeferredReason));
        foreach (var nobody in new[] { "nobody", "", "mod.a.2", " mod.a.1", "mod.a.1 " })
            await Expect.RefusedAsync(Errno.ENODEV, () => world.Fabric.Tree.WriteAsync(Probe, nobody));

        var supplier = await world.AddAsync("s", 1);
        world.Fabric.AddLink(device, supplier);
        var e = await Expect.RefusedAsync(Errno.EINVAL, () => world.Fabric.Tree.WriteAsync(Probe, "mod.a.1"));
        Assert.Equal("Device mod.a.1 is not probed yet: supplier mod.s.1 not ready. It is tried again when that is there.", e.Message);
    }

    [Fact]
    public async Task Autoprobe_off_leaves_binding_to_the_user()
    {
        var world = await World.NewAsync();
        await world.Fabric.Tree.WriteAsync("/bus/auxiliary/drivers_autoprobe", "0");
        Assert.Equal("0\n", world.Fabric.Tree.Read("/bus/auxiliary/drivers_autoprobe"));
        var one = await world.AddAsync("a", 1);
        var driver = await world.RegisterAsync("d", "a");
        var two = await world.AddAsync("a", 2);
        Assert.Empty(world.Calls);
        await world.Fabric.Tree.WriteAsync("/bus/auxiliary/drivers_probe", "mod.a.1");
        Assert.Same(driver, one.Driver);
        await world.Fabric.Tree.WriteAsync("/bus/auxiliary/drivers_probe", "mod.a.1");
        Assert.Null(two.Driver);
        await Expect.RefusedAsync(Errno.EINVAL, () => world.Fabric.Tree.WriteAsync("/bus/auxiliary/drivers_autoprobe", "perhaps"));
    }

    [Fact]
    public async Task Dynamic_id_binds_at_once_and_only_a_dynamic_id_is_removed()
    {
        var world = await World.NewAsync();
        var device = await world.AddAsync("b", 1);
        var driver = await world.RegisterAsync("d", "a");
        await world.Fabric.Tree.WriteAsync(Drivers + "test.d/new_id", "mod.b 0x2a");
        Assert.Same(driver, device.Driver);
        Assert.Equal(["test.d probe mod.b.1 42"], world.Calls);
        await Expect.RefusedAsync(Errno.EEXIST, () => world.Fabric.Tree.WriteAsync(Drivers + "test.d/new_id", "mod.b"));
        await Expect.RefusedAsync(Errno.EEXIST, () => world.Fabric.Tree.WriteAsync(Drivers + "test.d/new_id", "mod.a"));
        await Expect.RefusedAsync(Errno.EINVAL, () => world.Fabric.Tree.WriteAsync(Drivers + "test.d/new_id", ""));
        await Expect.RefusedAsync(Errno.EINVAL, () => world.Fabric.Tree.WriteAsync(Drivers + "test.d/new_id", "nodot"));
        await Expect.RefusedAsync(Errno.EINVAL, () => world.Fabric.Tree.WriteAsync(Drivers + "test.d/new_id", "mod.c x"));
        await Expect.RefusedAsync(Errno.ENODEV, () => world.Fabric.Tree.WriteAsync(Drivers + "test.d/remove_id", "mod.a"));
        await world.Fabric.Tree.WriteAsync(Drivers + "test.d/remove_id", "mod.b");
        Assert.Same(driver, device.Driver);
        await Expect.RefusedAsync(Errno.ENODEV, () => world.Fabric.Tree.WriteAsync(Drivers + "test.d/remove_id", "mod.b"));
        Assert.Null((await world.AddAsync("b", 2)).Driver);
    }

    [Fact]
    public async Task Unregistering_a_driver_unbinds_newest_first_and_returns_after_the_last_remove()
    {
        var world = await World.NewAsync();
        var driver = await world.RegisterAsync("d", "a");
        await world.AddAsync("a", 1);
        await world.AddAsync("a", 2);
        world.ClearCalls();
        await world.Fabric.UnregisterDriverAsync(driver);
        Assert.Equal(["test.d remove mod.a.2", "test.d remove mod.a.1"], world.Calls);
        Assert.False(driver.IsRegistered);
        Assert.Empty(world.Bus.Drivers);
        await Expect.RefusedAsync(Errno.ENODEV, () => world.Fabric.UnregisterDriverAsync(driver));
        await world.Fabric.RegisterDriverAsync(driver);
        Assert.Equal(2, driver.Devices.Count);
    }

    [Fact]
    public async Task Unregistering_a_driver_waits_for_the_remove_that_is_under_way()
    {
        var world = await World.NewAsync();
        var driver = await world.RegisterAsync("d", "a");
        var (inRemove, goRemove) = (new TaskCompletionSource(), new TaskCompletionSource());
        driver.OnRemove = async _ =>
        {
            inRemove.SetResult();
            await goRemove.Task;
            world.Say("end of the remove");
        };
        await world.AddAsync("a", 1);
        world.ClearCalls();
        var unregister = world.Fabric.UnregisterDriverAsync(driver).AsTask();
        await inRemove.Task.In();
        Assert.False(unregister.IsCompleted);
        goRemove.SetResult();
        await unregister.In();
        Assert.Equal(["test.d remove mod.a.1", "end of the remove"], world.Calls);
    }

    [Fact]
    public async Task Callbacks_are_optional_and_a_failing_remove_unbinds_all_the_same()
    {
        var world = await World.NewAsync();
        var bare = new BareDriver(world.Bus);
        await world.Fabric.RegisterDriverAsync(bare);
        var device = await world.AddAsync("bare", 1);
        Assert.Same(bare, device.Driver);
        await world.Fabric.SuspendAsync();
        await world.Fabric.ResumeAsync();
        await world.Fabric.ShutdownAsync();
        await world.Fabric.UnbindAsync(bare, "mod.bare.1");
        var failing = await world.RegisterAsync("d", "a");
        failing.OnRemove = _ => throw new InvalidOperationException("no");
        await world.AddAsync("a", 1);
        await world.Fabric.UnregisterDriverAsync(failing);
        Assert.Contains(world.Lines.Lines, l => l.Contains("remove of driver test.d failed", StringComparison.Ordinal));
        Assert.Empty(failing.Devices);
    }

    [Fact]
    public async Task Driver_data_is_cleared_when_the_driver_goes_or_its_probe_fails()
    {
        var world = await World.NewAsync();
        var driver = await world.RegisterAsync("d", "a");
        driver.OnProbe = (d, _, _) =>
        {
            d.SetDriverData("mine");
            return default;
        };
        driver.OnRemove = d =>
        {
            world.Say(d.GetDriverData<string>() ?? "none");
            return default;
        };
        var device = await world.AddAsync("a", 1);
        Assert.Equal("mine", device.GetDriverData<string>());
        Assert.Throws<InvalidCastException>(() => device.GetDriverData<Version>());
        await world.Fabric.UnbindAsync(driver, device.Name);
        Assert.Equal("mine", world.Calls[^1]);
        Assert.Null(device.GetDriverData<string>());
        driver.OnProbe = (d, _, _) =>
        {
            d.SetDriverData("mine");
            throw new VirtbusException(Errno.EIO, "No.");
        };
        await Expect.RefusedAsync(Errno.EIO, () => world.Fabric.BindAsync(driver, device.Name));
        Assert.Null(device.GetDriverData<string>());
    }

    [Fact]
    public async Task Driver_that_suppresses_them_has_no_bind_and_unbind()
    {
        var world = await World.NewAsync();
        await world.Fabric.RegisterDriverAsync(new BareDriver(world.Bus) { SuppressBindAttributes = true });
        await Expect.RefusedAsync(Errno.ENOENT, () => world.Fabric.Tree.WriteAsync(Drivers + "bare/bind", "x"));
    }

    [Fact]
    public async Task Bus_with_devices_or_of_another_fabric_is_not_taken_out()
    {
        var world = await World.NewAsync();
        var device = await world.AddAsync("a", 1);
        Expect.Refused(Errno.EBUSY, () => world.Fabric.UnregisterBus(world.Bus));
        Expect.Refused(Errno.EEXIST, () => world.Fabric.RegisterBus(new AuxiliaryBus()));
        var second = new Fabric();
        Expect.Refused(Errno.EBUSY, () => second.RegisterBus(world.Bus));
        Expect.Refused(Errno.ENODEV, () => second.UnregisterBus(world.Bus));
        await world.Fabric.UnregisterAsync(device);
        world.Fabric.UnregisterBus(world.Bus);
        await Expect.RefusedAsync(Errno.EINVAL, () => world.Fabric.AddAsync(world.New("a", 2)));
        second.RegisterBus(world.Bus);
        await Expect.RefusedAsync(Errno.EINVAL, () => world.Fabric.RegisterDriverAsync(world.Driver("d", "a")));
    }

    private sealed class BareDriver(AuxiliaryBus bus) : AuxiliaryDriver<AuxiliaryDevice>(bus, "bare", null, new AuxiliaryDeviceId("mod.bare"));
}
