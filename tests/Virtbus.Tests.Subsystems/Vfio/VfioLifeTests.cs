using Virtbus.Core;
using Virtbus.Platform;
using Virtbus.Subsystems.Vfio;

namespace Virtbus.Tests.Subsystems.Vfio;

/// <summary>The life of a VFIO device under its users: open, close, asked back, taken away (VS-09, VS-12; section 6.1 of the semantics).</summary>
public sealed class VfioLifeTests
{
    [Fact]
    public async Task Registered_device_shows_in_its_class_with_label_and_user()
    {
        var world = await VfioWorld.NewAsync();
        Assert.Equal("vfio0", world.Device.Name);
        Assert.Same(world.Parent, world.Device.Parent);
        Assert.Equal([world.Device], VfioSubsystem.Of(world.Fabric).Class.Devices);
        Assert.Equal("mod.part.0\n", await ReadAsync(world, "label"));
        Assert.Equal("", await ReadAsync(world, "user"));
        Assert.Equal("0\n", await ReadAsync(world, "connected"));
        using (world.Open("guest seven"))
            Assert.Equal("guest seven\n", await ReadAsync(world, "user"));
        Assert.Equal("", await ReadAsync(world, "user"));
    }

    [Fact]
    public async Task Device_in_a_fabric_without_any_bus_is_registered_opened_and_asked_back()
    {
        var fabric = new Fabric();
        var engine = new Device("engine");
        await fabric.AddAsync(engine);
        var ops = new FakeOps();
        var subsystem = VfioSubsystem.Of(fabric);
        var device = await subsystem.RegisterAsync(engine, "engine0", ops);
        Assert.Empty(fabric.Buses);
        Assert.Equal("/devices/engine/vfio-dev/vfio0", device.DevPath);
        Assert.True(device.TryOpen("web1", out var handle, out var fault), fault.Message);
        Assert.True(handle!.TryWrite(0, 8, [1, 2, 3, 4], out _));
        var bytes = new byte[4];
        Assert.True(handle.TryRead(0, 8, bytes, out _));
        Assert.Equal([1, 2, 3, 4], bytes);
        var asked = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        ops.OnRequest = _ => asked.TrySetResult();
        var unregister = subsystem.UnregisterAsync(device).AsTask();
        await asked.Task.In();
        Assert.False(unregister.IsCompleted);
        handle.Dispose();
        await unregister.In();
        Assert.Empty(subsystem.Class.Devices);
    }

    [Fact]
    public void Subsystem_names_no_bus_in_what_it_offers()
    {
        var types = typeof(VfioSubsystem).Assembly.GetTypes().Where(t => t.Namespace == typeof(VfioSubsystem).Namespace);
        const System.Reflection.BindingFlags all = System.Reflection.BindingFlags.Public | System.Reflection.BindingFlags.NonPublic | System.Reflection.BindingFlags.Instance |
            System.Reflection.BindingFlags.Static | System.Reflection.BindingFlags.DeclaredOnly;
        var named = types.SelectMany(t => t.GetMethods(all).SelectMany(m => m.GetParameters().Select(p => p.ParameterType).Append(m.ReturnType)).Concat(t.GetFields(all).Select(f => f.FieldType)));
        Assert.DoesNotContain(named, t => t.FullName?.Contains("Virtbus.Buses", StringComparison.Ordinal) == true);
    }

    [Fact]
    public async Task Second_open_is_EBUSY_and_names_the_user()
    {
        var world = await VfioWorld.NewAsync();
        using var first = world.Open("web1");
        Assert.True(world.Device.IsOpen);
        Assert.False(world.Device.TryOpen("web2", out var second, out var fault));
        Assert.Null(second);
        Assert.Equal(Errno.EBUSY, fault.Errno);
        Assert.Contains("'web1'", fault.Message, StringComparison.Ordinal);
        Assert.Equal(["open"], world.Ops.Calls);
    }

