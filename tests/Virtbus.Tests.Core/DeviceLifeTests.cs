using Virtbus.Buses.Auxiliary;
using Virtbus.Core;
using Virtbus.Platform;

namespace Virtbus.Tests.Core;

/// <summary>Life cycle and references of a device: DM-01, DM-02, DM-03, DM-07, DM-08, DM-09, DM-11, DM-31, VB-07.</summary>
public sealed class DeviceLifeTests
{
    [Fact]
    public async Task Failed_add_tells_nobody_and_the_put_releases_once()
    {
        var world = await World.NewAsync();
        await world.RegisterAsync("d", "a");
        var first = await world.AddAsync("a", 1);
        world.ClearCalls();
        var seqnum = world.Fabric.Uevents.Seqnum;
        var released = 0;
        var second = world.New("a", 1, release: _ => released++);
        var references = world.Parent.References;

        await Expect.RefusedAsync(Errno.EEXIST, () => world.Fabric.AddAsync(second));

        Assert.Equal(seqnum, world.Fabric.Uevents.Seqnum);
        Assert.Empty(world.Calls);
        Assert.Equal(0, released);
        second.Put();
        Assert.Equal(1, released);
        Assert.Equal(references, world.Parent.References);
        Assert.Same(first, world.Bus.Devices.Single());
        Assert.Throws<InvalidOperationException>(second.Put);
        Assert.Equal(1, released);
    }

    [Theory]
    [InlineData("a name that its bus has", Errno.EEXIST)]
    [InlineData("a name that its class has", Errno.EEXIST)]
    [InlineData("a name that a sibling has", Errno.EEXIST)]
    [InlineData("the name of a file of its parent", Errno.EEXIST)]
    [InlineData("a parent that was never added", Errno.ENODEV)]
    [InlineData("a parent that was deleted", Errno.ENODEV)]
    [InlineData("a parent that vanished", Errno.ENODEV)]
    [InlineData("a parent of another fabric", Errno.ENODEV)]
    [InlineData("a bus that is not registered", Errno.EINVAL)]
    [InlineData("a class that is not registered", Errno.EINVAL)]
    public async Task Whatever_an_add_fails_of_ends_in_one_put_and_one_release(string what, Errno errno)
    {
        var world = await World.NewAsync();
        await world.RegisterAsync("d", "a");
        await world.AddAsync("a", 1);
        var net = world.Fabric.RegisterClass(new Class("net"));
        await world.Fabric.AddAsync(new Device("eth0", world.Parent, @class: net));
        await world.Fabric.AddAsync(new Device("twin", world.Parent));
        var parent = world.Parent;
        if (what is "a parent that was never added" or "a parent that was deleted" or "a parent that vanished" or "a name that its class has")
            parent = new Device("other");
        if (what is "a parent that was deleted" or "a parent that vanished" or "a name that its class has")
            await world.Fabric.AddAsync(parent);
        if (what == "a parent of another fabric")
            parent = (await World.NewAsync()).Parent;
        if (what == "a parent that was deleted")
            await world.Fabric.DeleteAsync(parent);
        if (what == "a parent that vanished")
            await world.Fabric.SurpriseRemoveAsync(parent);
        var references = parent.References;
        var released = 0;
        var device = what switch
        {
            "a name that its bus has" => new AuxiliaryDevice(world.Bus, "mod", "a", 1, parent) { Release = _ => released++ },
            "a name that its class has" => new Device("eth0", parent, @class: net) { Release = _ => released++ },
            "a name that a sibling has" => new Device("twin", parent) { Release = _ => released++ },
            "the name of a file of its parent" => new Device("uevent", parent) { Release = _ => released++ },
            "a bus that is not registered" => new AuxiliaryDevice(new AuxiliaryBus(), "mod", "b", 1, parent) { Release = _ => released++ },
            "a class that is not registered" => new Device("x", parent, @class: new Class("net")) { Release = _ => released++ },
            _ => new Device("x", parent) { Release = _ => released++ },
        };
        var seqnum = world.Fabric.Uevents.Seqnum;
        var all = world.Fabric.AllDevices.Count();
        world.ClearCalls();

        await Expect.RefusedAsync(errno, () => world.Fabric.AddAsync(device));

        Assert.Equal((DeviceState.Initialized, 1, 0), (device.State, device.References, released));
        Assert.Equal((seqnum, all), (world.Fabric.Uevents.Seqnum, world.Fabric.AllDevices.Count()));
        Assert.Empty(world.Calls);
        device.Put();
        Assert.Equal((DeviceState.Released, 1, references), (device.State, released, parent.References));
        Assert.Throws<InvalidOperationException>(device.Put);
        Assert.Equal(1, released);
    }

