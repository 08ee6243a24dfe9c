using Virtbus.Core;
using Virtbus.Platform;

namespace Virtbus.Tests.Core;

/// <summary>Device links order probe, unbind and power: upstream section 1.7; DM-14 (two halves, removal of either in order).</summary>
public sealed class LinkTests
{
    [Fact]
    public async Task Consumer_waits_for_its_supplier_and_goes_before_it()
    {
        var world = await World.NewAsync();
        var driver = world.Driver("d", "a");
        var consumer = await world.AddAsync("a", 1);
        var supplier = await world.AddAsync("s", 1);
        var link = world.Fabric.AddLink(consumer, supplier);
        await world.Fabric.RegisterDriverAsync(driver);
        Assert.Null(consumer.Driver);
        Assert.Equal("supplier mod.s.1 not ready", consumer.DeferredReason);
        Assert.Equal("1\n", world.Fabric.Tree.Read("/bus/auxiliary/devices/mod.a.1/waiting_for_supplier"));
        Assert.Equal(("dormant", DeviceLinkState.Dormant), (link.Status, link.State));
        var suppliers = await world.RegisterAsync("s", "s");
        await world.Fabric.SettleAsync().In();
        Assert.NotNull(consumer.Driver);
        Assert.Equal("active\n", world.Fabric.Tree.Read("/class/devlink/auxiliary:mod.s.1--auxiliary:mod.a.1/status"));
        Assert.Equal("/class/devlink/auxiliary:mod.s.1--auxiliary:mod.a.1", Assert.IsType<TreeLink>(world.Fabric.Tree.Find("/bus/auxiliary/devices/mod.a.1/supplier:auxiliary:mod.s.1", follow: false)).Target);
        world.ClearCalls();
        await world.Fabric.UnbindAsync(suppliers, supplier.Name);
        Assert.Equal(["test.d remove mod.a.1", "test.s remove mod.s.1"], world.Calls);
        await world.Fabric.BindAsync(suppliers, supplier.Name);
        Assert.Equal(DeviceLinkState.Available, link.State);
    }

    [Fact]
    public async Task Consumers_go_before_their_supplier_newest_first_whichever_was_linked_first()
    {
        var world = await World.NewAsync();
        var suppliers = await world.RegisterAsync("s", "s");
        await world.RegisterAsync("d", "a");
        var supplier = await world.AddAsync("s", 1);
        var consumers = new[] { await world.AddAsync("a", 1), await world.AddAsync("a", 2), await world.AddAsync("a", 3) };
        foreach (var i in new[] { 1, 2, 0 })
            world.Fabric.AddLink(consumers[i], supplier);
        world.ClearCalls();
        await world.Fabric.UnbindAsync(suppliers, supplier.Name);
        Assert.Equal(["test.d remove mod.a.3", "test.d remove mod.a.2", "test.d remove mod.a.1", "test.s remove mod.s.1"], world.Calls);
    }

    [Fact]
    public async Task Consumer_whose_supplier_is_deleted_is_tried_again_without_it()
    {
        var world = await World.NewAsync();
        var consumer = await world.AddAsync("a", 1);
        var supplier = await world.AddAsync("s", 1);
        world.Fabric.AddLink(consumer, supplier);
        await world.RegisterAsync("d", "a");
        Assert.Null(consumer.Driver);
        await world.Fabric.DeleteAsync(supplier);
        await world.Fabric.SettleAsync().In();
        Assert.NotNull(consumer.Driver);
        Assert.Empty(world.Fabric.Links);
    }

