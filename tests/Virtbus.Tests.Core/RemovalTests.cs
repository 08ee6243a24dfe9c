using Virtbus.Buses.Auxiliary;
using Virtbus.Core;
using Virtbus.Platform;

namespace Virtbus.Tests.Core;

/// <summary>Surprise removal at any moment, and callbacks that ask for what would wait for them: EDEADLK, never a hang. DM-01, DM-03, DM-21.</summary>
public sealed class RemovalTests
{
    [Fact]
    public async Task Device_that_vanishes_in_its_probe_has_the_probe_cancelled_and_is_not_bound()
    {
        var world = await World.NewAsync();
        var inProbe = new TaskCompletionSource();
        var driver = await world.RegisterAsync("d", "a");
        await world.RegisterAsync("next", "a");
        driver.OnProbe = async (d, _, token) =>
        {
            inProbe.SetResult();
            await Deadline.NeverAsync(token);
        };
        var device = world.New("a", 1);
        var add = world.Fabric.AddAsync(device).AsTask();
        await inProbe.Task.In();
        await world.Fabric.SurpriseRemoveAsync(device).In();
        await add.In();
        Assert.True(device.IsGone);
        Assert.Equal(DeviceState.Deleted, device.State);
        Assert.Equal(["test.d probe mod.a.1 1"], world.Calls);
        Assert.Equal(1, device.References);
    }

    [Fact]
    public async Task Probe_that_ends_well_after_its_device_vanished_is_undone()
    {
        var world = await World.NewAsync();
        var inProbe = new TaskCompletionSource();
        var go = new TaskCompletionSource();
        var driver = await world.RegisterAsync("d", "a");
        driver.OnProbe = async (d, _, _) =>
        {
            d.Resources.AddAction(() =>
            {
                world.Say("released");
                return default;
            });
            inProbe.SetResult();
            await go.Task;
        };
        var device = world.New("a", 1);
        var add = world.Fabric.AddAsync(device).AsTask();
        await inProbe.Task.In();
        var remove = world.Fabric.SurpriseRemoveAsync(device).AsTask();
        go.SetResult();
        await Task.WhenAll(add, remove).In();
        Assert.Equal(["test.d probe mod.a.1 1", "test.d remove mod.a.1", "released"], world.Calls);
        Assert.DoesNotContain("bind mod.a.1", world.Events());
    }

    [Fact]
    public async Task Everything_below_a_vanished_device_is_gone_at_once_and_gets_no_next_driver()
    {
        var world = await World.NewAsync();
        var inProbe = new TaskCompletionSource();
        var gone = new List<bool>();
        var top = await world.AddAsync("x", 1);
        var driver = await world.RegisterAsync("d", "a");
        driver.OnProbe = async (_, _, token) =>
        {
            inProbe.SetResult();
            await Deadline.NeverAsync(token);
        };
        await world.RegisterAsync("next", "a");
        var topDriver = await world.RegisterAsync("top", "x");
        topDriver.OnRemove = d =>
        {
            gone.Add(d.IsGone);
            return default;
        };
        var child = world.New("a", 1, top);
        var add = world.Fabric.AddAsync(child).AsTask();
        await inProbe.Task.In();
        await world.Fabric.SurpriseRemoveAsync(top).In();
        await add.In();
        Assert.True(child.IsGone);
        Assert.Equal([true], gone);
        Assert.DoesNotContain(world.Calls, c => c.StartsWith("test.next", StringComparison.Ordinal));
        Assert.Single(world.Fabric.AllDevices);
    }

    [Fact]
    public async Task Device_that_vanishes_in_its_remove_is_removed_once()
    {
        var world = await World.NewAsync();
        var inRemove = new TaskCompletionSource();
        var go = new TaskCompletionSource();
        var driver = await world.RegisterAsync("d", "a");
        driver.OnRemove = async _ =>
        {
            inRemove.SetResult();
            await go.Task;
        };
        var device = await world.AddAsync("a", 1);
        var unbind = world.Fabric.UnbindAsync(driver, device.Name).AsTask();
        await inRemove.Task.In();
        var surprise = world.Fabric.SurpriseRemoveAsync(device).AsTask();
        go.SetResult();
        await Task.WhenAll(unbind, surprise).In();
        Assert.Equal(["test.d probe mod.a.1 1", "test.d remove mod.a.1"], world.Calls);
    }

