using Virtbus.Core;
using Virtbus.Platform;

namespace Virtbus.Tests.Core;

/// <summary>System sleep, shutdown and runtime power: DM-15, DM-16, DM-17, DM-18, DM-19.</summary>
public sealed class PowerTests
{
    // root complex > bus segment > function > part: each level has a driver that logs.
    private static async Task<(World World, Ops Ops, Device[] Levels, Device Sibling)> TreeAsync()
    {
        var world = await World.NewAsync();
        var ops = new Ops(world);
        var driver = world.Driver("d", "a");
        driver.Power = ops;
        await world.Fabric.RegisterDriverAsync(driver);
        var levels = new Device[4];
        for (var i = 0u; i < 4; i++)
            levels[i] = await world.AddAsync("a", i, i == 0 ? null : levels[i - 1]);
        var sibling = await world.AddAsync("a", 9, levels[2]);
        world.ClearCalls();
        return (world, ops, levels, sibling);
    }

    [Fact]
    public async Task Children_sleep_before_parents_newest_first_and_wake_in_exact_reverse()
    {
        var (world, _, _, _) = await TreeAsync();
        await world.Fabric.SuspendAsync();
        var down = world.Calls;
        Assert.Equal(
            [
                "prepare 0", "prepare 1", "prepare 2", "prepare 3", "prepare 9",
                "suspend 9", "suspend 3", "suspend 2", "suspend 1", "suspend 0",
                "suspend_late 9", "suspend_late 3", "suspend_late 2", "suspend_late 1", "suspend_late 0",
                "suspend_noirq 9", "suspend_noirq 3", "suspend_noirq 2", "suspend_noirq 1", "suspend_noirq 0",
            ],
            down);
        world.ClearCalls();
        await world.Fabric.ResumeAsync();
        var names = new Dictionary<string, string>
        {
            ["suspend_noirq"] = "resume_noirq", ["suspend_late"] = "resume_early", ["suspend"] = "resume", ["prepare"] = "complete",
        };
        Assert.Equal(down.Reverse().Select(c => names[c.Split(' ')[0]] + " " + c.Split(' ')[1]), world.Calls);
    }

    [Fact]
    public async Task Shutdown_goes_children_first_and_needs_no_callbacks()
    {
        var (world, _, _, _) = await TreeAsync();
        await world.Fabric.ShutdownAsync();
        Assert.Equal(["9", "3", "2", "1", "0"], world.Calls.Select(c => c[^1..]));
    }

    [Theory]
    [InlineData("suspend 2", "prepare 0|prepare 1|prepare 2|prepare 3|prepare 9|suspend 9|suspend 3|suspend 2|resume 3|resume 9|complete 9|complete 3|complete 2|complete 1|complete 0")]
    [InlineData("prepare 1", "prepare 0|prepare 1|complete 0")]
    [InlineData("suspend_late 3", "prepare 0|prepare 1|prepare 2|prepare 3|prepare 9|suspend 9|suspend 3|suspend 2|suspend 1|suspend 0|suspend_late 9|suspend_late 3|resume_early 9|resume 0|resume 1|resume 2|resume 3|resume 9|complete 9|complete 3|complete 2|complete 1|complete 0")]
    public async Task Failing_suspend_unwinds_what_was_done(string fail, string calls)
    {
        var (world, ops, levels, _) = await TreeAsync();
        ops.Fail = fail;
        var e = await Expect.RefusedAsync(Errno.EBUSY, () => world.Fabric.SuspendAsync());
        Assert.Contains($"mod.a.{fail[^1]} refused to", e.Message, StringComparison.Ordinal);
        Assert.Equal(calls.Split('|'), world.Calls);
        Assert.All(levels, d => Assert.False(d.Power.IsSuspended));
    }

    [Fact]
    public async Task Failing_suspend_leaves_asleep_what_slept_before()
    {
        var (world, ops, levels, sibling) = await TreeAsync();
        await world.Fabric.SuspendAsync(sibling);
        ops.Fail = "suspend 2";
        await Expect.RefusedAsync(Errno.EBUSY, () => world.Fabric.SuspendAsync());
        Assert.True(sibling.Power.IsSuspended);
        Assert.False(levels[3].Power.IsSuspended);
    }

