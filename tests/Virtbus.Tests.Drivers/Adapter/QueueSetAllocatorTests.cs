using Virtbus.Block;
using Virtbus.Buses.Auxiliary;
using Virtbus.Core;
using Virtbus.Drivers.Nic;
using Virtbus.Drivers.NicRings;
using Virtbus.Hardware.Adapter;
using Virtbus.Platform;

namespace Virtbus.Tests.Drivers.Adapter;

/// <summary>Queue sets of all parts come out of one number, in the driver and in the hardware. MS-06.</summary>
public sealed class QueueSetAllocatorTests
{
    [Fact]
    public async Task Net_vdpa_and_rdma_like_parts_share_the_queue_sets_and_who_finds_none_takes_none()
    {
        await using var fixture = await AdapterFixture.StartAsync();
        using var memory = new MemoryBackend(1 << 20);
        var adapter = await fixture.AddMerlinAsync("adapter0", nets: 1, vdpas: 1, vfs: 1);
        adapter.Hardware.Engine.AttachMedium("disk0", memory);
        adapter.Hardware.Engine.AttachMedium("disk1", memory);
        NicCore.TryGet(adapter.Device)!.SetVirtualFunction(0, new NicVfSettings(0x020000000077, QueueSets: 4));
        await fixture.Fabric.Tree.WriteAsync(adapter.Device.DevPath + "/sriov_numvfs", "1");
        var function = adapter.Device.VirtualFunctions[0];
        var core = NicCore.TryGet(function)!;
        var disks = fixture.Vdpa.Managements.Single(m => m.Device.Parent == function);
        var net = fixture.Net("adapter0v0np0");
        Assert.Equal((4, 1), (core.Total, core.Used));

        var rdma = new RdmaLikeDriver(fixture.Auxiliary);
        await fixture.Fabric.RegisterDriverAsync(rdma);
        var part = new NicPart(fixture.Auxiliary, "merlin_core", "rdma", 0, 0, core);
        await fixture.Fabric.RegisterAsync(part);
        Assert.Same(rdma, part.Driver);
        Assert.Equal(2, core.Used);
        var disk = await disks.AddDiskAsync("disk0", "disk0", "S", 2);
        Assert.Equal(4, core.Used);

        // All are out: the next disk gets none, and hears who has them.
        var refused = await Assert.ThrowsAsync<VirtbusException>(async () => await disks.AddDiskAsync("disk1", "disk1", "S"));
        Assert.Equal(Errno.ENOSPC, refused.Errno);
        Assert.Contains("0 of 4 queue sets left, and disk1 wants 1. Out are: adapter0v0np0 1, disk0 2, rdma-like 1.", refused.Message);
        Assert.Equal(4, core.Used);

        // What one part gives back another one takes, whatever kind they are of.
        await net.SetUpAsync(false);
        Assert.Equal(3, core.Used);
        refused = await Assert.ThrowsAsync<VirtbusException>(async () => await disks.AddDiskAsync("disk1", "disk1", "S", 2));
        Assert.Contains("1 of 4 queue sets left, and disk1 wants 2.", refused.Message);
        Assert.Equal(3, core.Used);
        await disks.AddDiskAsync("disk1", "disk1", "S");
        Assert.Equal(Errno.ENOSPC, (await Assert.ThrowsAsync<VirtbusException>(async () => await net.SetUpAsync(true))).Errno);
        await fixture.Fabric.UnregisterAsync(part);
        Assert.Equal(3, core.Used);
        await net.SetUpAsync(true);
        Assert.True(net.IsUp);
        Assert.Equal(4, core.Used);
        await disks.RemoveAsync(disk);
        Assert.Equal(2, core.Used);
    }

    [Fact]
    public void Hardware_counts_virtqueues_and_frame_queues_as_one()
    {
        var function = AdapterDriver.Make(merlin: false, vfs: 1, vdpas: 1);
        using var memory = new MemoryBackend(1 << 20);
        function.Engine.AttachMedium("disk0", memory);
        using var physical = new AdapterDriver(function);
        physical.Enable();
        Assert.Equal(Errno.None, physical.Do(AdapterOpcode.SetFunction, 1, 0x0200000000AA, 3).Status);
        using var rig = new AdapterDriver(AdapterDriver.EnableVirtual(function, 1)[0]);
        rig.Enable();
        Assert.True(rig.AttachPasid(1));
        var parameters = new byte[VirtioBlockParameters.Size];
        (parameters[0], parameters[4]) = (1, 2);
        "disk0"u8.CopyTo(parameters.AsSpan(128));
        rig.WriteMemory(AdapterDriver.Free + 0x80000, parameters);

        var queues = rig.CreateQueues(0);
        var window = rig.Do(AdapterOpcode.CreateVirtioBlock, 0, AdapterDriver.Free + 0x80000);
        Assert.Equal(Errno.None, window.Status);
        Assert.Equal(Errno.ENOSPC, rig.Do(AdapterOpcode.CreateQueueSet, 0, queues.Arguments).Status);
        Assert.Equal(Errno.ENOSPC, rig.Do(AdapterOpcode.CreateVirtioBlock, 0, AdapterDriver.Free + 0x80000).Status);
        Assert.Equal(Errno.None, rig.Do(AdapterOpcode.DestroyVirtio, (uint)window.First).Status);
        rig.CreateQueues(1);
        rig.CreateQueues(2);
        Assert.Equal(Errno.ENOSPC, rig.Do(AdapterOpcode.CreateQueueSet, 0, queues.Arguments).Status);
        function.Dispose();
    }

    /// <summary>A consumer of a subsystem that is not in the tree yet, which needs queue sets as RDMA does.</summary>
    private sealed class RdmaLikeDriver(AuxiliaryBus bus) : AuxiliaryDriver<NicPart>(bus, "rdma_like", null, new AuxiliaryDeviceId("merlin_core.rdma"))
    {
        protected override ValueTask ProbeAsync(NicPart device, AuxiliaryDeviceId id, CancellationToken cancellationToken)
        {
            device.Resources.Add(device.Require<INicQueueSets>().Allocate("rdma-like", 16));
            return default;
        }
    }
}