    [Fact]
    public async Task Each_open_opens_and_each_close_closes_once()
    {
        var world = await VfioWorld.NewAsync();
        for (var i = 0; i < 3; i++)
        {
            var handle = world.Open();
            handle.Dispose();
            handle.Dispose();
            Assert.False(world.Device.IsOpen);
        }
        Assert.Equal(["open", "close", "open", "close", "open", "close"], world.Ops.Calls);
    }

    [Fact]
    public async Task Open_that_the_driver_refuses_leaves_the_device_closed()
    {
        var world = await VfioWorld.NewAsync();
        world.Ops.OpenFault = new Fault(Errno.EBUSY, "owned");
        Assert.False(world.Device.TryOpen("web1", out _, out var fault));
        Assert.Equal(Errno.EBUSY, fault.Errno);
        Assert.False(world.Device.IsOpen);
        world.Ops.OpenFault = Fault.None;
        world.Open().Dispose();
        Assert.Equal(["open", "open", "close"], world.Ops.Calls);
    }

    [Fact]
    public async Task Open_in_which_the_driver_throws_is_a_fault_and_leaves_the_device_closed()
    {
        var world = await VfioWorld.NewAsync();
        world.Ops.OnOpen = () => throw new VirtbusException(Errno.ENOSPC, "no vectors");
        Assert.False(world.Device.TryOpen("web1", out _, out var fault));
        Assert.Equal(new Fault(Errno.ENOSPC, "no vectors"), fault);
        world.Ops.OnOpen = () => throw new InvalidOperationException("bug");
        Assert.Throws<InvalidOperationException>(() => world.Device.TryOpen("web1", out _, out _));
        world.Ops.OnOpen = null;
        world.Open().Dispose();
    }

    [Fact]
    public async Task Closed_handle_answers_ENODEV()
    {
        var world = await VfioWorld.NewAsync();
        var handle = world.Open();
        handle.Dispose();
        AssertDead(handle);
        Assert.False(handle.IsRevoked);
    }

    [Fact]
    public async Task Unbind_asks_the_user_again_and_again_and_completes_when_it_lets_go()
    {
        var world = await VfioWorld.NewAsync();
        var handle = world.Open("web1");
        var told = 0;
        handle.SetRequestCallback(revoked => told += revoked ? 100 : 1);
        var first = world.NextRequest();
        var unbind = world.Fabric.UnbindAsync(world.Driver, world.Parent.Name).AsTask();
        await first;
        for (var i = 0; i < 2; i++)
        {
            var next = world.NextRequest();
            await WaitForTimerAsync(world);
            world.Time.Advance(VfioDevice.RequestInterval);
            await next;
        }
        await WaitForTimerAsync(world);
        Assert.False(unbind.IsCompleted);
        Assert.Equal(3, told);
        Assert.Equal(["open", "request 0", "request 1", "request 2"], world.Ops.Calls);
        Assert.Contains(world.Lines.Lines, l => l.StartsWith("Warning", StringComparison.Ordinal) && l.Contains("'web1' has it open", StringComparison.Ordinal));

        // It still works while it is asked for, and nobody else can come in.
        Assert.True(handle.TryWrite(0, 0, [1], out _));
        Assert.False(world.Device.TryOpen("web2", out _, out var fault));
        Assert.Equal(Errno.ENODEV, fault.Errno);

        handle.Dispose();
        await unbind.In();
        Assert.Null(world.Parent.Driver);
        Assert.Empty(VfioSubsystem.Of(world.Fabric).Class.Devices);
        Assert.Equal("close", world.Ops.Calls[^1]);
        Assert.Equal(0, world.Time.Timers);
    }