    [Fact]
    public async Task Device_added_during_a_failing_suspend_is_probed_afterwards()
    {
        var (world, ops, levels, _) = await TreeAsync();
        Device? late = null;
        ops.Hook = async call =>
        {
            if (call == "suspend 3")
                late = await world.AddAsync("a", 7, levels[2]);
        };
        ops.Fail = "suspend 2";
        await Expect.RefusedAsync(Errno.EBUSY, () => world.Fabric.SuspendAsync());
        Assert.NotNull(late!.Driver);
    }

    [Fact]
    public async Task Probe_of_a_device_below_a_sleeping_one_waits_for_the_resume()
    {
        var (world, _, levels, _) = await TreeAsync();
        await world.Fabric.SuspendAsync(levels[1]);
        var late = await world.AddAsync("a", 7, levels[3]);
        Assert.Null(late.Driver);
        await world.Fabric.ResumeAsync(levels[1]);
        Assert.NotNull(late.Driver);
    }

    [Fact]
    public async Task Part_of_the_tree_sleeps_with_its_consumers_and_wakes_after_what_it_needs()
    {
        var (world, _, levels, sibling) = await TreeAsync();
        var consumer = await world.AddAsync("a", 5);
        world.Fabric.AddLink(consumer, levels[3]);
        world.ClearCalls();
        await world.Fabric.SuspendAsync(levels[3]);
        Assert.Equal(["suspend 5", "suspend 3"], world.Calls.Where(c => c.StartsWith("suspend ", StringComparison.Ordinal)));
        Assert.False(sibling.Power.IsSuspended);
        var e = await Expect.RefusedAsync(Errno.EBUSY, () => world.Fabric.ResumeAsync(consumer));
        Assert.Equal("Device mod.a.5 can't resume while mod.a.3, which it needs, is suspended. Resume mod.a.3.", e.Message);
        await world.Fabric.SuspendAsync(levels[2]);
        await Expect.RefusedAsync(Errno.EBUSY, () => world.Fabric.ResumeAsync(levels[3]));
        await world.Fabric.ResumeAsync(levels[2]);
        Assert.All(world.Fabric.AllDevices, d => Assert.False(d.Power.IsSuspended));
    }

    [Fact]
    public async Task Consumer_below_a_sleeping_parent_does_not_wake_with_its_supplier()
    {
        var (world, _, levels, _) = await TreeAsync();
        var shelf = await world.AddAsync("a", 4);
        var consumer = await world.AddAsync("a", 5, shelf);
        world.Fabric.AddLink(consumer, levels[3]);
        await world.Fabric.SuspendAsync(shelf);
        await world.Fabric.SuspendAsync(levels[3]);
        await world.Fabric.ResumeAsync(levels[3]);
        Assert.True(consumer.Power.IsSuspended);
        await world.Fabric.ResumeAsync(shelf);
        Assert.False(consumer.Power.IsSuspended);
    }

    [Fact]
    public async Task Unbound_parent_does_not_break_the_power_of_its_children()
    {
        var (world, _, levels, _) = await TreeAsync();
        await world.Fabric.UnbindAsync(levels[1].Driver!, levels[1].Name);
        world.ClearCalls();
        await world.Fabric.SuspendAsync();
        Assert.Equal(["suspend 9", "suspend 3", "suspend 2", "suspend 0"], world.Calls.Where(c => c.StartsWith("suspend ", StringComparison.Ordinal)));
        await world.Fabric.ResumeAsync();
    }

    [Fact]
    public async Task One_power_transition_at_a_time()
    {
        var (world, ops, _, _) = await TreeAsync();
        ops.Hook = async call =>
        {
            if (call == "suspend 3")
                await Expect.RefusedAsync(Errno.EDEADLK, () => world.Fabric.ResumeAsync());
        };
        await world.Fabric.SuspendAsync().In();
        Assert.Equal("suspended\n", world.Fabric.Tree.Read("/bus/auxiliary/devices/mod.a.3/power/state"));
        await world.Fabric.Tree.WriteAsync("/power/state", "on");
        Assert.Equal("on\n", world.Fabric.Tree.Read("/bus/auxiliary/devices/mod.a.3/power/state"));
    }

