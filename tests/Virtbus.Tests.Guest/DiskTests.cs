using System.Security.Cryptography;
using Virtbus.Tests.Cli;

namespace Virtbus.Tests.Guest;

/// <summary>What a guest reads and writes is what the host has, also after a reset of the disk and after the daemon's death.</summary>
public sealed class DiskTests
{
    private const string Adapters = """
        adapters:
          - { name: adapter0, model: merlin }
          - { name: adapter1, model: harrier }
        disks:

        """;

    [Theory]
    [InlineData("disk0", "disk1")]
    [InlineData("disk1", "disk0")]
    public async Task Guest_sees_disks_of_both_makes_of_adapter_as_the_host_has_them(string first, string second)
    {
        await using var fabric = new TestFabric();
        var images = new Dictionary<string, DiskImage>
        {
            ["disk0"] = new(fabric, "disk0.img", 16 * DiskImage.MiB),
            ["disk1"] = new(fabric, "disk1.img", (3 * DiskImage.MiB) + 512),
        };
        await fabric.UpAsync(Adapters + $"""
              - {"{"} name: disk0, adapter: adapter0, file: {images["disk0"].Path}, serial: MERLIN-0 {"}"}
              - {"{"} name: disk1, adapter: adapter1, file: {images["disk1"].Path}, readonly: true, queues: 2 {"}"}
            """);
        var lines = await Guest.RunAsync(
            fabric,
            """
            for disk in vda vdb; do
                cd /sys/block/$disk
                echo $(cat serial) $(cat size) $(cat ro) $(sha256sum </dev/$disk)
            done
            [ ! -e /sys/block/vdc ]
            """,
            first,
            second);
        var expected = new Dictionary<string, string>
        {
            ["disk0"] = $"MERLIN-0 32768 0 {images["disk0"].Sum} -",
            ["disk1"] = $"disk1 6145 1 {images["disk1"].Sum} -",
        };
        Assert.Equal([expected[first], expected[second]], lines);
    }

    [Theory]
    [InlineData("file: IMAGE")]
    [InlineData("memory: 1MiB")]
    [InlineData("null: 1MiB")]
    public async Task Read_only_disk_refuses_the_guests_writes(string medium)
    {
        await using var fabric = new TestFabric();
        var image = new DiskImage(fabric, "disk.img", DiskImage.MiB);
        await fabric.UpAsync(Adapters + $"  - {{ name: disk0, adapter: adapter0, readonly: true, {medium.Replace("IMAGE", image.Path, StringComparison.Ordinal)} }}");
        Assert.Equal(["1", "refused"], await Guest.RunAsync(
            fabric,
            """
            cat /sys/block/vda/ro
            echo no | dd of=/dev/vda conv=notrunc,fsync || echo refused
            """,
            "disk0"));
        Assert.True(image.IsAsExpected);
    }

    [Fact]
    public async Task Synced_bytes_are_in_the_hosts_file_while_the_guest_runs_and_nothing_else_changed()
    {
        await using var fabric = new TestFabric();
        var image = new DiskImage(fabric, "disk.img", 8 * DiskImage.MiB);
        await fabric.UpAsync(Adapters + $"  - {{ name: disk0, adapter: adapter1, file: {image.Path} }}");
        // Sectors: one alone, the last, and a run that begins and ends within pages.
        (int At, int Count)[] writes = [(1, 1), (16383, 1), (4099, 6001)];
        var bytes = RandomNumberGenerator.GetBytes(writes.Sum(w => w.Count) * 512);
        var guest = Guest.Start(
            fabric,
            $"""
            dd of=/data bs=512 count={bytes.Length / 512} iflag=fullblock
            from=0
            while read -r at count; do
                dd if=/data of=/dev/vda bs=512 skip=$from seek=$at count=$count conv=notrunc,fsync
                from=$((from + count))
                echo synced
            done
            """,
            "disk0");
        await guest.TellAsync(bytes);
        var from = 0;
        foreach (var (at, count) in writes)
        {
            await guest.TellAsync($"{at} {count}");
            await guest.SeeAsync("synced");
            bytes.AsSpan(from * 512, count * 512).CopyTo(image.Expected.AsSpan(at * 512));
            from += count;
            Assert.True(image.IsAsExpected, $"The file is not as it should be after {count} sectors at {at}.");
        }
        await guest.EndAsync();
        Assert.True(image.IsAsExpected);
    }