    [Fact]
    public async Task Deleting_the_parent_waits_for_the_user_too()
    {
        var world = await VfioWorld.NewAsync();
        var handle = world.Open();
        var observer = new Observer();
        await world.Fabric.AddClassObserverAsync(VfioSubsystem.Of(world.Fabric).Class, observer);
        var first = world.NextRequest();
        var delete = world.Fabric.DeleteAsync(world.Parent).AsTask();
        await first;
        // The transport keeps the device until the user has let go.
        Assert.Equal(["added"], observer.Calls);
        Assert.True(handle.TryWrite(0, 0, [1], out _));
        handle.Dispose();
        await delete.In();
        Assert.Equal(["added", "removed"], observer.Calls);
        Assert.Equal(["open", "request 0", "close"], [.. world.Ops.Calls.Where(c => !c.StartsWith("region", StringComparison.Ordinal))]);
    }

    [Fact]
    public async Task User_who_closes_at_the_request_is_not_asked_again()
    {
        var world = await VfioWorld.NewAsync();
        var handle = world.Open();
        handle.SetRequestCallback(_ => handle.Dispose());
        await world.Fabric.UnbindAsync(world.Driver, world.Parent.Name).In();
        Assert.Equal(["open", "request 0", "close"], world.Ops.Calls);
    }

    [Fact]
    public async Task Surprise_removal_revokes_the_handle_at_once()
    {
        var world = await VfioWorld.NewAsync();
        var handle = world.Open();
        var told = new List<bool>();
        handle.SetRequestCallback(told.Add);
        await world.Fabric.SurpriseRemoveAsync(world.Parent).In();
        Assert.Equal([true], told);
        Assert.True(handle.IsRevoked);
        Assert.Equal(["open", "close"], world.Ops.Calls);
        AssertDead(handle);
        handle.Dispose();
        Assert.Equal(["open", "close"], world.Ops.Calls);
        Assert.Contains(world.Lines.Lines, l => l.Contains("taken away from 'web1'", StringComparison.Ordinal));
    }

    [Fact]
    public async Task Surprise_removal_ends_an_orderly_wait()
    {
        var world = await VfioWorld.NewAsync();
        var handle = world.Open();
        var first = world.NextRequest();
        var unbind = world.Fabric.UnbindAsync(world.Driver, world.Parent.Name).AsTask();
        await first;
        await world.Fabric.SurpriseRemoveAsync(world.Parent).In();
        await unbind.In();
        AssertDead(handle);
        Assert.Equal(["open", "request 0", "close"], world.Ops.Calls);
        Assert.Equal(0, world.Time.Timers);
    }

    [Fact]
    public async Task Device_that_is_gone_cannot_be_opened()
    {
        var world = await VfioWorld.NewAsync();
        var device = world.Device;
        await world.Fabric.SurpriseRemoveAsync(world.Parent).In();
        Assert.False(device.TryOpen("late", out _, out var fault));
        Assert.Equal(Errno.ENODEV, fault.Errno);
    }

    [Fact]
    public async Task Revocation_waits_for_the_call_that_is_under_way()
    {
        var world = await VfioWorld.NewAsync();
        var handle = world.Open();
        using var entered = new ManualResetEventSlim();
        using var leave = new ManualResetEventSlim();
        var inCall = false;
        world.Ops.OnWrite = () =>
        {
            inCall = true;
            entered.Set();
            Assert.True(leave.Wait(TimeSpan.FromSeconds(20)));
            inCall = false;
        };
        world.Ops.OnClose = () => Assert.False(inCall);
        var write = Task.Run(() => handle.TryWrite(0, 0, [1], out _));
        Assert.True(entered.Wait(TimeSpan.FromSeconds(20)));
        var gone = Task.Run(() => world.Fabric.SurpriseRemoveAsync(world.Parent).AsTask());
        SpinWait.SpinUntil(() => handle.IsRevoked, TimeSpan.FromSeconds(20));
        Assert.DoesNotContain("close", world.Ops.Calls);
        leave.Set();
        Assert.True(await write);
        await gone.In();
        Assert.Equal(1, world.Ops.Calls.Count(c => c == "close"));
        Assert.DoesNotContain(world.Lines.Lines, l => l.StartsWith("Error", StringComparison.Ordinal));
    }