    [Fact]
    public async Task Runtime_uses_wake_parents_first_and_let_them_sleep_last()
    {
        var (world, _, levels, _) = await TreeAsync();
        foreach (var device in levels)
            device.Power.EnableRuntime(active: false);
        await levels[3].Power.RuntimeGetAsync();
        Assert.Equal(["runtime_resume 0", "runtime_resume 1", "runtime_resume 2", "runtime_resume 3"], world.Calls);
        Assert.Equal((1, 1), (levels[2].Power.RuntimeUsage, levels[2].Power.RuntimeActiveChildren));
        await levels[3].Power.RuntimeGetAsync();
        world.ClearCalls();
        await levels[3].Power.RuntimePutAsync();
        Assert.Empty(world.Calls);
        await levels[3].Power.RuntimePutAsync();
        Assert.Equal(["runtime_suspend 3", "runtime_suspend 2", "runtime_suspend 1", "runtime_suspend 0"], world.Calls);
        Assert.All(levels, d => Assert.Equal((0, 0, RuntimeStatus.Suspended), (d.Power.RuntimeUsage, d.Power.RuntimeActiveChildren, d.Power.RuntimeStatus)));
        await Expect.RefusedAsync(Errno.EINVAL, () => levels[3].Power.RuntimePutAsync());
    }

    [Fact]
    public async Task Runtime_error_is_a_state_that_a_rebind_clears_and_busy_is_none()
    {
        var (world, ops, levels, _) = await TreeAsync();
        levels[3].Power.EnableRuntime(active: false);
        ops.Fail = "runtime_resume 3";
        ops.Error = Errno.EBUSY;
        await Expect.RefusedAsync(Errno.EBUSY, () => levels[3].Power.RuntimeGetAsync());
        Assert.Equal((RuntimeStatus.Suspended, 0, 0), (levels[3].Power.RuntimeStatus, levels[3].Power.RuntimeUsage, levels[2].Power.RuntimeUsage));
        ops.Error = Errno.EIO;
        await Expect.RefusedAsync(Errno.EIO, () => levels[3].Power.RuntimeGetAsync());
        Assert.Equal((RuntimeStatus.Error, 0), (levels[3].Power.RuntimeStatus, levels[2].Power.RuntimeUsage));
        Assert.Equal("error\n", world.Fabric.Tree.Read("/bus/auxiliary/devices/mod.a.3/power/runtime_status"));
        await Expect.RefusedAsync(Errno.EINVAL, () => levels[3].Power.RuntimeGetAsync());
        var driver = levels[3].Driver!;
        await world.Fabric.UnbindAsync(driver, levels[3].Name);
        Assert.Equal(RuntimeStatus.Unsupported, levels[3].Power.RuntimeStatus);
    }

    [Fact]
    public async Task Child_that_is_awake_keeps_its_parent_awake_until_it_goes()
    {
        var (world, _, levels, sibling) = await TreeAsync();
        levels[2].Power.EnableRuntime(active: true);
        sibling.Power.EnableRuntime(active: true);
        await levels[2].Power.RuntimeGetAsync();
        await levels[2].Power.RuntimePutAsync();
        Assert.Equal(RuntimeStatus.Active, levels[2].Power.RuntimeStatus);
        await world.Fabric.UnbindAsync(sibling.Driver!, sibling.Name);
        Assert.Equal((RuntimeStatus.Suspended, 0), (levels[2].Power.RuntimeStatus, levels[2].Power.RuntimeActiveChildren));
    }

