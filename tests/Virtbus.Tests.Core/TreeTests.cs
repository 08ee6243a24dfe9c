using System.Text;
using Virtbus.Buses.Auxiliary;
using Virtbus.Core;
using Virtbus.Platform;

namespace Virtbus.Tests.Core;

/// <summary>One tree with Linux's sysfs names and layout: DM-09, DM-16, DM-25, DM-27, VB-18.</summary>
public sealed class TreeTests
{
    [Fact]
    public async Task Listing_is_that_of_sysfs()
    {
        var world = await World.NewAsync();
        world.Fabric.RegisterClass(new Class("net"));
        Assert.True(world.Fabric.TryGetClass("net", out var net));
        await world.RegisterAsync("d", "a");
        var part = await world.AddAsync("a", 1);
        part.AddIrq(33);
        await world.Fabric.AddAsync(new Device("eth0", world.Parent, @class: net));
        await world.Fabric.AddAsync(new Device("lo", @class: net));
        var supplier = await world.AddAsync("s", 1);
        world.Fabric.AddLink(part, supplier);
        Assert.Equal(
            """
            bus/
            bus/auxiliary/
            bus/auxiliary/devices/
            bus/auxiliary/devices/mod.a.1 -> /devices/parent/mod.a.1
            bus/auxiliary/devices/mod.s.1 -> /devices/parent/mod.s.1
            bus/auxiliary/drivers/
            bus/auxiliary/drivers/test.d/
            bus/auxiliary/drivers/test.d/bind 200
            bus/auxiliary/drivers/test.d/mod.a.1 -> /devices/parent/mod.a.1
            bus/auxiliary/drivers/test.d/new_id 200
            bus/auxiliary/drivers/test.d/remove_id 200
            bus/auxiliary/drivers/test.d/uevent 200
            bus/auxiliary/drivers/test.d/unbind 200
            bus/auxiliary/drivers_autoprobe 644
            bus/auxiliary/drivers_probe 200
            bus/auxiliary/uevent 200
            class/
            class/devlink/
            class/devlink/auxiliary:mod.s.1--auxiliary:mod.a.1/
            class/devlink/auxiliary:mod.s.1--auxiliary:mod.a.1/auto_remove_on 444
            class/devlink/auxiliary:mod.s.1--auxiliary:mod.a.1/consumer -> /devices/parent/mod.a.1
            class/devlink/auxiliary:mod.s.1--auxiliary:mod.a.1/runtime_pm 444
            class/devlink/auxiliary:mod.s.1--auxiliary:mod.a.1/status 444
            class/devlink/auxiliary:mod.s.1--auxiliary:mod.a.1/supplier -> /devices/parent/mod.s.1
            class/net/
            class/net/eth0 -> /devices/parent/net/eth0
            class/net/lo -> /devices/virtual/net/lo
            devices/
            devices/parent/
            devices/parent/mod.a.1/
            devices/parent/mod.a.1/driver -> /bus/auxiliary/drivers/test.d
            devices/parent/mod.a.1/driver_override 644
            devices/parent/mod.a.1/driver_override_bind 200
            devices/parent/mod.a.1/irqs/
            devices/parent/mod.a.1/irqs/33 444
            devices/parent/mod.a.1/modalias 444
            devices/parent/mod.a.1/power/
            devices/parent/mod.a.1/power/control 644
            devices/parent/mod.a.1/power/runtime_active_kids 444
            devices/parent/mod.a.1/power/runtime_active_time 444
            devices/parent/mod.a.1/power/runtime_status 444
            devices/parent/mod.a.1/power/runtime_suspended_time 444
            devices/parent/mod.a.1/power/runtime_usage 444
            devices/parent/mod.a.1/power/state 644
            devices/parent/mod.a.1/subsystem -> /bus/auxiliary
            devices/parent/mod.a.1/supplier:auxiliary:mod.s.1 -> /class/devlink/auxiliary:mod.s.1--auxiliary:mod.a.1
            devices/parent/mod.a.1/uevent 644
            devices/parent/mod.a.1/waiting_for_supplier 444
            devices/parent/net/
            devices/parent/net/eth0/
            devices/parent/net/eth0/device -> /devices/parent
            devices/parent/net/eth0/subsystem -> /class/net
            devices/parent/net/eth0/uevent 644
            devices/parent/uevent 644
            devices/virtual/
            devices/virtual/net/
            devices/virtual/net/lo/
            devices/virtual/net/lo/subsystem -> /class/net
            devices/virtual/net/lo/uevent 644
            kernel/
            kernel/debug/
            kernel/debug/devices_deferred 444
            kernel/uevent_seqnum 444
            power/
            power/state 644
            """.ReplaceLineEndings("\n") + "\n",
            List(world.Fabric.Tree.Root));
    }

