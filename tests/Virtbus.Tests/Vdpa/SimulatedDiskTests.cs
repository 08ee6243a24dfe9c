using Virtbus.Buses.Vdpa;
using Virtbus.Core;
using Virtbus.Drivers.VdpaSimBlk;
using Virtbus.Drivers.VhostVdpa;
using Virtbus.Platform;
using Virtbus.Subsystems.Vhost;
using Virtbus.Tests.Core;
using Virtbus.Virtio;
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

    [Fact]
    public async Task Profile_that_names_a_medium_is_refused()
    {
        var (_, bus, _) = await LoadAsync();
        var profile = new VdpaProfile("disk1", 2, "medium", "serial", 1, 4096);
        await Deadline.Refused(Errno.EOPNOTSUPP, async () => await bus.Managements[0].AddAsync(profile));
        await Deadline.Refused(Errno.EINVAL, async () => await bus.Managements[0].AddAsync(profile with { Medium = "", Capacity = 0 }));
    }

    [Fact]
    public async Task Class_id_chooses_the_driver_and_an_override_goes_past_it()
    {
        var (fabric, bus, _) = await LoadAsync();
        // Registered before any device comes, and still none of them has the first say for a disk.
        await fabric.Tree.WriteAsync("/bus/vdpa/drivers_autoprobe", "0");
        await fabric.Tree.WriteAsync(Files + "new_device", "disk1 1MiB");
        var disk = Assert.Single(bus.Devices);
        await fabric.UnregisterDriverAsync(bus.Drivers[0]);
        await fabric.Tree.WriteAsync("/bus/vdpa/drivers_autoprobe", "1");
        var net = new TypeDriver(bus, "for-net", [VirtioDeviceId.VIRTIO_ID_NET]);
        await fabric.RegisterDriverAsync(net);
        await fabric.RegisterDriverAsync(new TypeDriver(bus, "for-others", [VirtioDeviceId.VIRTIO_ID_BLOCK], "disk2"));
        Assert.Null(disk.Driver);
        var block = new TypeDriver(bus, "for-disks", [VirtioDeviceId.VIRTIO_ID_BLOCK]);
        await fabric.RegisterDriverAsync(block);
        Assert.Same(block, disk.Driver);
        Assert.Equal(VirtioDeviceId.VIRTIO_ID_BLOCK, block.Probed);
        await fabric.UnbindAsync(block, disk.Name);
        await Deadline.Refused(Errno.ENODEV, () => fabric.BindAsync(net, disk.Name));
        fabric.SetDriverOverride(disk, net.Name);
        await fabric.BindAsync(net, disk.Name);
        Assert.Equal(VirtioDeviceId.VIRTIO_ID_BLOCK, net.Probed);
    }

    private sealed class TypeDriver(VdpaBus bus, string name, uint[] types, string? only = null) : VdpaDriver(bus, name)
    {
        public uint Probed { get; private set; }

        public override IReadOnlyCollection<uint> VirtioTypes => types;

        protected override bool Accepts(IVdpaIdentity device) => only is null || device.Name == only;

        protected override ValueTask ProbeAsync(VdpaDevice device, VdpaDeviceId id, CancellationToken cancellationToken)
        {
            Probed = id.VirtioType;
            return default;
        }
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