    [Fact]
    public async Task Failed_probe_leaves_no_runtime_count_behind()
    {
        var (world, _, levels, _) = await TreeAsync();
        var failing = await world.RegisterAsync("f", "f");
        failing.OnProbe = (d, _, _) =>
        {
            d.Power.EnableRuntime(active: true);
            throw new VirtbusException(Errno.EIO, "No.");
        };
        var device = await world.AddAsync("f", 1, levels[3]);
        Assert.Equal((RuntimeStatus.Unsupported, 0), (device.Power.RuntimeStatus, levels[3].Power.RuntimeActiveChildren));
    }

    [Fact]
    public async Task Uses_of_a_child_survive_the_unbind_of_its_parent_and_are_given_back()
    {
        var (world, _, levels, _) = await TreeAsync();
        await levels[3].Power.RuntimeGetAsync();
        var driver = levels[2].Driver!;
        await world.Fabric.UnbindAsync(driver, levels[2].Name);
        await world.Fabric.BindAsync(driver, levels[2].Name);
        await levels[3].Power.RuntimePutAsync();
        Assert.All(levels, d => Assert.Equal(0, d.Power.RuntimeUsage));
        await levels[3].Power.RuntimeGetAsync();
        await world.Fabric.DeleteAsync(levels[3]);
        Assert.Equal(0, levels[2].Power.RuntimeUsage);
    }

    [Fact]
    public async Task Link_removed_while_in_use_gives_back_what_was_taken()
    {
        var (world, _, levels, _) = await TreeAsync();
        var supplier = await world.AddAsync("a", 6);
        var link = world.Fabric.AddLink(levels[3], supplier, DeviceLinkFlags.Stateless | DeviceLinkFlags.PmRuntime);
        await levels[3].Power.RuntimeGetAsync();
        Assert.Equal(1, supplier.Power.RuntimeUsage);
        world.Fabric.RemoveLink(link);
        await world.Fabric.SettleAsync().In();
        Assert.Equal(0, supplier.Power.RuntimeUsage);
        await levels[3].Power.RuntimePutAsync();
        Assert.Equal(0, supplier.Power.RuntimeUsage);
    }

    [Fact]
    public async Task Link_that_becomes_PmRuntime_wakes_the_supplier_with_the_next_resume_of_the_consumer()
    {
        var (world, _, levels, _) = await TreeAsync();
        var supplier = await world.AddAsync("a", 6);
        supplier.Power.EnableRuntime(active: false);
        levels[3].Power.EnableRuntime(active: false);
        var link = world.Fabric.AddLink(levels[3], supplier);
        await levels[3].Power.RuntimeGetAsync();
        Assert.Equal(RuntimeStatus.Suspended, supplier.Power.RuntimeStatus);
        Assert.Same(link, world.Fabric.AddLink(levels[3], supplier, DeviceLinkFlags.PmRuntime));
        Assert.Equal((RuntimeStatus.Suspended, 0), (supplier.Power.RuntimeStatus, supplier.Power.RuntimeUsage));
        await levels[3].Power.RuntimePutAsync();
        Assert.Equal((RuntimeStatus.Suspended, 0), (supplier.Power.RuntimeStatus, supplier.Power.RuntimeUsage));
        await levels[3].Power.RuntimeGetAsync();
        Assert.Equal((RuntimeStatus.Active, 1), (supplier.Power.RuntimeStatus, supplier.Power.RuntimeUsage));
        await levels[3].Power.RuntimePutAsync();
        Assert.Equal((RuntimeStatus.Suspended, 0), (supplier.Power.RuntimeStatus, supplier.Power.RuntimeUsage));
    }