    // Everything, sorted; of the power and supplier's own files one device's are enough.
    private static string List(TreeDirectory root)
    {
        var lines = new List<string>();
        Walk(root, "");
        lines.RemoveAll(l => l.Contains("/power/", StringComparison.Ordinal) && !l.Contains("mod.a.1/power/", StringComparison.Ordinal)
            && !l.StartsWith("power/", StringComparison.Ordinal));
        lines.RemoveAll(l => l.StartsWith("devices/parent/mod.s.1", StringComparison.Ordinal));
        lines.Sort(StringComparer.Ordinal);
        return string.Concat(lines.Select(l => l + "\n"));

        void Walk(TreeDirectory directory, string path)
        {
            foreach (var node in directory.List())
            {
                var name = path + node.Name;
                switch (node)
                {
                    case TreeDirectory below:
                        lines.Add(name + "/");
                        Walk(below, name + "/");
                        break;
                    case TreeLink link:
                        lines.Add($"{name} -> {link.Target}");
                        break;
                    case TreeFile file:
                        lines.Add($"{name} {Convert.ToString(file.Mode, 8)}");
                        break;
                }
            }
        }
    }

    [Fact]
    public async Task Everything_that_is_listed_is_found_and_every_link_leads_somewhere()
    {
        var world = await World.NewAsync();
        await world.RegisterAsync("d", "a");
        await world.AddAsync("a", 1);
        var seen = 0;
        Walk(world.Fabric.Tree.Root, "");
        Assert.True(seen > 30);

        void Walk(TreeDirectory directory, string path)
        {
            foreach (var node in directory.List())
            {
                seen++;
                var found = world.Fabric.Tree.Find($"{path}/{node.Name}", follow: false);
                Assert.Equal((node.GetType(), node.Name), (found.GetType(), found.Name));
                if (node is TreeLink link)
                    Assert.IsType<TreeDirectory>(world.Fabric.Tree.Find(link.Target));
                if (node is TreeDirectory below)
                    Walk(below, $"{path}/{node.Name}");
            }
        }
    }