    [Theory]
    [InlineData(true, 1)]
    [InlineData(false, 0)]
    public async Task Guest_takes_packed_rings_where_the_disk_offers_them_and_its_bytes_are_the_hosts(bool offers, int taken)
    {
        await using var fabric = new TestFabric();
        var image = new DiskImage(fabric, "disk.img", 32 * DiskImage.MiB);
        await fabric.UpAsync(Adapters + $"  - {{ name: disk0, adapter: adapter0, file: {image.Path}, packed: {(offers ? "true" : "false")} }}");
        var bytes = RandomNumberGenerator.GetBytes(8 * DiskImage.MiB);
        var guest = Guest.Start(
            fabric,
            """
            # Bit 34 of the features that the guest's own driver took.
            device=$(readlink -f /sys/block/vda/device)
            cut -c35 <$device/features
            dd of=/data bs=1M count=8 iflag=fullblock
            echo stored
            sha256sum </dev/vda
            # Several at once and of several sizes, each at its own place; and a driver that begins anew in between.
            for part in 0 1 2 3; do
                dd if=/data of=/dev/vda bs=64k count=32 skip=$((part * 32)) seek=$((part * 96)) conv=notrunc,fsync &
            done
            wait
            echo $(basename $device) >/sys/bus/virtio/drivers/virtio_blk/unbind
            echo $(basename $device) >/sys/bus/virtio/drivers/virtio_blk/bind
            dd if=/data of=/dev/vda bs=512 count=1001 skip=7 seek=40001 conv=notrunc,fsync
            cut -c35 <$(readlink -f /sys/block/vda/device)/features
            sha256sum </dev/vda
            """,
            "disk0");
        await guest.SeeAsync($"{taken}");
        await guest.TellAsync(bytes);
        await guest.SeeAsync("stored", $"{image.Sum}  -");
        for (var part = 0; part < 4; part++)
            bytes.AsSpan(part * 2 * DiskImage.MiB, 2 * DiskImage.MiB).CopyTo(image.Expected.AsSpan(part * 6 * DiskImage.MiB));
        bytes.AsSpan(7 * 512, 1001 * 512).CopyTo(image.Expected.AsSpan(40001 * 512));
        Assert.Equal([$"{taken}", $"{image.Sum}  -"], await guest.EndAsync());
        Assert.True(image.IsAsExpected);
    }

    [Fact]
    public async Task Disk_works_again_after_the_guest_has_reset_it()
    {
        await using var fabric = new TestFabric();
        var image = new DiskImage(fabric, "disk.img", 4 * DiskImage.MiB);
        await fabric.UpAsync(Adapters + $"  - {{ name: disk0, adapter: adapter0, file: {image.Path} }}");
        var lines = await Guest.RunAsync(
            fabric,
            """
            device=$(basename $(readlink /sys/block/vda/device))
            for time in 1 2 3; do
                sha256sum </dev/vda
                echo $device >/sys/bus/virtio/drivers/virtio_blk/unbind
                [ ! -e /sys/block/vda ]
                echo $device >/sys/bus/virtio/drivers/virtio_blk/bind
            done
            sha256sum </dev/vda
            printf reset | dd of=/dev/vda bs=1M seek=3 conv=notrunc,fsync
            """,
            "disk0");
        Assert.Equal(Enumerable.Repeat($"{image.Sum}  -", 4), lines);
        "reset"u8.CopyTo(image.Expected.AsSpan(3 * DiskImage.MiB));
        Assert.True(image.IsAsExpected);
    }

    [Fact]
    public async Task Synced_bytes_survive_a_kill_of_the_daemon_and_the_next_daemon_serves_them()
    {
        await using var fabric = new TestFabric();
        var image = new DiskImage(fabric, "disk.img", 8 * DiskImage.MiB);
        var manifest = Adapters + $"  - {{ name: disk0, adapter: adapter0, file: {image.Path} }}";
        var daemon = await fabric.StartUpAsync(manifest);
        var bytes = RandomNumberGenerator.GetBytes(2 * DiskImage.MiB);
        var guest = Guest.Start(
            fabric,
            """
            dd of=/data bs=1M count=2 iflag=fullblock
            dd if=/data of=/dev/vda bs=64k seek=3 conv=notrunc,fsync
            echo synced
            cat
            """,
            "disk0");
        await guest.TellAsync(bytes);
        await guest.SeeAsync("synced");
        daemon.Kill();
        using var deadline = new CancellationTokenSource(TestFabric.Deadline);
        await daemon.WaitForExitAsync(deadline.Token);
        bytes.CopyTo(image.Expected, 3 * 65536);
        Assert.True(image.IsAsExpected);

        // The guest of the dead daemon lives on while the next one takes over.
        await fabric.UpAsync(manifest);
        Assert.Equal([$"{image.Sum}  -"], await Guest.RunAsync(fabric, "sha256sum </dev/vda", "disk0"));
        await guest.KillAsync();
        Assert.True(image.IsAsExpected);
    }

    [Fact]
    public async Task File_system_of_one_guest_is_read_by_the_next()
    {
        await using var fabric = new TestFabric();
        var image = new DiskImage(fabric, "disk.img", 16 * DiskImage.MiB);
        await fabric.UpAsync(Adapters + $"  - {{ name: disk0, adapter: adapter1, file: {image.Path} }}");
        var bytes = RandomNumberGenerator.GetBytes(5_000_001);
        var first = Guest.Start(
            fabric,
            """
            mke2fs -q /dev/vda >&2
            mount -t ext4 /dev/vda /mnt
            mkdir -p /mnt/a/b
            cat >/mnt/a/b/bytes
            echo small >/mnt/small
            umount /mnt
            """,
            "disk0");
        await first.TellAsync(bytes);
        await first.EndAsync();
        var lines = await Guest.RunAsync(
            fabric,
            """
            mount -t ext4 -o ro /dev/vda /mnt
            sha256sum </mnt/a/b/bytes
            cat /mnt/small
            umount /mnt
            """,
            "disk0");
        Assert.Equal([$"{Convert.ToHexStringLower(SHA256.HashData(bytes))}  -", "small"], lines);
    }
}
