using System.Security.Cryptography;
using System.Text;
using Virtbus.Tests.Cli;
using Virtbus.Vm;

namespace Virtbus.Tests.Guest;

/// <summary>A guest drives virtio functions over vfio-user with its own drivers: virtio_pci, and those of block, entropy and console.</summary>
public sealed class VirtioTests
{
    private const int DiskBytes = 8 << 20;

    /// <summary>A function for scripts that gives the disk with a serial number: QEMU has virtio devices of its own, so the first need not be ours.</summary>
    internal const string FindDisk = """
        find_disk() { for d in /sys/block/vd*; do [ "$(cat $d/serial 2>/dev/null)" != "$1" ] || echo /dev/${d##*/}; done; }

        """;

    /// <summary>The begin of a script: finds the disk that is disk0 ($disk, $fn), and has a function that works on it.</summary>
    internal const string Find = FindDisk + """
        modprobe -a virtio_blk virtio_rng virtio_console
        disk=$(find_disk disk0)
        fn=$(basename $(readlink -f /sys/block/${disk#/dev/}/device/..))
        [ "$fn" ]
        work() {
            sha256sum <$disk | cut -d ' ' -f 1
            dd if=/dev/urandom of=/tmp/data bs=64k count=64 2>/dev/null
            dd if=/tmp/data of=$disk bs=64k seek=16 oflag=direct 2>/dev/null
            sync
            echo 3 >/proc/sys/vm/drop_caches
            dd if=$disk bs=64k skip=16 count=64 iflag=direct 2>/dev/null | cmp - /tmp/data && echo same
        }

        """;

    [Fact]
    public async Task Guest_drives_a_disk_by_its_own_driver_with_a_vector_for_each_queue_and_after_a_reboot()
    {
        await using var fabric = new TestFabric();
        var (image, digest) = Image(fabric);
        await fabric.UpAsync($"functions:\n  - {{ name: disk0, virtio: blk, file: {image}, format: raw, queues: 2 }}\n");
        var guest = Guest.Start(
            fabric,
            Find + """
            lspci -nnk -s $fn | head -n 1 | cut -d ' ' -f 2-
            lspci -nnk -s $fn | grep 'driver in use'
            lspci -vv -s $fn | grep -o 'MSI-X: Enable. Count=[0-9]*'
            grep -q "PCI-MSI.*virtio.*-req" /proc/interrupts && echo vectors
            work
            echo end
            read what || exit 0
            reboot -f
            """,
            "disk0",
            "--reboot");
        for (var boot = 0; boot < 2; boot++)
        {
            await guest.SeeAsync("SCSI storage controller [0100]: Red Hat, Inc. Virtio 1.0 block device [1af4:1042] (rev 01)", "\tKernel driver in use: virtio-pci", "MSI-X: Enable+ Count=3", "vectors");
            if (boot == 0)
                await guest.SeeAsync(digest);
            else
                await guest.SeeAsync(Convert.ToHexStringLower(SHA256.HashData(await File.ReadAllBytesAsync(image))));
            await guest.SeeAsync("same", "end");
            if (boot == 0)
                await guest.TellAsync("reboot");
        }

        await guest.EndAsync();
    }

    [Fact]
    public async Task Guest_takes_packed_rings_where_the_function_offers_them()
    {
        await using var fabric = new TestFabric();
        var (image, digest) = Image(fabric);
        await fabric.UpAsync($"functions:\n  - {{ name: disk0, virtio: blk, file: {image}, format: raw, queues: 2, packed: true }}\n");
        Assert.Equal(
            ["1", digest, "same", "same"],
            await Guest.RunAsync(
                fabric,
                Find + """
                # RING_PACKED is bit 34.
                cut -c 35 </sys/block/${disk#/dev/}/device/features
                work
                work | tail -n 1
                """,
                "disk0"));
    }

    [Fact]
    public async Task Guest_does_by_the_line_alone_what_it_does_by_messages()
    {
        await using var fabric = new TestFabric();
        var (image, digest) = Image(fabric);
        await fabric.UpAsync($"functions:\n  - {{ name: disk0, virtio: blk, file: {image}, format: raw, vectors: 0 }}\n");
        Assert.Equal(
            ["0", "line", digest, "same"],
            await Guest.RunAsync(
                fabric,
                Find + """
                lspci -vv -s $fn | grep -c MSI-X || true
                grep -q 'IO-APIC.*virtio' /proc/interrupts && echo line
                work
                """,
                "disk0"));
    }