    [Fact]
    public async Task Callback_that_fails_when_its_probe_is_cancelled_does_not_stop_the_removal()
    {
        var world = await World.NewAsync();
        var inProbe = new TaskCompletionSource();
        var driver = await world.RegisterAsync("d", "a");
        driver.OnProbe = async (_, _, token) =>
        {
            using var registration = token.Register(() => throw new InvalidOperationException("callback"));
            inProbe.SetResult();
            await Deadline.NeverAsync(token);
        };
        var device = world.New("a", 1);
        var add = world.Fabric.AddAsync(device).AsTask();
        await inProbe.Task.In();
        await world.Fabric.DeleteAsync(device).In();
        await add.In();
        Assert.Empty(world.Bus.Devices);
    }

    [Fact]
    public async Task Probe_that_reports_its_own_hardware_gone_is_removed_when_it_has_returned()
    {
        var world = await World.NewAsync();
        var driver = await world.RegisterAsync("d", "a");
        driver.OnProbe = async (d, _, token) =>
        {
            await world.Fabric.SurpriseRemoveAsync(d);
            Assert.True(token.IsCancellationRequested);
            token.ThrowIfCancellationRequested();
        };
        var device = await world.AddAsync("a", 1).In();
        await world.Fabric.SettleAsync().In();
        Assert.Equal(DeviceState.Deleted, device.State);
        Assert.Empty(world.Bus.Devices);
    }

    [Fact]
    public async Task Probe_that_deletes_itself_or_unbinds_or_deletes_its_parent_is_refused()
    {
        var world = await World.NewAsync();
        await world.RegisterAsync("top", "x");
        var top = await world.AddAsync("x", 1);
        var driver = await world.RegisterAsync("d", "a");
        driver.OnProbe = async (d, _, _) =>
        {
            await Expect.RefusedAsync(Errno.EDEADLK, () => world.Fabric.DeleteAsync(d));
            await Expect.RefusedAsync(Errno.EDEADLK, () => world.Fabric.UnbindAsync(top.Driver!, top.Name));
            await Expect.RefusedAsync(Errno.EDEADLK, () => world.Fabric.DeleteAsync(top));
            await Expect.RefusedAsync(Errno.EDEADLK, () => world.Fabric.DeleteAsync(world.Parent));
            await Expect.RefusedAsync(Errno.EDEADLK, () => world.Fabric.ProbeAsync(world.Bus, d.Name));
            await Expect.RefusedAsync(Errno.EDEADLK, () => world.Fabric.UnregisterDriverAsync(d.Binding.Driver!));
            await Expect.RefusedAsync(Errno.EDEADLK, () => world.Fabric.SuspendAsync());
        };
        var device = await world.AddAsync("a", 1, top).In();
        Assert.Same(driver, device.Driver);
        Assert.NotNull(top.Driver);
        Assert.All(new Device[] { device, top, world.Parent }, d => Assert.Equal(DeviceState.Added, d.State));
        await world.Fabric.UnregisterDriverAsync(driver).In();
    }

    [Fact]
    public async Task Two_probes_that_unbind_each_other_end_with_one_refused()
    {
        var world = await World.NewAsync();
        var both = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        var inside = 0;
        var refused = 0;
        var driver = new TestDriver(world, "d", new AuxiliaryDeviceId("mod.a")) { ProbeType = ProbeType.PreferAsynchronous };
        var devices = new[] { world.New("a", 1), world.New("a", 2) };
        driver.OnProbe = async (d, _, _) =>
        {
            if (Interlocked.Increment(ref inside) == 2)
                both.SetResult();
            await both.Task;
            try
            {
                await world.Fabric.UnbindAsync(driver, devices[d == devices[0] ? 1 : 0].Name);
            }
            catch (VirtbusException e) when (e.Errno == Errno.EDEADLK)
            {
                Interlocked.Increment(ref refused);
            }
        };
        await world.Fabric.RegisterDriverAsync(driver);
        foreach (var device in devices)
            await world.Fabric.AddAsync(device);
        await world.Fabric.SettleAsync().In();
        Assert.Equal(1, refused);
    }