    [Fact]
    public async Task Circles_are_refused_also_through_the_tree()
    {
        var world = await World.NewAsync();
        var a = await world.AddAsync("a", 1);
        var b = await world.AddAsync("a", 2);
        var below = await world.AddAsync("a", 3, a);
        var link = world.Fabric.AddLink(a, b);
        Assert.Same(link, world.Fabric.AddLink(a, b, DeviceLinkFlags.Stateless));
        Expect.Refused(Errno.EINVAL, () => world.Fabric.AddLink(b, a));
        Expect.Refused(Errno.EINVAL, () => world.Fabric.AddLink(a, a));
        Expect.Refused(Errno.EINVAL, () => world.Fabric.AddLink(b, below));
        Expect.Refused(Errno.EINVAL, () => world.Fabric.AddLink(a, below));
        Expect.Refused(Errno.EINVAL, () => world.Fabric.AddLink(a, world.New("a", 9)));
        Expect.Refused(Errno.EINVAL, () => world.Fabric.AddLink(below, b, DeviceLinkFlags.Stateless | DeviceLinkFlags.AutoprobeConsumer));
        await world.Fabric.DeleteAsync(b);
        Assert.Empty(world.Fabric.Links);
    }

    [Fact]
    public async Task Requests_that_make_no_sense_are_refused()
    {
        var world = await World.NewAsync();
        var a = await world.AddAsync("a", 1);
        var b = await world.AddAsync("a", 2);
        foreach (var flags in new[]
        {
            (DeviceLinkFlags)0x40,
            (DeviceLinkFlags)0x80,
            (DeviceLinkFlags)0x400 | DeviceLinkFlags.Stateless,
            DeviceLinkFlags.Stateless | DeviceLinkFlags.AutoremoveConsumer,
            DeviceLinkFlags.Stateless | DeviceLinkFlags.AutoremoveSupplier,
            DeviceLinkFlags.Stateless | DeviceLinkFlags.AutoprobeConsumer,
            DeviceLinkFlags.AutoprobeConsumer | DeviceLinkFlags.AutoremoveConsumer,
            DeviceLinkFlags.AutoprobeConsumer | DeviceLinkFlags.AutoremoveSupplier,
        })
        {
            Expect.Refused(Errno.EINVAL, () => world.Fabric.AddLink(a, b, flags));
            await Expect.RefusedAsync(Errno.EINVAL, async () => await world.Fabric.AddLinkAsync(a, b, flags | DeviceLinkFlags.PmRuntime | DeviceLinkFlags.RpmActive));
        }
        Assert.Empty(world.Fabric.Links);
        Assert.Equal(0, b.Power.RuntimeUsage);
        var e = Expect.Refused(Errno.EINVAL, () => world.Fabric.AddLink(a, b, (DeviceLinkFlags)0x140));
        Assert.Equal("Link mod.a.2 -> mod.a.1: 0x140 is no flag of a link. Leave these bits out.", e.Message);
    }

    [Theory]
    // The first request, the second, what comes of both: Linux's device_link_add.
    [InlineData(DeviceLinkFlags.AutoremoveConsumer, DeviceLinkFlags.None, DeviceLinkFlags.None)]
    [InlineData(DeviceLinkFlags.AutoremoveSupplier, DeviceLinkFlags.None, DeviceLinkFlags.None)]
    [InlineData(DeviceLinkFlags.None, DeviceLinkFlags.AutoremoveConsumer, DeviceLinkFlags.None)]
    [InlineData(DeviceLinkFlags.None, DeviceLinkFlags.AutoremoveSupplier, DeviceLinkFlags.None)]
    [InlineData(DeviceLinkFlags.AutoremoveConsumer, DeviceLinkFlags.AutoremoveSupplier, DeviceLinkFlags.AutoremoveSupplier)]
    [InlineData(DeviceLinkFlags.AutoremoveSupplier, DeviceLinkFlags.AutoremoveConsumer, DeviceLinkFlags.AutoremoveSupplier)]
    [InlineData(DeviceLinkFlags.AutoremoveSupplier | DeviceLinkFlags.AutoremoveConsumer, DeviceLinkFlags.AutoremoveConsumer, DeviceLinkFlags.AutoremoveSupplier)]
    [InlineData(DeviceLinkFlags.AutoremoveConsumer, DeviceLinkFlags.PmRuntime, DeviceLinkFlags.PmRuntime)]
    [InlineData(DeviceLinkFlags.AutoprobeConsumer, DeviceLinkFlags.AutoremoveConsumer, DeviceLinkFlags.AutoprobeConsumer)]
    [InlineData(DeviceLinkFlags.Stateless, DeviceLinkFlags.None, DeviceLinkFlags.Stateless)]
    [InlineData(DeviceLinkFlags.Stateless, DeviceLinkFlags.AutoremoveConsumer, DeviceLinkFlags.Stateless)]
    [InlineData(DeviceLinkFlags.AutoremoveSupplier, DeviceLinkFlags.Stateless | DeviceLinkFlags.PmRuntime, DeviceLinkFlags.AutoremoveSupplier | DeviceLinkFlags.Stateless | DeviceLinkFlags.PmRuntime)]
    public async Task Second_request_for_a_pair_merges_with_the_first(DeviceLinkFlags first, DeviceLinkFlags second, DeviceLinkFlags both)
    {
        var world = await World.NewAsync();
        var consumer = await world.AddAsync("a", 1);
        var supplier = await world.AddAsync("a", 2);
        var link = world.Fabric.AddLink(consumer, supplier, first);
        Assert.Equal(!first.HasFlag(DeviceLinkFlags.Stateless), link.IsManaged);
        Assert.Same(link, world.Fabric.AddLink(consumer, supplier, second));
        Assert.Equal((both, true), (link.Flags, link.IsManaged));
        Assert.Single(world.Fabric.Links);
    }

