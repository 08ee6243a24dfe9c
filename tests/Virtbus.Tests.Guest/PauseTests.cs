using System.Security.Cryptography;
using Virtbus.Tests.Cli;
using Virtbus.Vm;

namespace Virtbus.Tests.Guest;

/// <summary>A guest that is paused in the middle of its work goes on as if nothing had been.</summary>
public sealed class PauseTests
{
    private const int Rounds = 4;
    private const int Size = 2 * DiskImage.MiB;
    private const int Step = 100 * 4096;

    // The first QEMU of the machine, Debian's, resets the device before it asks for the rings' indices. One with vfio-user is newer and does not.
    [Theory]
    [InlineData(VmDeviceKind.VhostUserBlk)]
    [InlineData(VmDeviceKind.VfioUserPci)]
    public async Task Disk_is_as_the_guest_wrote_it_after_pauses_in_the_middle_of_its_writes(VmDeviceKind kind)
    {
        await using var fabric = new TestFabric();
        var image = new DiskImage(fabric, "disk.img", 8 * DiskImage.MiB);
        await fabric.UpAsync($"""
            adapters:
              - {"{"} name: adapter0, model: merlin {"}"}
            disks:
              - {"{"} name: disk0, adapter: adapter0, file: {image.Path} {"}"}
            """);
        using var qemu = await MonitoredQemu.MakeAsync(fabric, kind);
        var bytes = RandomNumberGenerator.GetBytes(Size);
        var guest = Guest.StartOn(
            fabric,
            qemu.Program,
            $"""
            dd of=/data bs=1M count={Size / DiskImage.MiB} iflag=fullblock
            dmesg -c >/dev/null
            for round in $(seq {Rounds}); do
                echo $round
                read -r go
                dd if=/data of=/dev/vda bs=4k seek=$((round * 100)) conv=notrunc oflag=direct &
                dd if=/dev/vda of=/dev/null bs=4k count=1000 iflag=direct
                wait $!
                sync
            done
            dmesg >&2
            [ $(dmesg | wc -l) = 0 ]
            sha256sum </dev/vda
            """,
            "disk0");
        await guest.TellAsync(bytes);
        for (var round = 1; round <= Rounds; round++)
        {
            await guest.SeeAsync($"{round}");
            await guest.TellAsync("go");
            for (var pause = 0; pause < 5; pause++)
            {
                await qemu.DoAsync("stop");
                Assert.Equal("paused", (await qemu.DoAsync("query-status")).GetProperty("status").GetString());
                await qemu.DoAsync("cont");
            }
            bytes.CopyTo(image.Expected, round * Step);
        }
        Assert.Equal([$"{image.Sum}  -"], await guest.EndAsync());
        Assert.True(image.IsAsExpected);
    }

    [Fact]
    public async Task Write_through_outlives_rebind_guest_and_daemon()
    {
        await using var fabric = new TestFabric();
        var image = new DiskImage(fabric, "disk.img", DiskImage.MiB);
        var manifest = $"""
            adapters:
              - {"{"} name: adapter0, model: merlin {"}"}
            disks:
              - {"{"} name: disk0, adapter: adapter0, file: {image.Path} {"}"}
            """;
        await fabric.UpAsync(manifest);
        var kept = Path.Combine(fabric.Runtime, "disk0.write-through");
        var lines = await Guest.RunAsync(
            fabric,
            """
            cd /sys/block/vda
            cat cache_type
            echo write through >cache_type
            cat cache_type
            device=$(basename $(readlink device))
            cd /sys/bus/virtio/drivers/virtio_blk
            echo $device >unbind
            echo $device >bind
            cat /sys/block/vda/cache_type
            """,
            "disk0");
        Assert.Equal(["write back", "write through", "write through"], lines);
        Assert.True(File.Exists(kept));
        await fabric.OkAsync("down");
        await fabric.UpAsync(manifest);
        lines = await Guest.RunAsync(
            fabric,
            """
            cd /sys/block/vda
            cat cache_type
            echo write back >cache_type
            cat cache_type
            """,
            "disk0");
        Assert.Equal(["write through", "write back"], lines);
        Assert.False(File.Exists(kept));
    }
}