    [Fact]
    public async Task Two_removes_that_delete_each_others_device_end()
    {
        var world = await World.NewAsync();
        var both = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        var inside = 0;
        var refused = 0;
        var driver = await world.RegisterAsync("d", "a");
        var one = await world.AddAsync("a", 1);
        var two = await world.AddAsync("a", 2);
        driver.OnRemove = async d =>
        {
            if (Interlocked.Increment(ref inside) == 2)
                both.SetResult();
            // No thread is held: a busy pool may have none for the other one for a long time.
            await both.Task;
            try
            {
                await world.Fabric.DeleteAsync(d == one ? two : one);
            }
            catch (VirtbusException e) when (e.Errno == Errno.EDEADLK)
            {
                Interlocked.Increment(ref refused);
            }
        };
        await Task.WhenAll(Task.Run(() => world.Fabric.DeleteAsync(one).AsTask()), Task.Run(() => world.Fabric.DeleteAsync(two).AsTask())).In();
        Assert.InRange(refused, 1, 2);
        Assert.Empty(world.Bus.Devices);
    }

    [Fact]
    public async Task Deleting_a_tree_is_not_stopped_by_a_callback_below_that_waits_for_its_top()
    {
        var world = await World.NewAsync();
        var inProbe = new TaskCompletionSource();
        var topProbes = new TaskCompletionSource();
        Errno? answer = null;
        var topDriver = await world.RegisterAsync("top", "x");
        var top = await world.AddAsync("x", 1);
        var driver = await world.RegisterAsync("d", "a");
        driver.OnProbe = async (_, _, token) =>
        {
            inProbe.TrySetResult();
            await topProbes.Task;
            try
            {
                // Waits for the top's transition, which the delete holds.
                await world.Fabric.BindAsync(topDriver, top.Name);
            }
            catch (VirtbusException e)
            {
                answer = e.Errno;
            }
        };
        var child = world.New("a", 1, top);
        var add = world.Fabric.AddAsync(child).AsTask();
        await inProbe.Task.In();
        await world.Fabric.UnbindAsync(topDriver, top.Name).In();
        var delete = world.Fabric.DeleteAsync(top).AsTask();
        topProbes.SetResult();
        await Task.WhenAll(add, delete).In();
        Assert.Equal(Errno.EDEADLK, answer);
        Assert.Equal(["parent"], world.Fabric.AllDevices.Select(d => d.Name));
    }

    [Fact]
    public async Task Work_that_a_probe_left_running_may_delete_the_device_later()
    {
        var world = await World.NewAsync();
        var go = new TaskCompletionSource();
        Task? left = null;
        var driver = await world.RegisterAsync("d", "a");
        driver.OnProbe = (d, _, _) =>
        {
            left = Task.Run(async () =>
            {
                await go.Task;
                await world.Fabric.DeleteAsync(d);
            });
            return default;
        };
        await world.AddAsync("a", 1);
        go.SetResult();
        await left!.In();
        Assert.Empty(world.Bus.Devices);
    }

    [Fact]
    public async Task Driver_that_registers_another_driver_in_its_probe_does_not_wait_for_itself()
    {
        var world = await World.NewAsync();
        var second = world.Driver("second", "a");
        var first = await world.RegisterAsync("first", "a");
        first.OnProbe = async (_, _, _) =>
        {
            await world.Fabric.RegisterDriverAsync(second);
            throw new VirtbusException(Errno.ENODEV, "Not mine; but I know whose it is.");
        };
        var device = await world.AddAsync("a", 1).In();
        await world.Fabric.SettleAsync().In();
        Assert.Same(second, device.Driver);
    }
}