    [Fact]
    public async Task Stateless_requests_are_counted_and_each_remove_takes_back_its_own()
    {
        var world = await World.NewAsync();
        var consumer = await world.AddAsync("a", 1);
        var supplier = await world.AddAsync("a", 2);
        var link = world.Fabric.AddLink(consumer, supplier, DeviceLinkFlags.Stateless);
        world.Fabric.AddLink(consumer, supplier, DeviceLinkFlags.Stateless);
        world.Fabric.RemoveLink(link);
        Assert.Equal([link], world.Fabric.Links);
        world.Fabric.RemoveLink(link);
        Assert.Empty(world.Fabric.Links);
        world.Fabric.RemoveLink(link);

        link = world.Fabric.AddLink(consumer, supplier, DeviceLinkFlags.Stateless);
        world.Fabric.AddLink(consumer, supplier);
        world.Fabric.RemoveLink(link);
        Assert.Equal((DeviceLinkFlags.None, true), (link.Flags, link.IsManaged));
        var e = Expect.Refused(Errno.EINVAL, () => world.Fabric.RemoveLink(link));
        Assert.StartsWith("Link mod.a.2 -> mod.a.1 is managed: ", e.Message, StringComparison.Ordinal);
        Assert.Equal([link], world.Fabric.Links);
        // One that nobody put into the tree yet has no driver core to keep it.
        var early = world.Fabric.AddLink(world.New("a", 9), supplier);
        world.Fabric.RemoveLink(early);
        Assert.Equal([link], world.Fabric.Links);
    }

    [Fact]
    public async Task Link_that_an_unbind_takes_away_stays_for_who_asked_for_it_stateless()
    {
        var world = await World.NewAsync();
        var driver = await world.RegisterAsync("c", "c");
        await world.RegisterAsync("s", "s");
        var consumer = await world.AddAsync("c", 1);
        var supplier = await world.AddAsync("s", 1);
        var link = world.Fabric.AddLink(consumer, supplier, DeviceLinkFlags.AutoremoveConsumer);
        world.Fabric.AddLink(consumer, supplier, DeviceLinkFlags.Stateless);
        Assert.Equal("active", link.Status);
        await world.Fabric.UnbindAsync(driver, consumer.Name);
        Assert.Equal([link], world.Fabric.Links);
        Assert.Equal("not tracked", link.Status);
        // Stateless only: neither does the supplier hold the probe back, nor does an unbind look at it.
        await world.Fabric.UnbindAsync(supplier.Driver!, supplier.Name);
        await world.Fabric.BindAsync(driver, consumer.Name);
        await world.Fabric.UnbindAsync(driver, consumer.Name);
        Assert.Equal([link], world.Fabric.Links);
        world.Fabric.RemoveLink(link);
        Assert.Empty(world.Fabric.Links);
    }