    [Fact]
    public async Task Device_taken_away_from_within_a_call_closes_at_the_end_of_that_call()
    {
        var world = await VfioWorld.NewAsync();
        var handle = world.Open();
        var closedInCall = false;
        world.Ops.OnWrite = () =>
        {
            world.Device.Revoke();
            closedInCall = world.Ops.Calls.Contains("close");
        };
        Assert.True(handle.TryWrite(0, 0, [1], out _));
        Assert.False(closedInCall);
        Assert.Equal("close", world.Ops.Calls[^1]);
        Assert.False(world.Device.IsOpen);
        AssertDead(handle);
    }

    [Fact]
    public async Task Device_taken_away_while_it_is_opened_is_closed_again()
    {
        var world = await VfioWorld.NewAsync();
        world.Ops.OnOpen = () => world.Device.Revoke();
        Assert.False(world.Device.TryOpen("web1", out var handle, out var fault));
        Assert.Null(handle);
        Assert.Equal(Errno.ENODEV, fault.Errno);
        Assert.Equal(["open", "close"], world.Ops.Calls);
        Assert.False(world.Device.IsOpen);
    }

    [Fact]
    public async Task Callback_that_is_set_after_the_device_was_taken_away_is_called_at_once()
    {
        var world = await VfioWorld.NewAsync();
        var handle = world.Open();
        world.Device.Revoke();
        var told = new List<bool>();
        handle.SetRequestCallback(told.Add);
        Assert.Equal([true], told);
    }

    [Fact]
    public async Task Driver_whose_close_fails_still_gets_its_device_back()
    {
        var world = await VfioWorld.NewAsync();
        world.Ops.OnClose = () => throw new InvalidOperationException("bug");
        world.Open().Dispose();
        Assert.False(world.Device.IsOpen);
        Assert.Contains(world.Lines.Lines, l => l.StartsWith("Error", StringComparison.Ordinal) && l.Contains("close failed", StringComparison.Ordinal));
        await world.Fabric.UnbindAsync(world.Driver, world.Parent.Name).In();
    }

    [Fact]
    public async Task Id_is_free_again_when_the_device_is_released()
    {
        var world = await VfioWorld.NewAsync();
        var old = world.Device.Hold();
        await world.Fabric.UnbindAsync(world.Driver, world.Parent.Name).In();
        await world.Fabric.BindAsync(world.Driver, world.Parent.Name).In();
        Assert.Equal("vfio1", world.Device.Name);
        old.Dispose();
        await world.Fabric.UnbindAsync(world.Driver, world.Parent.Name).In();
        await world.Fabric.BindAsync(world.Driver, world.Parent.Name).In();
        Assert.Equal("vfio0", world.Device.Name);
    }

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    [InlineData(4)]
    [InlineData(5)]
    [InlineData(6)]
    [InlineData(7)]
    [InlineData(8)]
    public void Every_order_of_open_unbind_and_surprise_ends_with_one_close_an_open(ulong seed)
    {
        for (var round = 0UL; round < 50; round++)
        {
            var scheduler = new SeededScheduler((seed * 1000) + round);
            scheduler.Run(async () =>
            {
                var world = await VfioWorld.NewAsync(scheduler: scheduler);
                var device = world.Device;
                async Task UserAsync()
                {
                    for (var i = 0; i < 4; i++)
                    {
                        await scheduler.InterleaveAsync();
                        if (!device.TryOpen("u", out var handle, out var fault))
                        {
                            Assert.Equal(Errno.ENODEV, fault.Errno);
                            continue;
                        }
                        await scheduler.InterleaveAsync();
                        if (!handle!.TryRead(0, 0, new byte[1], out fault))
                            Assert.Equal(Errno.ENODEV, fault.Errno);
                        await scheduler.InterleaveAsync();
                        handle.Dispose();
                    }
                }
                async Task UnbindAsync()
                {
                    await scheduler.InterleaveAsync();
                    try
                    {
                        await world.Fabric.UnbindAsync(world.Driver, world.Parent.Name);
                    }
                    catch (VirtbusException e) when (e.Errno == Errno.ENODEV)
                    {
                        // The removal came first.
                    }
                }
                async Task SurpriseAsync()
                {
                    await scheduler.InterleaveAsync();
                    await scheduler.InterleaveAsync();
                    await world.Fabric.SurpriseRemoveAsync(world.Parent);
                }
                var user = UserAsync();
                var unbind = UnbindAsync();
                var surprise = SurpriseAsync();
                await Task.WhenAll(user, unbind, surprise);
                var calls = world.Ops.Calls;
                Assert.Equal(calls.Count(c => c == "open"), calls.Count(c => c == "close"));
                Assert.False(world.Ops.IsOpen);
                Assert.Empty(VfioSubsystem.Of(world.Fabric).Class.Devices);
                Assert.DoesNotContain(world.Lines.Lines, l => l.StartsWith("Error", StringComparison.Ordinal));
            });
        }
    }

