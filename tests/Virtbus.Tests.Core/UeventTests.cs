using System.Text;
using Virtbus.Core;
using Virtbus.Platform;

namespace Virtbus.Tests.Core;

/// <summary>Events in the kernel's format: DM-03, DM-23, DM-27.</summary>
public sealed class UeventTests
{
    [Fact]
    public async Task Bytes_are_those_that_the_kernel_would_send()
    {
        var world = await World.NewAsync();
        await world.RegisterAsync("d", "a");
        await world.AddAsync("a", 1);
        var bind = world.Fabric.Uevents.History().Single(e => e.ActionName == "bind");
        Assert.Equal(
            "bind@/devices/parent/mod.a.1\0ACTION=bind\0DEVPATH=/devices/parent/mod.a.1\0SUBSYSTEM=auxiliary\0" +
            "DRIVER=test.d\0MODALIAS=auxiliary:mod.a\0SEQNUM=" + bind.Seqnum + "\0",
            Encoding.UTF8.GetString(bind.ToKernelFormat()));
        Assert.Equal("/bus/auxiliary/drivers/test.d", world.Fabric.Uevents.History().Single(e => e.Subsystem == "drivers").DevPath);
    }

    [Fact]
    public async Task Events_of_a_device_come_in_the_order_of_its_life_and_are_numbered_without_a_gap()
    {
        var world = await World.NewAsync();
        var driver = await world.RegisterAsync("d", "a");
        var device = await world.AddAsync("a", 1);
        await world.Fabric.UnbindAsync(driver, device.Name);
        await world.Fabric.BindAsync(driver, device.Name);
        await world.Fabric.DeleteAsync(device);
        Assert.Equal(
            ["add", "bind", "unbind", "bind", "unbind", "remove"],
            world.Fabric.Uevents.History().Where(e => e.DevPath.EndsWith("mod.a.1", StringComparison.Ordinal)).Select(e => e.ActionName));
        Assert.Equal(Enumerable.Range(1, (int)world.Fabric.Uevents.Seqnum), world.Fabric.Uevents.History().Select(e => (int)e.Seqnum));
        Assert.Equal(world.Fabric.Uevents.Seqnum + "\n", world.Fabric.Tree.Read("/kernel/uevent_seqnum"));
    }

    [Fact]
    public async Task Subscriber_gets_bind_only_after_add_however_many_register_drivers_meanwhile()
    {
        var world = await World.NewAsync();
        // Read as they come: the history keeps the newest only, and there are more than it holds.
        using var subscription = world.Fabric.Uevents.Subscribe(100_000);
        var last = new Dictionary<string, string>();
        var add = Task.Run(async () =>
        {
            for (var i = 0u; i < 300; i++)
                await world.AddAsync("a", i);
        });
        while (!add.IsCompleted)
        {
            await world.Fabric.UnregisterDriverAsync(await world.RegisterAsync("d", "a"));
            await LookAsync();
        }
        await add.In();
        // A round of its own, so that there is something to read.
        await world.Fabric.UnregisterDriverAsync(await world.RegisterAsync("d", "a"));
        await LookAsync();
        Assert.Equal(300, last.Count);

        async Task LookAsync()
        {
            var batch = await subscription.ReadAsync();
            Assert.Equal(0, batch.Lost);
            foreach (var uevent in batch.Events.Where(e => e.DevPath.Contains("mod.a.", StringComparison.Ordinal)))
            {
                var before = last.GetValueOrDefault(uevent.DevPath);
                Assert.True(uevent.ActionName switch { "add" => before is null, "bind" => before is "add" or "unbind", _ => before == "bind" }, $"{uevent} after {before}");
                last[uevent.DevPath] = uevent.ActionName;
            }
        }
    }

    [Fact]
    public async Task History_is_bounded()
    {
        var fabric = new Fabric(new FabricOptions { UeventHistory = 4 });
        for (var i = 0; i < 10; i++)
            await fabric.AddAsync(new Device("d" + i));
        Assert.Equal([7L, 8, 9, 10], fabric.Uevents.History().Select(e => e.Seqnum));
        Assert.Equal([10L], fabric.Uevents.History(after: 9).Select(e => e.Seqnum));
        Assert.Empty(fabric.Uevents.History(after: 99));
        Assert.Throws<ArgumentOutOfRangeException>(() => new Fabric(new FabricOptions { UeventHistory = 0 }));
    }