    [Fact]
    public async Task Search_for_a_circle_ends_soon_in_a_net_of_many_diamonds()
    {
        var world = await World.NewAsync();
        var layer = new[] { await world.AddAsync("a", 0), await world.AddAsync("a", 1) };
        for (var i = 1u; i < 40; i++)
        {
            var next = new[] { await world.AddAsync("a", i * 2), await world.AddAsync("a", (i * 2) + 1) };
            foreach (var consumer in next)
            {
                foreach (var supplier in layer)
                    await Task.Run(() => world.Fabric.AddLink(consumer, supplier)).In();
            }
            layer = next;
        }
        var top = await world.AddAsync("s", 1);
        await Task.Run(() => world.Fabric.AddLink(world.Bus.Devices[0], top)).In();
        Assert.Equal(157, world.Fabric.Links.Count);
    }

    [Fact]
    public async Task Consumer_on_no_bus_does_not_end_the_retries_of_the_others()
    {
        var world = await World.NewAsync();
        var ready = false;
        (await world.RegisterAsync("d", "a")).OnProbe = (_, _, _) => ready ? default : throw new ProbeDeferException("later");
        await world.RegisterAsync("s", "s");
        var supplier = world.New("s", 1);
        var waits = await world.AddAsync("a", 1);
        var consumer = new Device("without-bus");
        await world.Fabric.AddAsync(consumer);
        world.Bus.DriversAutoprobe = false;
        await world.Fabric.AddAsync(supplier);
        world.Fabric.AddLink(consumer, supplier, DeviceLinkFlags.AutoprobeConsumer);
        world.Bus.DriversAutoprobe = true;
        await world.Fabric.ProbeAsync(world.Bus, supplier.Name);
        await world.Fabric.SettleAsync().In();
        Assert.Equal([waits], world.Fabric.DeferredDevices);
        ready = true;
        await world.AddAsync("s", 2);
        await world.Fabric.SettleAsync().In();
        Assert.NotNull(waits.Driver);
    }

    [Fact]
    public async Task Flags_remove_the_link_or_probe_the_consumer()
    {
        var world = await World.NewAsync();
        var consumers = await world.RegisterAsync("c", "c");
        var suppliers = await world.RegisterAsync("s", "s");
        var consumer = await world.AddAsync("c", 1);
        var supplier = await world.AddAsync("s", 1);
        world.Fabric.AddLink(consumer, supplier, DeviceLinkFlags.AutoremoveConsumer);
        await world.Fabric.UnbindAsync(consumers, consumer.Name);
        Assert.Empty(world.Fabric.Links);

        world.Fabric.AddLink(consumer, supplier, DeviceLinkFlags.AutoremoveSupplier);
        await world.Fabric.BindAsync(consumers, consumer.Name);
        await world.Fabric.UnbindAsync(suppliers, supplier.Name);
        Assert.Empty(world.Fabric.Links);
        Assert.Null(consumer.Driver);

        world.Fabric.AddLink(consumer, supplier, DeviceLinkFlags.AutoprobeConsumer);
        await world.Fabric.BindAsync(suppliers, supplier.Name);
        await world.Fabric.SettleAsync().In();
        Assert.NotNull(consumer.Driver);

        await world.Fabric.DeleteAsync(consumer);
        Assert.Empty(world.Fabric.Links);
        consumer = await world.AddAsync("c", 2);
        var stateless = world.Fabric.AddLink(consumer, supplier, DeviceLinkFlags.Stateless);
        Assert.Equal("not tracked", stateless.Status);
        await world.Fabric.UnbindAsync(suppliers, supplier.Name);
        Assert.NotNull(consumer.Driver);

        await world.Fabric.UnbindAsync(consumers, consumer.Name);
        world.Fabric.RemoveLink(stateless);
        await world.Fabric.BindAsync(suppliers, supplier.Name);
        world.Fabric.AddLink(consumer, supplier, DeviceLinkFlags.AutoremoveConsumer);
        consumers.OnProbe = (_, _, _) => throw new VirtbusException(Errno.EIO, "No.");
        await Expect.RefusedAsync(Errno.EIO, () => world.Fabric.BindAsync(consumers, consumer.Name));
        Assert.Empty(world.Fabric.Links);
    }
}