    [Fact]
    public async Task RpmActive_wakes_the_supplier_at_once_until_the_consumer_sleeps_or_the_link_goes()
    {
        var (world, _, levels, _) = await TreeAsync();
        var supplier = await world.AddAsync("a", 6);
        supplier.Power.EnableRuntime(active: false);
        const DeviceLinkFlags Awake = DeviceLinkFlags.PmRuntime | DeviceLinkFlags.RpmActive;
        Expect.Refused(Errno.EINVAL, () => world.Fabric.AddLink(levels[3], supplier, Awake));
        var link = await world.Fabric.AddLinkAsync(levels[3], supplier, DeviceLinkFlags.Stateless);
        Assert.Same(link, await world.Fabric.AddLinkAsync(levels[3], supplier, DeviceLinkFlags.Stateless | Awake));
        Assert.Equal((RuntimeStatus.Active, 1), (supplier.Power.RuntimeStatus, supplier.Power.RuntimeUsage));
        Assert.Equal(DeviceLinkFlags.Stateless | DeviceLinkFlags.PmRuntime, link.Flags);
        await levels[3].Power.RuntimeGetAsync();
        Assert.Equal(2, supplier.Power.RuntimeUsage);
        await levels[3].Power.RuntimePutAsync();
        Assert.Equal((RuntimeStatus.Suspended, 0), (supplier.Power.RuntimeStatus, supplier.Power.RuntimeUsage));

        await world.Fabric.AddLinkAsync(levels[3], supplier, DeviceLinkFlags.Stateless | Awake);
        Assert.Equal((RuntimeStatus.Active, 1), (supplier.Power.RuntimeStatus, supplier.Power.RuntimeUsage));
        for (var i = 0; i < 3; i++)
            world.Fabric.RemoveLink(link);
        await world.Fabric.SettleAsync().In();
        Assert.Empty(world.Fabric.Links);
        Assert.Equal((RuntimeStatus.Suspended, 0), (supplier.Power.RuntimeStatus, supplier.Power.RuntimeUsage));

        // A refused link leaves no use behind.
        await Expect.RefusedAsync(Errno.EINVAL, async () => await world.Fabric.AddLinkAsync(supplier, supplier, Awake));
        Assert.Equal((RuntimeStatus.Suspended, 0), (supplier.Power.RuntimeStatus, supplier.Power.RuntimeUsage));
    }

    [Fact]
    public async Task Link_that_goes_while_its_supplier_wakes_leaves_no_use_behind()
    {
        var (world, ops, levels, _) = await TreeAsync();
        var supplier = await world.AddAsync("a", 6);
        supplier.Power.EnableRuntime(active: false);
        levels[3].Power.EnableRuntime(active: false);
        var link = world.Fabric.AddLink(levels[3], supplier, DeviceLinkFlags.Stateless | DeviceLinkFlags.PmRuntime);
        ops.Hook = call =>
        {
            if (call == "runtime_resume 6")
                world.Fabric.RemoveLink(link);
            return Task.CompletedTask;
        };
        await levels[3].Power.RuntimeGetAsync().AsTask().In();
        await world.Fabric.SettleAsync().In();
        Assert.Empty(world.Fabric.Links);
        Assert.Equal((RuntimeStatus.Active, 1), (levels[3].Power.RuntimeStatus, levels[3].Power.RuntimeUsage));
        Assert.Equal((RuntimeStatus.Suspended, 0), (supplier.Power.RuntimeStatus, supplier.Power.RuntimeUsage));
    }

    [Fact]
    public async Task Auto_takes_effect_after_one_put_too_many()
    {
        var (world, ops, levels, _) = await TreeAsync();
        levels[3].Power.EnableRuntime(active: false);
        const string Control = "/bus/auxiliary/devices/mod.a.3/power/control";
        await world.Fabric.Tree.WriteAsync(Control, "on");
        await levels[3].Power.RuntimePutAsync();
        await Expect.RefusedAsync(Errno.EINVAL, () => levels[3].Power.RuntimePutAsync());
        Assert.Equal("on\n", world.Fabric.Tree.Read(Control));
        await world.Fabric.Tree.WriteAsync(Control, "auto");
        Assert.Equal("auto\n", world.Fabric.Tree.Read(Control));
        Assert.Equal((RuntimeStatus.Suspended, 0), (levels[3].Power.RuntimeStatus, levels[3].Power.RuntimeUsage));
        Assert.Contains("Warning mod.a.3: a runtime use was given up that nobody had taken; the count stays 0", world.Lines.Lines);
        await world.Fabric.Tree.WriteAsync(Control, "on");
        Assert.Equal((RuntimeStatus.Active, 1), (levels[3].Power.RuntimeStatus, levels[3].Power.RuntimeUsage));

        // Nor does it matter that the device does not want to sleep just then.
        ops.Fail = "runtime_suspend 3";
        await world.Fabric.Tree.WriteAsync(Control, "auto");
        Assert.Equal("auto\n", world.Fabric.Tree.Read(Control));
        Assert.Equal(0, levels[3].Power.RuntimeUsage);
    }

