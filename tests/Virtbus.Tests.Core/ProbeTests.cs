using Virtbus.Buses.Auxiliary;
using Virtbus.Core;
using Virtbus.Platform;

namespace Virtbus.Tests.Core;

/// <summary>Deferred and asynchronous probes, resources, power domains: DM-01, DM-20, DM-24, DM-26 and the probe rules of upstream section 1.3.</summary>
public sealed class ProbeTests
{
    [Fact]
    public async Task Deferred_probe_shows_its_reason_and_is_retried_when_anything_binds()
    {
        var world = await World.NewAsync();
        var ready = false;
        var driver = await world.RegisterAsync("d", "a");
        driver.OnProbe = (_, _, _) => ready ? default : throw new ProbeDeferException("clock is missing");
        await world.RegisterAsync("e", "b");
        var device = await world.AddAsync("a", 1);
        Assert.Null(device.Driver);
        Assert.Equal("clock is missing", device.DeferredReason);
        Assert.Equal("mod.a.1\tclock is missing\n", world.Fabric.Tree.Read("/kernel/debug/devices_deferred"));
        var e = await Expect.RefusedAsync(Errno.EAGAIN, () => world.Fabric.BindAsync(driver, "mod.a.1"));
        Assert.Equal("Probe of mod.a.1 by test.d was deferred: clock is missing. It is tried again when a driver binds.", e.Message);

        ready = true;
        await world.AddAsync("b", 1);
        await world.Fabric.SettleAsync().In();

        Assert.Same(driver, device.Driver);
        Assert.Null(device.DeferredReason);
        Assert.Empty(world.Fabric.DeferredDevices);
        Assert.Equal("", world.Fabric.Tree.Read("/kernel/debug/devices_deferred"));
    }

    [Fact]
    public async Task What_bound_while_a_probe_ran_is_not_missed_when_it_defers()
    {
        var world = await World.NewAsync();
        var looked = new TaskCompletionSource();
        var go = new TaskCompletionSource();
        var ready = false;
        var driver = await world.RegisterAsync("d", "a");
        driver.OnProbe = async (_, _, _) =>
        {
            if (ready)
                return;
            looked.SetResult();
            await go.Task;
            throw new ProbeDeferException("came too early");
        };
        await world.RegisterAsync("e", "b");
        var add = world.AddAsync("a", 1);
        await looked.Task.In();
        ready = true;
        await world.AddAsync("b", 1);
        go.SetResult();
        var device = await add.In();
        await world.Fabric.SettleAsync().In();
        Assert.Same(driver, device.Driver);
    }

    [Fact]
    public async Task Retried_probe_that_fails_leaves_the_list()
    {
        var world = await World.NewAsync();
        Exception error = new ProbeDeferException("clock is missing");
        var driver = await world.RegisterAsync("d", "a");
        driver.OnProbe = (_, _, _) => throw error;
        await world.RegisterAsync("e", "b");
        var device = await world.AddAsync("a", 1);
        Assert.Null(device.ProbeFailure);
        error = new VirtbusException(Errno.EIO, "No.");
        await world.AddAsync("b", 1);
        await world.Fabric.SettleAsync().In();
        Assert.Empty(world.Fabric.DeferredDevices);
        Assert.Null(device.DeferredReason);
        Assert.Equal("No.", device.ProbeFailure);
        world.ClearCalls();
        await world.AddAsync("b", 2);
        await world.Fabric.SettleAsync().In();
        Assert.Equal(["test.e probe mod.b.2 1"], world.Calls);
        // What another driver says counts in its place, and nothing when one takes the device.
        driver.OnProbe = (_, _, _) => throw new InvalidOperationException("a bug");
        await Assert.ThrowsAsync<VirtbusException>(() => world.Fabric.BindAsync(driver, device.Name).AsTask());
        Assert.Equal("a bug", device.ProbeFailure);
        driver.OnProbe = null;
        await world.Fabric.BindAsync(driver, device.Name);
        Assert.Null(device.ProbeFailure);
    }