    [Fact]
    public async Task Event_that_was_taken_keeps_its_words_when_the_log_has_forgotten_it()
    {
        var world = await World.NewAsync(new FabricOptions { UeventHistory = 3 });
        using var subscription = world.Fabric.Uevents.Subscribe();
        await world.RegisterAsync("d", "a");
        var device = await world.AddAsync("a", 1);
        var taken = world.Fabric.Uevents.History().Concat((await subscription.ReadAsync().In()).Events).Where(e => e.DevPath == device.DevPath).ToList();
        Assert.Equal(["add", "bind", "add", "bind"], taken.Select(e => e.ActionName));
        var before = taken.ConvertAll(e => Encoding.UTF8.GetString(e.ToKernelFormat()));
        for (var i = 2u; i < 20; i++)
            await world.AddAsync("b", i);
        Assert.Equal(before, taken.Select(e => Encoding.UTF8.GetString(e.ToKernelFormat())));
        // Nor has what took its place a word of it.
        Assert.All(world.Fabric.Uevents.History(), e => Assert.Equal(["MODALIAS=auxiliary:mod.b"], e.Variables.Select(v => $"{v.Key}={v.Value}")));
    }

    [Fact]
    public async Task Slow_subscriber_loses_the_oldest_and_is_told()
    {
        var fabric = new Fabric();
        using var slow = fabric.Uevents.Subscribe(capacity: 3);
        using var fast = fabric.Uevents.Subscribe();
        for (var i = 0; i < 5; i++)
            await fabric.AddAsync(new Device("d" + i));
        var batch = await slow.ReadAsync().In();
        Assert.Equal((2L, "/devices/d2"), (batch.Lost, batch.Events[0].DevPath));
        Assert.Equal(3, batch.Events.Count);
        batch = await fast.ReadAsync().In();
        Assert.Equal((0L, 5), (batch.Lost, batch.Events.Count));
        var waiting = slow.ReadAsync().AsTask();
        Assert.False(waiting.IsCompleted);
        await fabric.AddAsync(new Device("late"));
        batch = await waiting.In();
        Assert.Equal((0L, 1), (batch.Lost, batch.Events.Count));
        waiting = slow.ReadAsync().AsTask();
        slow.Dispose();
        Assert.Empty((await waiting.In()).Events);
        using var cancelled = new CancellationTokenSource();
        var read = fast.ReadAsync(CancellationToken.None).AsTask();
        Assert.Single((await read.In()).Events);
        read = fast.ReadAsync(cancelled.Token).AsTask();
        await cancelled.CancelAsync();
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => read.In());
    }

    [Fact]
    public async Task Subscription_that_ended_is_held_by_nobody()
    {
        var fabric = new Fabric();
        var ended = Subscribe();
        await fabric.AddAsync(new Device("d"));
        for (var i = 0; i < 10 && ended.IsAlive; i++)
        {
            GC.Collect();
            GC.WaitForPendingFinalizers();
        }
        Assert.False(ended.IsAlive);
        GC.KeepAlive(fabric);

        [System.Runtime.CompilerServices.MethodImpl(System.Runtime.CompilerServices.MethodImplOptions.NoInlining)]
        WeakReference Subscribe()
        {
            var subscription = fabric.Uevents.Subscribe();
            subscription.Dispose();
            return new WeakReference(subscription);
        }
    }

    [Fact]
    public async Task Add_event_carries_the_alias_that_a_module_is_found_by()
    {
        var world = await World.NewAsync();
        var device = await world.AddAsync("a", 1);
        var add = world.Fabric.Uevents.History().Single(e => e.ActionName == "add" && e.DevPath == device.DevPath);
        Assert.Equal(
            "add@/devices/parent/mod.a.1\0ACTION=add\0DEVPATH=/devices/parent/mod.a.1\0SUBSYSTEM=auxiliary\0MODALIAS=auxiliary:mod.a\0SEQNUM=" + add.Seqnum + "\0",
            Encoding.UTF8.GetString(add.ToKernelFormat()));
        Assert.True(AliasPattern.IsMatch("auxiliary:mod.a", add.Variables.ToDictionary()["MODALIAS"]));
        Assert.Equal("auxiliary:mod.a\n", world.Fabric.Tree.Read(device.DevPath + "/modalias"));
    }

    [Fact]
    public async Task Written_uevent_is_sent_with_its_uuid_and_arguments()
    {
        var world = await World.NewAsync();
        await world.AddAsync("a", 1);
        const string File = "/devices/parent/mod.a.1/uevent";
        await world.Fabric.Tree.WriteAsync(File, "change");
        await world.Fabric.Tree.WriteAsync(File, "add 0fb5f1c6-0ee9-4a0f-9b33-6a5a4e4d4a11 A=1 B=xyz");
        var last = world.Fabric.Uevents.History().TakeLast(2).ToArray();
        Assert.Contains(last[0].Variables, v => v is { Key: "SYNTH_UUID", Value: "0" });
        Assert.Equal(("add", "xyz"), (last[1].ActionName, last[1].Variables.Single(v => v.Key == "SYNTH_ARG_B").Value));
        Assert.Equal("SYNTH_UUID", Assert.Single(last[0].Variables, v => v.Key.StartsWith("SYNTH", StringComparison.Ordinal)).Key);
        await world.Fabric.Tree.WriteAsync(File, "move 0FB5F1C6-0EE9-4A0F-9B33-6A5A4E4D4A11\n");
        Assert.Equal("0FB5F1C6-0EE9-4A0F-9B33-6A5A4E4D4A11", world.Fabric.Uevents.History()[^1].Variables.Single(v => v.Key == "SYNTH_UUID").Value);
    }

    [Theory]
    [InlineData("")]
    [InlineData("\n")]
    [InlineData(" add")]
    [InlineData("ad")]
    [InlineData("ADD")]
    [InlineData("jump")]
    [InlineData("add ")]
    [InlineData("add \n")]
    [InlineData("add not-a-uuid")]
    [InlineData("add  UUID")]
    [InlineData("add UUID ")]
    [InlineData("add UUID0")]
    [InlineData("add {UUID}")]
    [InlineData("add 0fb5f1c60ee94a0f9b336a5a4e4d4a11")]
    [InlineData("add 0fb5f1c6-0ee9-4a0f-9b336-a5a4e4d4a11")]
    [InlineData("add UUID  A=1")]
    [InlineData("add UUID A=1 ")]
    [InlineData("add UUID A=1  B=2")]
    [InlineData("add UUID\tA=1")]
    [InlineData("add UUID =b")]
    [InlineData("add UUID A=")]
    [InlineData("add UUID A")]
    [InlineData("add UUID A=.")]
    [InlineData("add UUID A_B=1")]
    [InlineData("add UUID A=1=2")]
    [InlineData("add UUID A= B=1")]
    [InlineData("add UUID A=1\nB=2")]
    [InlineData("add A=1")]
    public async Task Written_uevent_of_another_form_is_refused(string written)
    {
        var world = await World.NewAsync();
        var before = world.Fabric.Uevents.Seqnum;
        foreach (var file in new[] { "/devices/parent/uevent", "/bus/auxiliary/uevent" })
            await Expect.RefusedAsync(Errno.EINVAL, () => world.Fabric.Tree.WriteAsync(file, written.Replace("UUID", "0fb5f1c6-0ee9-4a0f-9b33-6a5a4e4d4a11", StringComparison.Ordinal)));
        Assert.Equal(before, world.Fabric.Uevents.Seqnum);
    }

    [Fact]
    public async Task Written_uevent_with_more_arguments_than_an_event_holds_is_refused()
    {
        var world = await World.NewAsync();
        const string Uuid = "add 0fb5f1c6-0ee9-4a0f-9b33-6a5a4e4d4a11";
        await Expect.RefusedAsync(Errno.EINVAL, () => world.Fabric.Tree.WriteAsync("/devices/parent/uevent", Uuid + string.Concat(Enumerable.Range(0, 64).Select(i => $" K{i}=v"))));
        await Expect.RefusedAsync(Errno.EINVAL, () => world.Fabric.Tree.WriteAsync("/devices/parent/uevent", $"{Uuid} K={new string('x', 2100)}"));
    }

    [Fact]
    public void Variables_are_bounded_as_in_the_kernel()
    {
        var many = new UeventVariables();
        for (var i = 0; i < 64; i++)
            many.Add("K" + i, "v");
        Expect.Refused(Errno.ENOMEM, () => many.Add("ONE_TOO_MANY", "v"));
        Expect.Refused(Errno.ENOMEM, () => new UeventVariables().Add("LONG", new string('x', 2048)));
    }
}
