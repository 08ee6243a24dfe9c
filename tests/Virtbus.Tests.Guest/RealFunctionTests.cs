using Virtbus.Tests.Cli;
using Virtbus.Vm;

namespace Virtbus.Tests.Guest;

/// <summary>
/// Our program in a guest, where the functions are real ones: QEMU's, behind its IOMMU, given out by the vfio-pci of the guest's kernel. The provider <c>host</c> opens
/// them, and the same modules drive them as everywhere.
/// </summary>
public sealed class RealFunctionTests
{
    private const int Frames = 8;
    private const int Longest = 1514;
    private const int Shortest = 60;
    private const int DiskSize = 8 * DiskImage.MiB;
    private const int ChangedAt = DiskImage.MiB;
    private const int ChangedLength = DiskImage.MiB;

    [Fact]
    public async Task Functions_of_a_real_kernel_are_driven_through_its_vfio_pci()
    {
        Guest.RequireQemu();
        await using var fabric = new TestFabric();
        var image = await ProgramImage.MakeAsync(fabric);
        var folder = Path.GetDirectoryName(fabric.Runtime)!;
        using var split = new FrameEcho(Path.Combine(folder, "split"), Address(1));
        using var packed = new FrameEcho(Path.Combine(folder, "packed"), Address(2));
        var disks = new[] { "split", "packed" }.Select(rings => (Rings: rings, Image: new DiskImage(fabric, rings + ".img", DiskSize))).ToArray();
        // Without iommu_platform a device writes past the IOMMU, so that one is refused and never driven.
        var qemu = await QemuScript.WriteAsync(fabric, VmDeviceKind.VfioUserPci, "", $"""
            -drive if=none,id=program,file={image},format=raw,readonly=on -device virtio-blk-pci,drive=program,addr=10 \
            -device edu,dma_mask=0xffffffffffffffff,addr=11 -device pci-testdev,addr=12 \
            -netdev stream,id=split,server=off,addr.type=unix,addr.path={folder}/split \
            -device virtio-net-pci,netdev=split,mac=52:54:00:00:00:01,disable-legacy=on,iommu_platform=on,packed=off,addr=13 \
            -netdev stream,id=packed,server=off,addr.type=unix,addr.path={folder}/packed \
            -device virtio-net-pci,netdev=packed,mac=52:54:00:00:00:02,disable-legacy=on,iommu_platform=on,packed=on,addr=14 \
            -device virtio-net-pci,disable-legacy=on,iommu_platform=off,addr=15 \
            -drive if=none,id=disk1,file={disks[0].Image.Path},format=raw \
            -device virtio-blk-pci,drive=disk1,disable-legacy=on,iommu_platform=on,packed=off,addr=16 \
            -drive if=none,id=disk2,file={disks[1].Image.Path},format=raw \
            -device virtio-blk-pci,drive=disk2,disable-legacy=on,iommu_platform=on,packed=on,addr=17
            """);
        await fabric.UpAsync("serials: [{ name: serial0 }]");
        var guest = Guest.StartOn(fabric, qemu, Script, "serial0", "--viommu");

        foreach (var kind in (string[])["Msi", "INTx"])
        {
            await guest.SeeAsync($"edu {kind} id 010000ed", $"edu {kind} inverts to edcba987", $"edu {kind} factorial 120", $"edu {kind} factorial 3628800");
            await guest.SeeAsync($"edu {kind} copied 4096 bytes as they are", $"edu {kind} went on");
        }
        await guest.SeeAsync("testdev BAR 0 Memory32 of 4096 bytes, mmio-no-eventfd: 3 of 3", "testdev BAR 1 Io of 256 bytes, portio-no-eventfd: 3 of 3");
        // Each was opened twice.
        foreach (var rings in (string[])["split", "packed"])
            await guest.SeeAsync($"net {rings} {Frames} frames of {Shortest} to {Longest} bytes", $"net {rings} {Frames} frames of {Shortest} to {Longest} bytes");
        foreach (var (rings, disk) in disks)
        {
            await guest.SeeAsync($"blk {rings} {DiskSize} bytes {Checksum.Of(disk.Expected)}");
            foreach (ref var value in disk.Expected.AsSpan(ChangedAt, ChangedLength))
                value = (byte)~value;
            await guest.SeeAsync($"blk {rings} changed {Checksum.Of(disk.Expected)}");
            Assert.True(disk.IsAsExpected, $"The host's file of the disk with {rings} rings is not what the guest wrote.");
        }

        var refused = await guest.HearAsync();
        Assert.Matches("^net ENODEV: Device [^ ]+ is real and does not offer VIRTIO_F_ACCESS_PLATFORM, so it would pass the IOMMU by and write over memory of the host\\. [^.]*\\.$", refused);
        // The kernel has it back when it asks for it.
        await guest.SeeAsync("back True");
        // What the device did when its memory was gone: the IOMMU of the machine saw it, once for each kind of interrupt, and nothing else that went wrong.
        Assert.Equal(["faults 2 of 2"], await guest.EndAsync());
        foreach (var host in (FrameEcho[])[split, packed])
        {
            Assert.Empty(host.Wrong);
            Assert.Equal(Enumerable.Range(0, Frames).Select(static i => Shortest + (i * (Longest - Shortest) / (Frames - 1))), host.Lengths);
        }
    }

    private static byte[] Address(byte number) => [0x52, 0x54, 0, 0, 0, number];

    // Code that is compiled again because it is called often costs more here than it spares.
    private const string Script = """
        modprobe -a vfio_pci vfio_iommu_type1
        mount -t ext4 -o ro /dev/vda /mnt
        for folder in proc sys dev tmp run; do mount --bind /$folder /mnt/$folder; done
        for slot in 11 12 13 14 15 16 17; do
            function=0000:00:$slot.0
            [ ! -e /sys/bus/pci/devices/$function/driver ] || echo $function >/sys/bus/pci/devices/$function/driver/unbind
            echo vfio-pci >/sys/bus/pci/devices/$function/driver_override
            echo $function >/sys/bus/pci/drivers_probe
        done
        # What firmware and kernel left in the disks' queues is read by them when they are given over, and stopped, too.
        dmesg -c >/dev/null
        export DOTNET_ROOT=/dotnet DOTNET_TieredPGO=0 DOTNET_TC_CallCounting=0
        chroot /mnt /virtbus/real_driver /virtbus/modules edu 0000:00:11.0 testdev 0000:00:12.0 net 0000:00:13.0 net 0000:00:14.0 blk 0000:00:16.0 blk 0000:00:17.0 net 0000:00:15.0 back 0000:00:13.0
        dmesg >/tmp/log
        echo faults $(grep -c 'DMAR: .DMA Write.*00:11.0' /tmp/log) of $(grep -c 'DMAR: .DMA' /tmp/log)
        """;
}