    [Fact]
    public async Task Parts_of_a_device_have_a_directory_each_with_the_attributes_that_fit_them()
    {
        var world = await World.NewAsync();
        var device = await world.AddAsync("a", 1);
        var parts = new List<(string, string)> { ("rx-0", "one"), ("tx-0", "two") };
        world.Fabric.Tree.AddDeviceGroup(AttributeGroup.OfParts<Device, string>(
            "queues", d => d == device ? parts : [], new ObjectAttribute<string>("name", static p => p), new ObjectAttribute<string>("only", static _ => "here", null, static p => p == "one")));
        Assert.Equal("one\n", world.Fabric.Tree.Read(device.DevPath + "/queues/rx-0/name"));
        Assert.Equal(["name"], ((TreeDirectory)world.Fabric.Tree.Find(device.DevPath + "/queues/tx-0")).List().Select(static n => n.Name));
        Assert.Equal(["name", "only"], ((TreeDirectory)world.Fabric.Tree.Find(device.DevPath + "/queues/rx-0")).List().Select(static n => n.Name));
        parts.RemoveAt(1);
        Assert.Equal(["rx-0"], ((TreeDirectory)world.Fabric.Tree.Find(device.DevPath + "/queues")).List().Select(static n => n.Name));
        await Expect.RefusedAsync(Errno.ENOENT, () => world.Fabric.Tree.WriteAsync(device.DevPath + "/queues/tx-0/name", "x"));
        parts.Clear();
        Expect.Refused(Errno.ENOENT, () => world.Fabric.Tree.Find(device.DevPath + "/queues"));
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task Directory_of_a_group_without_attributes_is_there_unless_the_group_says_otherwise(bool isHidden)
    {
        var world = await World.NewAsync();
        var having = await world.AddAsync("a", 1);
        var lacking = await world.AddAsync("b", 1);
        var tree = world.Fabric.Tree;
        tree.AddDeviceGroup(new AttributeGroup("counters", new ObjectAttribute<Device>("hits", _ => "7", null, d => d == having)) { IsHiddenWhenEmpty = isHidden });
        Assert.Equal("7\n", tree.Read($"{having.DevPath}/counters/hits"));
        var names = Assert.IsType<TreeDirectory>(tree.Find(lacking.DevPath)).List().Select(n => n.Name);
        Assert.Equal(!isHidden, names.Contains("counters"));
        if (isHidden)
            Expect.Refused(Errno.ENOENT, () => tree.Find($"{lacking.DevPath}/counters"));
        else
            Assert.Empty(Assert.IsType<TreeDirectory>(tree.Find($"{lacking.DevPath}/counters")).List());
    }

    [Fact]
    public async Task Errors_of_paths_are_linuxs()
    {
        var world = await World.NewAsync();
        await world.AddAsync("a", 1);
        var tree = world.Fabric.Tree;
        var e = Expect.Refused(Errno.ENOENT, () => tree.Read("/bus/auxiliary/devices/nobody/uevent"));
        Assert.Equal("'nobody' does not exist in /bus/auxiliary/devices. Get that directory to list it.", e.Message);
        e = Expect.Refused(Errno.ENOTDIR, () => tree.Read("/devices/parent/uevent/x"));
        Assert.Equal("/devices/parent/uevent is not a directory, so it has no 'x'.", e.Message);
        Expect.Refused(Errno.EISDIR, () => tree.Read("/devices/parent"));
        Expect.Refused(Errno.EISDIR, () => tree.Read("/"));
        await Expect.RefusedAsync(Errno.EISDIR, () => tree.WriteAsync("/bus/auxiliary/devices/mod.a.1", "x"));
        e = Expect.Refused(Errno.EACCES, () => tree.Read("/bus/auxiliary/drivers_probe"));
        Assert.Equal("/bus/auxiliary/drivers_probe is write-only. Write to it with 'attr set'.", e.Message);
        e = await Expect.RefusedAsync(Errno.EACCES, () => tree.WriteAsync("/devices/parent/mod.a.1/modalias", "x"));
        Assert.Equal("/devices/parent/mod.a.1/modalias is read-only; 'x' was not written.", e.Message);
        await Expect.RefusedAsync(Errno.EINVAL, () => tree.WriteAsync("/devices/parent/mod.a.1/driver_override", new string('x', 4097)));
        var around = string.Concat(Enumerable.Repeat("/bus/auxiliary/devices/mod.a.1/subsystem/devices/mod.a.1", 1)) +
            string.Concat(Enumerable.Repeat("/subsystem/devices/mod.a.1", 20));
        Expect.Refused(Errno.ELOOP, () => tree.Read(around + "/uevent"));
        Assert.NotEqual("", tree.Read("/bus/auxiliary/devices/mod.a.1" + string.Concat(Enumerable.Repeat("/subsystem/devices/mod.a.1", 19)) + "/uevent"));
    }

    [Fact]
    public async Task Dotdot_behind_a_link_leads_to_the_targets_own_directory()
    {
        var world = await World.NewAsync();
        await world.AddAsync("a", 1);
        Assert.Equal(world.Fabric.Tree.Read("/devices/parent/power/state"), world.Fabric.Tree.Read("/bus/auxiliary/devices/mod.a.1/../power/state"));
        Assert.Equal("parent", world.Fabric.Tree.Find("/bus/auxiliary/devices/mod.a.1/..").Name);
        Assert.Equal("auxiliary", world.Fabric.Tree.Find("bus/./auxiliary/devices/..").Name);
        Assert.Same(world.Fabric.Tree.Root, world.Fabric.Tree.Find("/../.."));
    }

    [Fact]
    public async Task Classes_under_one_parent_may_use_the_same_name()
    {
        var world = await World.NewAsync();
        var net = world.Fabric.RegisterClass(new Class("net"));
        var block = world.Fabric.RegisterClass(new Class("block"));
        var one = new Device("x0", world.Parent, @class: net);
        var two = new Device("x0", world.Parent, @class: block);
        var three = new Device("x0", world.Parent);
        foreach (var device in new[] { one, two, three })
            await world.Fabric.AddAsync(device);
        Assert.Equal(["/devices/parent/net/x0", "/devices/parent/block/x0", "/devices/parent/x0"], new[] { one, two, three }.Select(d => d.DevPath));
        Assert.Equal("/class/net", Assert.IsType<TreeLink>(world.Fabric.Tree.Find("/devices/parent/net/x0/subsystem", follow: false)).Target);
        Assert.Equal("/class/block", Assert.IsType<TreeLink>(world.Fabric.Tree.Find("/devices/parent/block/x0/subsystem", follow: false)).Target);
        Expect.Refused(Errno.ENOENT, () => world.Fabric.Tree.Read("/devices/parent/x0/subsystem/uevent"));
        await Expect.RefusedAsync(Errno.EEXIST, () => world.Fabric.AddAsync(new Device("x0", world.Parent, @class: net)));
        Expect.Refused(Errno.EBUSY, () => world.Fabric.UnregisterClass(net));
        await world.Fabric.DeleteAsync(one);
        world.Fabric.UnregisterClass(net);
        Expect.Refused(Errno.ENODEV, () => world.Fabric.UnregisterClass(net));
        await Expect.RefusedAsync(Errno.EINVAL, () => world.Fabric.AddAsync(new Device("x1", world.Parent, @class: net)));
    }

    [Theory]
    [InlineData("1", true)]
    [InlineData("Y", true)]
    [InlineData("on", true)]
    [InlineData("0", false)]
    [InlineData("n", false)]
    [InlineData("off", false)]
    public void Truth_values_are_the_kernels(string text, bool value) => Assert.Equal(value, AttributeValue.ParseBoolean("x", text));

    [Fact]
    public void Numbers_are_the_kernels()
    {
        Assert.Equal(10ul, AttributeValue.ParseUnsigned("x", "10"));
        Assert.Equal(16ul, AttributeValue.ParseUnsigned("x", "0x10"));
        Assert.Equal(8ul, AttributeValue.ParseUnsigned("x", "010"));
        Assert.Equal(ulong.MaxValue, AttributeValue.ParseUnsigned("x", "0xffffffffffffffff"));
        foreach (var wrong in new[] { "", "-1", "0x", "08", "1 2", "0x1ffffffffffffffff", "02000000000000000000000" })
            Expect.Refused(Errno.EINVAL, () => { AttributeValue.ParseUnsigned("x", wrong); });
        Expect.Refused(Errno.ERANGE, () => { AttributeValue.ParseUnsigned("x", "11", max: 10); });
    }
}