    [Fact]
    public async Task Guest_that_knows_the_old_registers_only_drives_transitional_functions()
    {
        await using var fabric = new TestFabric();
        var (image, digest) = Image(fabric);
        await fabric.UpAsync($$"""
            functions:
              - { name: disk0, virtio: blk, file: {{image}}, format: raw, transitional: true }
              - { name: rng0, virtio: rng, transitional: true, vectors: 0 }
            """);
        var guest = Guest.Start(
            fabric,
            Find + """
            lspci -nn -d 1af4:1001 | cut -d ' ' -f 2-
            # VERSION_1 is bit 32.
            cut -c 33 </sys/block/${disk#/dev/}/device/features
            work
            for d in /sys/bus/virtio/devices/*; do [ $(cat $d/device) = 0x0004 ] && cut -c 33 <$d/features; done
            dd if=/dev/hwrng bs=1k count=4 iflag=fullblock 2>/dev/null | wc -c
            """,
            "disk0",
            "rng0",
            "--legacy");
        Assert.Equal(["SCSI storage controller [0100]: Red Hat, Inc. Virtio block device [1af4:1001]", "0", digest, "same", "0", "4096"], await guest.EndAsync());
    }

    [Fact]
    public async Task Guest_takes_entropy_and_talks_over_its_console()
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync("functions:\n  - { name: rng0, virtio: rng }\n  - { name: talk0, virtio: console }\n");
        var console = new ConsoleClient(fabric, "talk0");
        var guest = Guest.Start(
            fabric,
            """
            modprobe -a virtio_rng virtio_console
            cat /sys/class/misc/hw_random/rng_available
            dd if=/dev/hwrng bs=1k count=16 iflag=fullblock 2>/dev/null >/tmp/one
            dd if=/dev/hwrng bs=1k count=16 iflag=fullblock 2>/dev/null >/tmp/two
            cmp -s /tmp/one /tmp/two || echo differ
            gzip -c /tmp/one | wc -c
            stty -F /dev/hvc0 raw -echo
            exec 3<>/dev/hvc0
            echo ready
            read -r text <&3
            printf '%s\n' "$text" | sha256sum
            printf '%s\n' "$text" >&3
            read what
            """,
            "rng0",
            "talk0");
        await guest.SeeAsync("virtio_rng.0 ", "differ");
        // What is random does not get smaller.
        Assert.True(int.Parse(await guest.HearAsync(), System.Globalization.CultureInfo.InvariantCulture) > 16384);
        await guest.SeeAsync("ready");
        var text = Convert.ToHexStringLower(RandomNumberGenerator.GetBytes(1500));
        await console.SayAsync(text);
        await guest.SeeAsync($"{Convert.ToHexStringLower(SHA256.HashData(Encoding.ASCII.GetBytes(text + "\n")))}  -");
        Assert.Equal(text, await console.HearAsync());
        await guest.TellAsync("end");
        await guest.EndAsync();
    }

    [Fact]
    public async Task Disk_is_bound_anew_and_its_guest_is_paused_in_the_middle_of_its_writes()
    {
        await using var fabric = new TestFabric();
        var (image, digest) = Image(fabric);
        await fabric.UpAsync($"functions:\n  - {{ name: disk0, virtio: blk, file: {image}, format: raw }}\n");
        using var qemu = await MonitoredQemu.MakeAsync(fabric, VmDeviceKind.VfioUserPci);
        var guest = Guest.StartOn(
            fabric,
            qemu.Program,
            Find + """
            work
            for bus in virtio pci; do
                case $bus in
                virtio) device=$(basename $(readlink -f /sys/block/${disk#/dev/}/device)); driver=virtio_blk ;;
                pci) device=$fn; driver=virtio-pci ;;
                esac
                echo $device >/sys/bus/$bus/drivers/$driver/unbind
                [ "$(find_disk disk0)" ] || echo gone
                echo $device >/sys/bus/$bus/drivers/$driver/bind
                disk=$(find_disk disk0)
                work
            done
            dmesg -c >/dev/null
            for round in 1 2 3; do
                echo $round
                read -r go
                work
            done
            dmesg | grep -v 'drop_caches' >&2 || true
            """,
            "disk0");
        await guest.SeeAsync(digest, "same");
        for (var i = 0; i < 2; i++)
        {
            await guest.SeeAsync("gone");
            await guest.HearAsync();
            await guest.SeeAsync("same");
        }

        for (var round = 1; round <= 3; round++)
        {
            await guest.SeeAsync($"{round}");
            await guest.TellAsync("go");
            for (var pause = 0; pause < 5; pause++)
            {
                await qemu.DoAsync("stop");
                Assert.Equal("paused", (await qemu.DoAsync("query-status")).GetProperty("status").GetString());
                await qemu.DoAsync("cont");
            }

            await guest.HearAsync();
            await guest.SeeAsync("same");
        }

        await guest.EndAsync();
    }

    [Fact]
    public async Task Disk_is_reached_behind_an_IOMMU_whose_map_changes_with_every_request()
    {
        await using var fabric = new TestFabric();
        var (image, digest) = Image(fabric);
        await fabric.UpAsync($"functions:\n  - {{ name: disk0, virtio: blk, file: {image}, format: raw }}\n");
        // ACCESS_PLATFORM is bit 33.
        Assert.Equal(["1", digest, "same"], await Guest.RunAsync(fabric, Find + "cut -c 34 </sys/block/${disk#/dev/}/device/features\nwork\n", "disk0", "--viommu"));
    }

    [Fact]
    public async Task Guest_that_shares_no_memory_drives_its_disk_entropy_and_console()
    {
        await using var fabric = new TestFabric();
        var (image, digest) = Image(fabric);
        await fabric.UpAsync($$"""
            functions:
              - { name: disk0, virtio: blk, file: {{image}}, format: raw, queues: 2 }
              - { name: rng0, virtio: rng }
              - { name: talk0, virtio: console }
            """);
        var console = new ConsoleClient(fabric, "talk0");
        var guest = Guest.Start(
            fabric,
            Find + """
            work
            device=$(basename $(readlink -f /sys/block/${disk#/dev/}/device))
            for round in 1 2 3; do
                echo $device >/sys/bus/virtio/drivers/virtio_blk/unbind
                echo $device >/sys/bus/virtio/drivers/virtio_blk/bind
                echo $fn >/sys/bus/pci/drivers/virtio-pci/unbind
                echo $fn >/sys/bus/pci/drivers/virtio-pci/bind
                disk=$(find_disk disk0)
                device=$(basename $(readlink -f /sys/block/${disk#/dev/}/device))
                work | tail -n 1
            done
            dd if=/dev/hwrng bs=1k count=16 iflag=fullblock 2>/dev/null | gzip -c | wc -c
            stty -F /dev/hvc0 raw -echo
            exec 3<>/dev/hvc0
            echo ready
            read -r text <&3
            printf '%s\n' "$text" >&3
            echo end
            read what || exit 0
            reboot -f
            """,
            "disk0",
            "rng0",
            "talk0",
            "--reboot",
            "--no-shared-memory");
        for (var boot = 0; boot < 2; boot++)
        {
            await guest.SeeAsync(boot == 0 ? digest : Convert.ToHexStringLower(SHA256.HashData(await File.ReadAllBytesAsync(image))));
            await guest.SeeAsync("same", "same", "same", "same");
            Assert.True(int.Parse(await guest.HearAsync(), System.Globalization.CultureInfo.InvariantCulture) > 16384);
            await guest.SeeAsync("ready");
            await console.SayAsync("hello");
            Assert.Equal("hello", await console.HearAsync());
            await guest.SeeAsync("end");
            if (boot == 0)
                await guest.TellAsync("reboot");
        }

        await guest.EndAsync();
    }

    private static (string Path, string Digest) Image(TestFabric fabric)
    {
        var bytes = new byte[DiskBytes];
        new Random(42).NextBytes(bytes);
        var path = fabric.Write("disk.img", "");
        File.WriteAllBytes(path, bytes);
        return (path, Convert.ToHexStringLower(SHA256.HashData(bytes)));
    }
}