    [Fact]
    public async Task Put_too_many_in_a_remove_does_not_break_the_unbind()
    {
        var world = await World.NewAsync();
        var driver = await world.RegisterAsync("d", "a");
        driver.OnProbe = (d, _, _) =>
        {
            d.Power.EnableRuntime(active: true);
            return default;
        };
        driver.OnRemove = async d => await d.Power.RuntimePutAsync();
        var device = await world.AddAsync("a", 1);
        await world.Fabric.UnbindAsync(driver, device.Name);
        Assert.Equal((BindingState.Unbound, 0), (device.Binding.State, device.Power.RuntimeUsage));
        await world.Fabric.BindAsync(driver, device.Name);
        Assert.NotNull(device.Driver);
    }

    [Fact]
    public async Task Control_on_keeps_a_device_awake()
    {
        var (world, _, levels, _) = await TreeAsync();
        levels[0].Power.EnableRuntime(active: false);
        const string Control = "/bus/auxiliary/devices/mod.a.0/power/control";
        await world.Fabric.Tree.WriteAsync(Control, "on");
        await world.Fabric.Tree.WriteAsync(Control, "on");
        Assert.Equal((RuntimeStatus.Active, 1), (levels[0].Power.RuntimeStatus, levels[0].Power.RuntimeUsage));
        await world.Fabric.Tree.WriteAsync(Control, "auto");
        Assert.Equal((RuntimeStatus.Suspended, 0), (levels[0].Power.RuntimeStatus, levels[0].Power.RuntimeUsage));
        await Expect.RefusedAsync(Errno.EINVAL, () => world.Fabric.Tree.WriteAsync(Control, "maybe"));
    }

    [Fact]
    public async Task Remove_runs_on_an_awake_device_and_no_runtime_callback_after_it()
    {
        var (world, _, levels, _) = await TreeAsync();
        levels[3].Power.EnableRuntime(active: true);
        await levels[3].Power.RuntimeGetAsync();
        await levels[3].Power.RuntimePutAsync();
        world.ClearCalls();
        await world.Fabric.UnbindAsync(levels[3].Driver!, levels[3].Name);
        Assert.Equal(["runtime_resume 3", "test.d remove mod.a.3"], world.Calls);
    }

    private sealed class Ops(World world) : IPowerOps
    {
        public string Fail { get; set; } = "";

        public Errno Error { get; set; } = Errno.EBUSY;

        public Func<string, Task>? Hook { get; set; }

        private async ValueTask Do(string phase, Device device)
        {
            var call = $"{phase} {device.Name[^1]}";
            world.Say(call);
            if (Hook is not null)
                await Hook(call);
            if (call == Fail)
                throw new VirtbusException(Error, "Not now.");
        }

        public ValueTask PrepareAsync(Device device) => Do("prepare", device);

        public ValueTask SuspendAsync(Device device) => Do("suspend", device);

        public ValueTask SuspendLateAsync(Device device) => Do("suspend_late", device);

        public ValueTask SuspendNoIrqAsync(Device device) => Do("suspend_noirq", device);

        public ValueTask ResumeNoIrqAsync(Device device) => Do("resume_noirq", device);

        public ValueTask ResumeEarlyAsync(Device device) => Do("resume_early", device);

        public ValueTask ResumeAsync(Device device) => Do("resume", device);

        public ValueTask CompleteAsync(Device device) => Do("complete", device);

        public ValueTask RuntimeSuspendAsync(Device device) => Do("runtime_suspend", device);

        public ValueTask RuntimeResumeAsync(Device device) => Do("runtime_resume", device);
    }
}
