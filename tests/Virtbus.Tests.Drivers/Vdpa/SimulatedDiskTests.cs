using Virtbus.Buses.Vdpa;
using Virtbus.Core;
using Virtbus.Drivers.VdpaSimBlk;
using Virtbus.Drivers.VhostVdpa;
using Virtbus.Platform;
using Virtbus.Subsystems.Vhost;
using Virtbus.Virtio;

namespace Virtbus.Tests.Drivers.Vdpa;

/// <summary>The second provider of vDPA devices: disks with no adapter below.</summary>
public sealed class SimulatedDiskTests
{
    private const string Config = "/kernel/config/";

    [Fact]
    public async Task Disk_is_made_and_removed_by_writes_to_the_tree_and_a_user_can_open_it()
    {
        var (fabric, bus, module) = await LoadAsync();
        var management = Assert.Single(bus.Managements);
        Assert.Equal("vdpasim_blk", management.Name);
        await fabric.Tree.WriteAsync(Config + "define", "disk1 kind=vdpa parent=vdpasim_blk capacity=1MiB queues=2");
        Assert.Empty(bus.Devices);
        await fabric.Tree.WriteAsync(Config + "functions/disk1/live", "1");
        var disk = Assert.Single(bus.Devices.OfType<VdpaDevice>());
        Assert.Equal(("disk1", 2u, 2), (disk.Name, disk.VirtioType, disk.Ops.QueueCount));
        var capacity = new byte[8];
        Assert.True(disk.Ops.TryGetConfig(0, capacity, out _));
        Assert.Equal(2048ul, BitConverter.ToUInt64(capacity));
        Assert.Equal("disk1", Assert.Single(VhostSubsystem.Of(fabric).Class.Devices.OfType<VhostDevice>()).Label);
        Assert.Equal("2\n", fabric.Tree.Read("/bus/vdpa/devices/disk1/max_vqs"));

        await fabric.Tree.WriteAsync(Config + "functions/disk1/live", "0");
        Assert.Empty(bus.Devices);
        Assert.Empty(VhostSubsystem.Of(fabric).Class.Devices);
        await fabric.Tree.WriteAsync(Config + "activate", "disk1");
        await module.ExitAsync();
        Assert.Empty(bus.Devices);
        Assert.Empty(bus.Managements);
        Assert.Equal("gone\n", fabric.Tree.Read(Config + "functions/disk1/state"));
        // As new, since it was in memory; and there, since it was.
        await module.InitAsync(new ModuleContext(fabric, "vdpa_sim_blk"));
        await fabric.SettleAsync();
        Assert.Equal("active\n", fabric.Tree.Read(Config + "functions/disk1/state"));
    }

    [Theory]
    [InlineData("", Errno.EINVAL)]
    [InlineData("queues=2", Errno.EINVAL)]
    [InlineData("capacity=0", Errno.EINVAL)]
    [InlineData("capacity=1000", Errno.EINVAL)]
    [InlineData("capacity=-1", Errno.EINVAL)]
    [InlineData("capacity=1MB", Errno.EINVAL)]
    [InlineData("capacity=9999999999TiB", Errno.EINVAL)]
    [InlineData("capacity=1MiB queues=0", Errno.EINVAL)]
    [InlineData("capacity=1MiB queues=257", Errno.EINVAL)]
    [InlineData("capacity=1MiB type=1", Errno.EOPNOTSUPP)]
    [InlineData("capacity=1MiB medium=disk0", Errno.EOPNOTSUPP)]
    [InlineData("capacity=1MiB serial=123456789012345678901", Errno.EINVAL)]
    [InlineData("capacity=1MiB driver=nobody", Errno.ENODEV)]
    public async Task Disk_that_can_not_be_is_refused_and_nothing_is_left(string profile, Errno errno)
    {
        var (fabric, bus, _) = await LoadAsync();
        var refusal = await Assert.ThrowsAsync<VirtbusException>(async () =>
        {
            await fabric.Tree.WriteAsync(Config + "define", "disk1 kind=vdpa " + profile);
            await fabric.Tree.WriteAsync(Config + "activate", "disk1");
        });
        Assert.Equal(errno, refusal.Errno);
        Assert.Contains("'disk1'", refusal.Message, StringComparison.Ordinal);
        Assert.Empty(bus.Devices);
    }

    [Fact]
    public async Task Class_id_chooses_the_driver_and_an_override_goes_past_it()
    {
        var (fabric, bus, _) = await LoadAsync();
        // Registered before any device comes, and still none of them has the first say for a disk.
        await fabric.Tree.WriteAsync("/bus/vdpa/drivers_autoprobe", "0");
        await fabric.Tree.WriteAsync(Config + "define", "disk1 kind=vdpa parent=vdpasim_blk capacity=1MiB queues=1");
        await fabric.Tree.WriteAsync(Config + "functions/disk1/live", "1");
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
        await Expect.RefusedAsync(Errno.ENODEV, () => fabric.BindAsync(net, disk.Name));
        fabric.SetDriverOverride(disk, net.Name);
        await fabric.BindAsync(net, disk.Name);
        Assert.Equal(VirtioDeviceId.VIRTIO_ID_BLOCK, net.Probed);
    }

    [Fact]
    public async Task Part_that_goes_in_the_middle_of_its_probe_does_not_wait_for_who_makes_a_disk_below_it()
    {
        var fabric = new Fabric();
        var vdpa = fabric.RegisterBus(new VdpaBus());
        var parts = fabric.RegisterBus(new PartBus());
        var driver = new PartDriver(parts, vdpa);
        await fabric.RegisterDriverAsync(driver);
        var part = new Device("part", null, parts);
        var add = fabric.AddAsync(part).AsTask();
        var management = await driver.InProbe.Task.In();
        var made = MakeAsync();
        var removal = fabric.DeleteAsync(part).AsTask();
        driver.Go.SetResult();
        await removal.In();
        await made.In();
        await add.In();
        Assert.Empty(vdpa.Devices);

        async Task MakeAsync()
        {
            var disk = await management.AddAsync(management.Profile("disk1", [new("capacity", "1MiB")]));
            await fabric.AwaitAttemptAsync(disk);
        }
    }

    private sealed class PartBus() : Bus("parts")
    {
        public override DeviceId? Match(IDeviceIdentity device, Driver driver) => new PartId();
    }

    private sealed record PartId() : DeviceId(0);

    /// <summary>Registers its management and goes on when the test says so, as a part that is slow to start.</summary>
    private sealed class PartDriver(PartBus bus, VdpaBus vdpa) : Driver("part")
    {
        public TaskCompletionSource<VdpaManagement> InProbe { get; } = new();

        public TaskCompletionSource Go { get; } = new();

        public override Bus Bus => bus;

        protected internal override async ValueTask ProbeAsync(Device device, DeviceId id, CancellationToken cancellationToken)
        {
            var management = vdpa.RegisterManagement(device, new VdpaSimBlkOps());
            device.Resources.AddAction(() => vdpa.UnregisterManagementAsync(management));
            InProbe.SetResult(management);
            await Go.Task;
        }
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