    [Fact]
    public async Task Id_is_free_only_when_the_last_reference_is_gone()
    {
        var world = await World.NewAsync();
        var ids = new IdAllocator();
        var device = await world.Bus.CreateAsync(world.Parent, "mod", "a", "payload", ids);
        using (device.Hold())
        {
            await world.Bus.DestroyAsync(device);
            var other = await world.Bus.CreateAsync(world.Parent, "mod", "a", "payload", ids);
            Assert.Equal("mod.a.1", other.Name);
            Assert.Equal(2, ids.Count);
        }
        Assert.Equal(1, ids.Count);
        Assert.Equal("mod.a.0", (await world.Bus.CreateAsync(world.Parent, "mod", "a", "payload", ids)).Name);
    }

    [Fact]
    public async Task Device_is_released_once_whoever_drops_the_last_reference()
    {
        var world = await World.NewAsync();
        var released = 0;
        var device = world.New("a", 1, release: _ => Interlocked.Increment(ref released));
        await world.Fabric.AddAsync(device);
        for (var i = 0; i < 1000; i++)
            device.Get();
        await world.Fabric.UnregisterAsync(device);
        Assert.Equal(0, released);

        Parallel.For(0, 1000, _ => device.Put());

        Assert.Equal(1, released);
        Assert.Equal(DeviceState.Released, device.State);
    }

    [Fact]
    public void Refused_get_does_not_let_a_later_put_release_again()
    {
        var released = 0;
        var device = new Device("d") { Release = _ => released++ };
        device.Put();
        Assert.Throws<InvalidOperationException>(() => device.Get());
        Assert.Throws<InvalidOperationException>(device.Put);
        Assert.Throws<InvalidOperationException>(device.Put);
        Assert.Equal(1, released);
    }

    [Fact]
    public async Task Parent_is_released_after_its_children_even_when_a_release_throws()
    {
        var fabric = new Fabric();
        var order = new List<string>();
        var parent = new Device("p") { Release = d => order.Add(d.Name) };
        await fabric.AddAsync(parent);
        var child = new Device("c", parent)
        {
            Release = d =>
            {
                order.Add(d.Name);
                throw new InvalidOperationException("release");
            },
        };
        await fabric.AddAsync(child);
        await fabric.DeleteAsync(parent);
        parent.Put();
        Assert.Empty(order);
        Assert.Throws<InvalidOperationException>(child.Put);
        Assert.Equal(["c", "p"], order);
    }

    [Fact]
    public async Task Deleting_a_parent_takes_what_is_below_it_newest_first_and_before_its_own_driver_goes()
    {
        var world = await World.NewAsync();
        await world.RegisterAsync("d", "a", "b");
        var top = await world.AddAsync("a", 1);
        await world.AddAsync("b", 1, top);
        var two = await world.AddAsync("b", 2, top);
        await world.AddAsync("b", 3, two);
        world.ClearCalls();
        var seqnum = world.Fabric.Uevents.Seqnum;

        await world.Fabric.DeleteAsync(top);

        Assert.Equal(
            ["test.d remove mod.b.3", "test.d remove mod.b.2", "test.d remove mod.b.1", "test.d remove mod.a.1"],
            world.Calls);
        Assert.Equal(
            [
                "unbind mod.b.3", "remove mod.b.3", "unbind mod.b.2", "remove mod.b.2",
                "unbind mod.b.1", "remove mod.b.1", "unbind mod.a.1", "remove mod.a.1",
            ],
            world.Events(seqnum));
        Assert.Empty(world.Bus.Devices);
    }

    [Fact]
    public async Task Deleting_twice_is_harmless_and_the_second_waits_for_the_first()
    {
        var world = await World.NewAsync();
        var gate = new TaskCompletionSource();
        var inRemove = new TaskCompletionSource();
        var driver = await world.RegisterAsync("d", "a");
        driver.OnRemove = async _ =>
        {
            inRemove.SetResult();
            await gate.Task;
        };
        var device = await world.AddAsync("a", 1);
        var first = world.Fabric.DeleteAsync(device).AsTask();
        await inRemove.Task.In();
        var second = world.Fabric.DeleteAsync(device).AsTask();
        Assert.False(second.IsCompleted);
        gate.SetResult();
        await Task.WhenAll(first, second).In();
        await world.Fabric.DeleteAsync(device);
        Assert.Equal(1, device.References);
        Assert.Single(world.Events(), e => e == "remove mod.a.1");
    }

    [Fact]
    public async Task Nothing_is_added_twice_or_under_a_parent_that_is_not_in_the_tree()
    {
        var world = await World.NewAsync();
        var device = await world.AddAsync("a", 1);
        await Expect.RefusedAsync(Errno.EINVAL, () => world.Fabric.AddAsync(device));
        await Expect.RefusedAsync(Errno.ENODEV, () => world.Fabric.AddAsync(new Device("x", new Device("never"))));
        await world.Fabric.DeleteAsync(device);
        await Expect.RefusedAsync(Errno.EINVAL, () => world.Fabric.AddAsync(device));
        await Expect.RefusedAsync(Errno.ENODEV, () => world.Fabric.AddAsync(new Device("x", device)));
        await Expect.RefusedAsync(Errno.EINVAL, () => world.Fabric.DeleteAsync(new Device("never")));
        await Expect.RefusedAsync(Errno.EINVAL, () => world.Fabric.SurpriseRemoveAsync(new Device("never")));
    }

