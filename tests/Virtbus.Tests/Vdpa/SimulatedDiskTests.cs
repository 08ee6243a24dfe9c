using Virtbus.Buses.Vdpa;
using Virtbus.Core;
using Virtbus.Drivers.VdpaSimBlk;
using Virtbus.Drivers.VhostVdpa;
using Virtbus.Platform;
using Virtbus.Subsystems.Vhost;
using Virtbus.Tests.Core;
using Xunit;

namespace Virtbus.Tests.Vdpa;

/// <summary>The second provider of vDPA devices: disks with no adapter below.</summary>
public sealed class SimulatedDiskTests
{
    private const string Files = "/devices/vdpasim_blk/";

    [Fact]
    public async Task Disk_is_made_and_removed_by_writes_to_the_tree_and_a_user_can_open_it()
    {
        var (fabric, bus, module) = await LoadAsync();
        var management = Assert.Single(bus.Managements);
        Assert.Equal("vdpasim_blk", management.Name);
        await fabric.Tree.WriteAsync(Files + "new_device", "disk1 1MiB 2");
        await fabric.SettleAsync();
        var disk = Assert.Single(bus.Devices.OfType<VdpaDevice>());
        Assert.Equal(("disk1", 2u, 2), (disk.Name, disk.VirtioType, disk.Ops.QueueCount));
        var capacity = new byte[8];
        Assert.True(disk.Ops.TryGetConfig(0, capacity, out _));
        Assert.Equal(2048ul, BitConverter.ToUInt64(capacity));
        Assert.Equal("disk1", Assert.Single(VhostSubsystem.Of(fabric).Class.Devices.OfType<VhostDevice>()).Label);
        Assert.Equal("2\n", fabric.Tree.Read("/bus/vdpa/devices/disk1/max_vqs"));

        await fabric.Tree.WriteAsync(Files + "delete_device", "disk1");
        Assert.Empty(bus.Devices);
        Assert.Empty(VhostSubsystem.Of(fabric).Class.Devices);
        await fabric.Tree.WriteAsync(Files + "new_device", "disk1 4096");
        await module.ExitAsync();
        Assert.Empty(bus.Devices);
        Assert.Empty(bus.Managements);
    }

    [Theory]
    [InlineData("", Errno.EINVAL)]
    [InlineData("disk1", Errno.EINVAL)]
    [InlineData("disk1 0", Errno.EINVAL)]
    [InlineData("disk1 1000", Errno.EINVAL)]
    [InlineData("disk1 -1", Errno.EINVAL)]
    [InlineData("disk1 1MB", Errno.EINVAL)]
    [InlineData("disk1 9999999999TiB", Errno.EINVAL)]
    [InlineData("disk1 1MiB 0", Errno.EINVAL)]
    [InlineData("disk1 1MiB 257", Errno.EINVAL)]
    [InlineData("disk1 1MiB 1 1", Errno.EINVAL)]
    [InlineData("plätze 1MiB", Errno.EINVAL)]
    [InlineData("disk0 1MiB", Errno.EEXIST)]
    public async Task Disk_that_can_not_be_is_refused_and_nothing_is_left(string written, Errno errno)
    {
        var (fabric, bus, _) = await LoadAsync();
        await fabric.Tree.WriteAsync(Files + "new_device", "disk0 1MiB");
        await Deadline.Refused(errno, () => fabric.Tree.WriteAsync(Files + "new_device", written));
        Assert.Single(bus.Devices);
        await Deadline.Refused(Errno.ENODEV, () => fabric.Tree.WriteAsync(Files + "delete_device", "disk1"));
    }

    [Theory]
    [InlineData("disk1 0")]
    [InlineData("disk1 1000")]
    [InlineData("disk1 1MiB 257")]
    public async Task Refusal_names_the_disk_that_was_asked_for(string written)
    {
        var (fabric, _, _) = await LoadAsync();
        var refusal = await Assert.ThrowsAsync<VirtbusException>(async () => await fabric.Tree.WriteAsync(Files + "new_device", written));
        Assert.Contains("'disk1'", refusal.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Profile_that_names_a_medium_is_refused()
    {
        var (_, bus, _) = await LoadAsync();
        var profile = new VdpaProfile("disk1", 2, "medium", "serial", 1, 4096);
        await Deadline.Refused(Errno.EOPNOTSUPP, async () => await bus.Managements[0].AddAsync(profile));
        await Deadline.Refused(Errno.EINVAL, async () => await bus.Managements[0].AddAsync(profile with { Medium = "", Capacity = 0 }));
    }

    private static async Task<(Fabric Fabric, VdpaBus Bus, IFabricModule Module)> LoadAsync()
    {
        var fabric = new Fabric();
        var bus = fabric.RegisterBus(new VdpaBus());
        await new VhostVdpaModule().InitAsync(new ModuleContext(fabric, "vhost_vdpa"));
        IFabricModule module = new VdpaSimBlkModule();
        await module.InitAsync(new ModuleContext(fabric, "vdpa_sim_blk"));
        return (fabric, bus, module);
    }
}