    [Fact]
    public async Task Thousand_calls_from_threads_against_a_revocation_never_reach_a_closed_driver()
    {
        for (var round = 0; round < 20; round++)
        {
            var world = await VfioWorld.NewAsync();
            var handle = world.Open();
            var late = 0;
            world.Ops.OnWrite = () => late += world.Ops.IsOpen ? 0 : 1;
            var users = Enumerable.Range(0, 3).Select(_ => Task.Run(() =>
            {
                for (var i = 0; i < 1000 && handle.TryWrite(0, 0, [1], out var fault); i++)
                    Assert.Equal(Fault.None, fault);
            })).ToArray();
            await world.Fabric.SurpriseRemoveAsync(world.Parent).In();
            await Task.WhenAll(users).In();
            Assert.Equal(0, late);
            Assert.Equal(1, world.Ops.Calls.Count(c => c == "close"));
        }
    }

    private static async Task WaitForTimerAsync(VfioWorld world)
    {
        using var limit = new CancellationTokenSource(TimeSpan.FromSeconds(20));
        while (world.Time.Timers == 0)
        {
            limit.Token.ThrowIfCancellationRequested();
            await Task.Yield();
        }
    }

    private static async Task<string> ReadAsync(VfioWorld world, string attribute) =>
        await Task.FromResult(world.Fabric.Tree.Read($"{world.Device.DevPath}/{attribute}"));

    private static void AssertDead(VfioHandle handle)
    {
        Assert.False(handle.TryRead(0, 0, new byte[1], out var fault));
        Assert.Equal(Errno.ENODEV, fault.Errno);
        Assert.False(handle.TryWrite(0, 0, [1], out fault));
        Assert.Equal(Errno.ENODEV, fault.Errno);
        Assert.False(handle.TryGetRegionInfo(0, out _, out fault));
        Assert.Equal(Errno.ENODEV, fault.Errno);
        Assert.False(handle.TryGetIrqInfo(0, out _, out fault));
        Assert.Equal(Errno.ENODEV, fault.Errno);
        Assert.False(handle.TrySetIrqs(new VfioIrqSet { Flags = VfioIrqSetFlags.DataNone | VfioIrqSetFlags.ActionTrigger, Index = 0, Start = 0, Count = 0 }, out fault));
        Assert.Equal(Errno.ENODEV, fault.Errno);
        Assert.False(handle.TryReset(out fault));
        Assert.Equal(Errno.ENODEV, fault.Errno);
        Assert.False(handle.TryAttach(null, null, out fault));
        Assert.Equal(Errno.ENODEV, fault.Errno);
        Assert.False(handle.TryAttachDoorbell(0, new VfioDoorbell(8, 4, null), null, out fault));
        Assert.Equal(Errno.ENODEV, fault.Errno);
        Assert.Empty(handle.GetDoorbells(0));
    }

    private sealed class Observer : IClassObserver
    {
        public List<string> Calls { get; } = [];

        public ValueTask DeviceAddedAsync(Device device)
        {
            Calls.Add("added");
            return default;
        }

        public ValueTask DeviceRemovedAsync(Device device)
        {
            Calls.Add("removed");
            return default;
        }
    }
}
