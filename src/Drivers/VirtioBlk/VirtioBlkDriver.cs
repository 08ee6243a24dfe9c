using Virtbus.Buses.Virtio;
using Virtbus.Core;
using Virtbus.Platform;
using Virtbus.Subsystems.Block;
using Virtbus.Virtio;
using static Virtbus.Models.VirtioBlk.VirtioBlkConfig;

namespace Virtbus.Drivers.VirtioBlk;

/// <summary>Registers a disk of the block subsystem, vda and on, for each virtio block device (VIRTIO 1.3, 5.2).</summary>
[VirtioDeviceTable(VirtioDeviceId.VIRTIO_ID_BLOCK)]
internal sealed class VirtioBlkDriver(VirtioBus bus, string module) : VirtioDriver(bus, module)
{
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(5);

    public override VirtioFeatures Features { get; } = VirtioFeatures.Of(
        VIRTIO_BLK_F_SIZE_MAX, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_TOPOLOGY, VIRTIO_BLK_F_CONFIG_WCE,
        VIRTIO_BLK_F_MQ, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_WRITE_ZEROES, VirtioFeatures.VIRTIO_F_INDIRECT_DESC);

    protected override async ValueTask ProbeAsync(VirtioBusDevice device, CancellationToken cancellationToken)
    {
        var disk = device.Resources.Add(new BlkDisk(device));
        disk.Start();
        await disk.ReadSerialAsync(Patience, cancellationToken);
        var subsystem = BlockSubsystem.Of(device.Fabric!);
        var options = new BlockDeviceOptions { Requests = disk.Requests };
        while (true)
        {
            try
            {
                device.SetDriverData(new Registration(disk, await subsystem.RegisterAsync(device, subsystem.NextName("vd"), disk, options)));
                return;
            }
            catch (VirtbusException e) when (e.Errno == Errno.EEXIST)
            {
                // Another device's probe was faster: the next name.
            }
        }
    }

    protected override async ValueTask RemoveAsync(VirtioBusDevice device)
    {
        if (device.GetDriverData<Registration>() is not { } there)
            return;
        // One that is asleep, or gone, ends nothing of itself.
        if (device.IsGone)
            there.Disk.Stop(Errno.ENODEV);
        await BlockSubsystem.Of(device.Fabric!).UnregisterAsync(there.Device);
        there.Disk.Stop(Errno.ENODEV);
    }

    protected override ValueTask FreezeAsync(VirtioBusDevice device)
    {
        device.GetDriverData<Registration>()!.Disk.Sleep();
        return default;
    }

    protected override ValueTask RestoreAsync(VirtioBusDevice device)
    {
        var disk = device.GetDriverData<Registration>()!.Disk;
        disk.Resume();
        disk.Start();
        return default;
    }

    protected override void OnConfigChanged(VirtioBusDevice device) => device.GetDriverData<Registration>()?.Disk.Refresh();

    private sealed record Registration(BlkDisk Disk, BlockDevice Device);
}