    [Fact]
    public async Task Driver_that_defers_leaves_the_way_free_for_the_next_one()
    {
        var world = await World.NewAsync();
        (await world.RegisterAsync("d", "a")).OnProbe = (_, _, _) => throw new ProbeDeferException("later");
        var second = await world.RegisterAsync("e", "a");
        var device = await world.AddAsync("a", 1);
        Assert.Same(second, device.Driver);
        Assert.Empty(world.Fabric.DeferredDevices);
    }

    [Fact]
    public async Task Autoprobe_off_keeps_a_deferred_device_where_it_is()
    {
        var world = await World.NewAsync();
        (await world.RegisterAsync("d", "a")).OnProbe = (_, _, _) => throw new ProbeDeferException("later");
        await world.AddAsync("a", 1);
        await world.RegisterAsync("e", "b");
        var other = await world.AddAsync("b", 1);
        world.Bus.DriversAutoprobe = false;
        await world.Fabric.UnbindAsync(other.Driver!, other.Name);
        await world.Fabric.SettleAsync().In();
        world.ClearCalls();
        await world.Fabric.ProbeAsync(world.Bus, other.Name);
        await world.Fabric.SettleAsync().In();
        Assert.Equal(["test.e probe mod.b.1 1"], world.Calls);
        Assert.Single(world.Fabric.DeferredDevices);
    }

    [Fact]
    public async Task Asynchronous_driver_does_not_hold_up_the_add_and_siblings_probe_side_by_side()
    {
        var world = await World.NewAsync();
        var left = 2;
        var both = new TaskCompletionSource();
        var go = new TaskCompletionSource();
        var driver = new TestDriver(world, "d", new AuxiliaryDeviceId("mod.a")) { ProbeType = ProbeType.PreferAsynchronous };
        driver.OnProbe = async (_, _, _) =>
        {
            if (Interlocked.Decrement(ref left) == 0)
                both.SetResult();
            await go.Task;
        };
        await world.Fabric.RegisterDriverAsync(driver);
        var one = await world.AddAsync("a", 1).In();
        var two = await world.AddAsync("a", 2).In();
        await both.Task.In();
        Assert.Null(one.Driver);
        go.SetResult();
        await world.Fabric.SettleAsync().In();
        Assert.Same(driver, one.Driver);
        Assert.Same(driver, two.Driver);
    }

    [Fact]
    public async Task Asynchronous_attempt_does_not_probe_an_earlier_driver_again()
    {
        var world = await World.NewAsync();
        (await world.RegisterAsync("first", "a")).OnProbe = (_, _, _) => throw new VirtbusException(Errno.EIO, "No.");
        await world.Fabric.RegisterDriverAsync(new TestDriver(world, "second", new AuxiliaryDeviceId("mod.a", 1)) { ProbeType = ProbeType.PreferAsynchronous });
        await world.AddAsync("a", 1);
        await world.Fabric.SettleAsync().In();
        Assert.Equal(["test.first probe mod.a.1 1", "test.second probe mod.a.1 1"], world.Calls);
    }

    [Fact]
    public async Task Default_driver_probes_siblings_side_by_side_and_a_force_synchronous_one_never_does()
    {
        foreach (var type in new[] { ProbeType.Default, ProbeType.ForceSynchronous })
        {
            var world = await World.NewAsync();
            for (var i = 0u; i < 4; i++)
                await world.AddAsync("a", i);
            int now = 0, most = 0;
            var driver = new TestDriver(world, "d", new AuxiliaryDeviceId("mod.a")) { ProbeType = type };
            var all = new TaskCompletionSource();
            driver.OnProbe = async (_, _, _) =>
            {
                most = Math.Max(most, Interlocked.Increment(ref now));
                if (type == ProbeType.Default && now == 4)
                    all.SetResult();
                if (type == ProbeType.Default)
                    await all.Task;
                else
                    await Task.Yield();
                Interlocked.Decrement(ref now);
            };
            await world.Fabric.RegisterDriverAsync(driver).In();
            Assert.Equal(type == ProbeType.Default ? 4 : 1, most);
            Assert.Equal(["mod.a.0", "mod.a.1", "mod.a.2", "mod.a.3"], driver.Devices.Select(d => d.Name));
        }
    }