    [Fact]
    public async Task Null_is_a_bug_of_the_caller_not_an_errno()
    {
        var fabric = new Fabric();
        await Assert.ThrowsAsync<ArgumentNullException>(() => fabric.AddAsync(null!).AsTask());
        await Assert.ThrowsAsync<ArgumentNullException>(() => fabric.DeleteAsync(null!).AsTask());
        await Assert.ThrowsAsync<ArgumentNullException>(() => fabric.RegisterDriverAsync(null!).AsTask());
        Assert.Throws<ArgumentNullException>(() => fabric.RegisterBus<AuxiliaryBus>(null!));
        Assert.Throws<ArgumentNullException>(() => new Device(null!));
        var world = await World.NewAsync();
        var device = await world.AddAsync("a", 1);
        Action[] calls =
        [
            () => new AuxiliaryDevice(null!, "mod", "a", 0, world.Parent),
            () => new AuxiliaryDevice(world.Bus, null!, "a", 0, world.Parent),
            () => new AuxiliaryDevice(world.Bus, "mod", null!, 0, world.Parent),
            () => new AuxiliaryDevice(world.Bus, "mod", "a", 0, null!),
            () => new AuxiliaryDevice<string>(world.Bus, "mod", "a", 0, world.Parent, null!),
            () => fabric.RegisterClass(null!),
            () => fabric.AddLink(null!, device),
            () => fabric.AddLink(device, null!),
            () => world.Fabric.SetDriverOverride(null!, "x"),
            () => world.Fabric.Tree.Find(null!),
        ];
        Assert.All(calls, call => Assert.ThrowsAny<ArgumentNullException>(call));
    }

    [Theory]
    [InlineData("")]
    [InlineData(".")]
    [InlineData("..")]
    [InlineData("a/b")]
    [InlineData("a\0b")]
    [InlineData("a\nb")]
    public void Name_that_no_directory_can_have_is_refused(string name) => Expect.Refused(Errno.EINVAL, () => new Device(name));

    [Fact]
    public void Name_is_measured_in_bytes()
    {
        Assert.Equal(255, new Device(new string('a', 255)).Name.Length);
        Expect.Refused(Errno.EINVAL, () => new Device(new string('a', 256)));
        Expect.Refused(Errno.EINVAL, () => new Device(new string('ä', 128)));
    }

    [Theory]
    [InlineData("uevent")]
    [InlineData("power")]
    [InlineData("driver")]
    public async Task Child_can_not_take_the_name_of_a_file_that_every_device_has(string name)
    {
        var world = await World.NewAsync();
        await Expect.RefusedAsync(Errno.EEXIST, () => world.Fabric.AddAsync(new Device(name, world.Parent)));
        await Expect.RefusedAsync(Errno.EEXIST, () => world.Fabric.AddAsync(new Device("virtual")));
    }

    [Fact]
    public async Task Identity_is_fixed_at_creation()
    {
        // No public way to set any of them.
        foreach (var name in new[] { "Name", "Parent", "Bus", "Class" })
            Assert.Null(typeof(Device).GetProperty(name)!.SetMethod);
        foreach (var name in new[] { "Id", "MatchName" })
            Assert.Null(typeof(AuxiliaryDevice).GetProperty(name)!.SetMethod);
        var world = await World.NewAsync();
        var device = await world.AddAsync("a", 3);
        await world.RegisterAsync("d", "a");
        Assert.Equal(("mod.a.3", 3u, "mod.a"), (device.Name, device.Id, device.MatchName));
    }

    [Fact]
    public async Task One_device_object_for_each_part_however_many_there_are()
    {
        var world = await World.NewAsync();
        var driver = await world.RegisterAsync("d", "sf");
        for (var i = 0u; i < 512; i++)
            await world.AddAsync("sf", i);
        Assert.Equal(512, driver.Devices.Count);
        Assert.Equal(513, world.Fabric.AllDevices.Count());
        await world.Fabric.DeleteAsync(world.Parent);
        Assert.Empty(world.Fabric.AllDevices);
        Assert.Empty(driver.Devices);
    }

    [Fact]
    public void Ids_are_handed_out_lowest_first_and_refused_at_the_limit()
    {
        var ids = new IdAllocator(limit: 130);
        for (var i = 0u; i < 130; i++)
            Assert.Equal(i, ids.Allocate());
        Expect.Refused(Errno.ENOSPC, () => ids.Allocate());
        ids.Free(77);
        ids.Free(3);
        Assert.Equal(3u, ids.Allocate());
        Assert.Equal(77u, ids.Allocate());
        Assert.Throws<InvalidOperationException>(() => ids.Free(130));
        ids.Free(5);
        Assert.Throws<InvalidOperationException>(() => ids.Free(5));
        Assert.Equal(129, ids.Count);
    }
}