    [Fact]
    public async Task Parents_are_probed_before_what_is_below_them()
    {
        var world = await World.NewAsync();
        var top = await world.AddAsync("a", 1);
        await world.AddAsync("a", 2, top);
        var inProbe = new TaskCompletionSource();
        var go = new TaskCompletionSource();
        var driver = world.Driver("d", "a");
        driver.OnProbe = async (d, _, _) =>
        {
            if (d != top)
                return;
            inProbe.SetResult();
            await go.Task;
            world.Say("top is ready");
        };
        var register = world.Fabric.RegisterDriverAsync(driver).AsTask();
        await inProbe.Task.In();
        go.SetResult();
        await register.In();
        Assert.Equal(["test.d probe mod.a.1 1", "top is ready", "test.d probe mod.a.2 1"], world.Calls);
    }

    [Fact]
    public async Task Who_adds_a_child_from_elsewhere_during_a_probe_can_wait_for_its_driver()
    {
        var world = await World.NewAsync();
        var child = await world.RegisterAsync("child", "c");
        var driver = await world.RegisterAsync("top", "a");
        var inProbe = new TaskCompletionSource<Device>();
        var go = new TaskCompletionSource();
        driver.OnProbe = (d, _, _) =>
        {
            inProbe.SetResult(d);
            return new ValueTask(go.Task);
        };
        var top = world.AddAsync("a", 1);
        var added = await world.AddAsync("c", 1, await inProbe.Task.In()).In();
        Assert.Null(added.Driver);
        using var cancel = new CancellationTokenSource();
        var givenUp = world.Fabric.AwaitAttemptAsync(added, cancel.Token).AsTask();
        var attempt = world.Fabric.AwaitAttemptAsync(added).AsTask();
        await cancel.CancelAsync();
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => givenUp.In());
        Assert.False(attempt.IsCompleted);
        go.SetResult();
        await attempt.In();
        Assert.Same(child, added.Driver);
        await top.In();
        Assert.Equal(["test.top probe mod.a.1 1", "test.child probe mod.c.1 1"], world.Calls);
        // Nothing is waited for where there is nothing.
        await world.Fabric.AwaitAttemptAsync(added).In();
        await world.Fabric.DeleteAsync(added);
        await world.Fabric.AwaitAttemptAsync(added).In();
    }

    [Fact]
    public async Task Child_added_by_a_probe_is_probed_when_that_probe_has_ended()
    {
        var world = await World.NewAsync();
        await world.RegisterAsync("child", "c");
        var driver = await world.RegisterAsync("top", "a");
        driver.OnProbe = async (d, _, _) =>
        {
            await world.AddAsync("c", 1, d);
            world.Say("end of the probe");
        };
        await world.AddAsync("a", 1);
        Assert.Equal(["test.top probe mod.a.1 1", "end of the probe", "test.child probe mod.c.1 1"], world.Calls);
    }

    [Fact]
    public async Task Resources_go_in_reverse_order_on_unbind_and_on_a_failed_probe_and_a_failing_one_does_not_keep_the_others()
    {
        var world = await World.NewAsync();
        var fail = false;
        var driver = await world.RegisterAsync("d", "a");
        driver.OnProbe = (d, _, _) =>
        {
            d.Resources.AddAction(() => Say("first"));
            d.Resources.Add(new Disposer(() => throw new InvalidOperationException("second")));
            d.Resources.Add(new Disposer(() => world.Say("third")));
            return fail ? throw new VirtbusException(Errno.EIO, "No.") : default;
        };
        var device = await world.AddAsync("a", 1);
        Assert.Equal(3, device.Resources.Count);
        world.ClearCalls();
        await world.Fabric.UnbindAsync(driver, device.Name);
        Assert.Equal(["test.d remove mod.a.1", "third", "first"], world.Calls);
        fail = true;
        world.ClearCalls();
        await Expect.RefusedAsync(Errno.EIO, () => world.Fabric.BindAsync(driver, device.Name));
        Assert.Equal(["test.d probe mod.a.1 1", "third", "first"], world.Calls);
        Assert.Equal(0, device.Resources.Count);

        ValueTask Say(string text)
        {
            world.Say(text);
            return default;
        }
    }

    [Fact]
    public async Task Resources_of_a_device_that_was_never_bound_go_when_it_is_deleted()
    {
        var world = await World.NewAsync();
        var device = await world.AddAsync("a", 1);
        var gone = false;
        device.Resources.Add(new Disposer(() => gone = true));
        await world.Fabric.DeleteAsync(device);
        Assert.True(gone);
    }

    [Fact]
    public async Task Power_domain_and_configuration_are_balanced_whatever_fails()
    {
        var fabric = new Fabric();
        var bus = fabric.RegisterBus(new DomainBus());
        var driver = new DomainDriver(bus);
        await fabric.RegisterDriverAsync(driver);
        foreach (var (fail, calls) in new[]
        {
            ("", "configure attach probe"),
            ("configure", "configure"),
            ("attach", "configure attach unconfigure"),
            ("probe", "configure attach probe detach unconfigure"),
            ("probe detach", "configure attach probe detach unconfigure"),
        })
        {
            bus.Calls.Clear();
            bus.Fail = fail;
            var device = new Device("d" + fail.Length, bus: bus);
            await fabric.AddAsync(device);
            Assert.Equal(calls, string.Join(' ', bus.Calls));
            Assert.Equal(fail.Length == 0, device.Driver is not null);
            bus.Calls.Clear();
            bus.Fail = "remove detach";
            await fabric.DeleteAsync(device);
            Assert.Equal(fail.Length == 0 ? "remove detach unconfigure" : "", string.Join(' ', bus.Calls));
        }
    }

    [Fact]
    public async Task Resources_go_before_the_power_domain_that_they_stood_on_and_the_configuration_goes_last()
    {
        var fabric = new Fabric();
        var bus = fabric.RegisterBus(new DomainBus());
        await fabric.RegisterDriverAsync(new DomainDriver(bus) { Acquires = true });
        var device = new Device("d", bus: bus);
        await fabric.AddAsync(device);
        Assert.Equal("configure attach probe", string.Join(' ', bus.Calls));
        bus.Calls.Clear();
        await fabric.DeleteAsync(device);
        Assert.Equal("remove release detach unconfigure", string.Join(' ', bus.Calls));
        bus.Calls.Clear();
        bus.Fail = "probe";
        await fabric.AddAsync(new Device("e", bus: bus));
        Assert.Equal("configure attach probe release detach unconfigure", string.Join(' ', bus.Calls));
    }

    private sealed class Disposer(Action dispose) : IDisposable
    {
        public void Dispose() => dispose();
    }

    private sealed record AnyId() : DeviceId(0);

    private sealed class DomainBus() : Bus("domains"), IPowerDomain
    {
        public List<string> Calls { get; } = [];

        public string Fail { get; set; } = "";

        public ValueTask Do(string call)
        {
            Calls.Add(call);
            return Fail.Split(' ').Contains(call) ? throw new VirtbusException(Errno.EIO, call) : default;
        }

        public override DeviceId? Match(IDeviceIdentity device, Driver driver) => new AnyId();

        protected internal override ValueTask ConfigureAsync(Device device, Driver driver) => Do("configure");

        protected internal override ValueTask UnconfigureAsync(Device device, Driver driver) => Do("unconfigure");

        protected internal override IPowerDomain? GetPowerDomain(Device device) => this;

        public ValueTask AttachAsync(Device device) => Do("attach");

        public ValueTask DetachAsync(Device device) => Do("detach");
    }

    private sealed class DomainDriver(DomainBus bus) : Driver("domain")
    {
        public bool Acquires { get; init; }

        public override Bus Bus => bus;

        protected internal override ValueTask ProbeAsync(Device device, DeviceId id, CancellationToken cancellationToken)
        {
            if (Acquires)
                device.Resources.AddAction(() => bus.Do("release"));
            return bus.Do("probe");
        }

        protected internal override ValueTask RemoveAsync(Device device) => bus.Do("remove");
    }
}
