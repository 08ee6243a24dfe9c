using System.Globalization;
using Virtbus.Tests.Cli;
using Virtbus.Vm;

namespace Virtbus.Tests.Guest;

/// <summary>The kernel of a guest has a disk by NBD over TCP, set up by Debian's nbd-client, and a file system on it.</summary>
public sealed class NbdClientTests
{
    private const int Size = 64 * DiskImage.MiB;
    private const int Files = 200;

    [Fact]
    public async Task File_system_that_a_guest_makes_by_NBD_is_whole_on_the_host()
    {
        Guest.RequireQemu();
        Assert.SkipWhen(!File.Exists("/usr/sbin/nbd-client") && !Environment.IsPrivilegedProcess, "nbd-client is not installed and may not be: apt-get install nbd-client.");
        await using var fabric = new TestFabric();
        var image = fabric.Write("disk.img", "");
        using (var file = File.OpenWrite(image))
            file.SetLength(Size);
        var tools = await ToolImage.MakeAsync(fabric, "nbd-client", "mke2fs", "e2fsck");
        await fabric.UpAsync($$"""
            adapters: [ { name: adapter0, model: merlin } ]
            disks: [ { name: tools, adapter: adapter0, file: {{tools}}, readonly: true } ]
            functions: [ { name: disk0, virtio: blk, file: {{image}}, format: raw, nbd: "127.0.0.1:0" } ]
            """);
        var place = new Uri(await fabric.OkAsync("attr", "get", "/class/block/disk0-nbd/socket"));
        // The guest's way to the host's loopback.
        var qemu = await QemuScript.WriteAsync(fabric, VmDeviceKind.VhostUserBlk, "", "-netdev user,id=net -device virtio-net-pci,netdev=net,romfile=");
        var guest = Guest.StartOn(fabric, qemu, Script(place.Port), "tools");
        await guest.SeeAsync($"{Size / 512}");
        await guest.SeeAsync("whole");
        var whole = await AllocatedAsync(fabric, image);
        Assert.True(whole > 16 * DiskImage.MiB, $"{whole}");
        await guest.TellAsync("go");
        await guest.SeeAsync("same");
        var lines = await guest.EndAsync();
        Assert.Equal("gone", lines[^1]);
        // The rest was given back by trims.
        Assert.InRange(await AllocatedAsync(fabric, image), 1, whole - (8 * DiskImage.MiB));

        await SayAsync(fabric, "/sbin/e2fsck", "-fn", image);
        Assert.Equal(lines[0], await SayAsync(fabric, "sh", "-c", $"/sbin/debugfs -R 'cat /kept' {image} 2>/dev/null | sha256sum"));
        Assert.Equal(lines[1], await SayAsync(fabric, "sh", "-c", $"for i in $(seq {Files}); do echo cat /small/$i; done >{image}.do; /sbin/debugfs -f {image}.do {image} 2>/dev/null | grep -v '^debugfs' | sha256sum"));
    }

    private static string Script(int port) => $$"""
        modprobe -a virtio_net nbd
        ip link set eth0 up
        ip addr add 10.0.2.15/24 dev eth0
        mount -t ext4 -o ro /dev/vda /mnt
        for folder in proc sys dev run tmp; do mount --bind /$folder /mnt/$folder; done
        mkdir /tmp/disk
        # By the path: busybox has commands of the same names.
        tool() { name=$1; shift; chroot /mnt /bin/$name "$@" >&2; }
        check() { tool e2fsck -fn /dev/nbd0; }
        tool nbd-client -N disk0 10.0.2.2 {{port}} /dev/nbd0
        cat /sys/block/nbd0/size
        tool mke2fs -q -t ext4 /dev/nbd0
        mount -t ext4 /dev/nbd0 /tmp/disk
        dd if=/dev/urandom of=/tmp/disk/kept bs=1M count=8 2>/dev/null
        dd if=/dev/urandom of=/tmp/disk/lost bs=1M count=12 2>/dev/null
        mkdir /tmp/disk/small
        for i in $(seq {{Files}}); do echo "file $i" >/tmp/disk/small/$i; done
        kept=$(sha256sum </tmp/disk/kept)
        small=$(for i in $(seq {{Files}}); do cat /tmp/disk/small/$i; done | sha256sum)
        umount /tmp/disk
        check
        echo whole
        read -r go
        # What the guest knows of it is gone with the connection.
        tool nbd-client -d /dev/nbd0
        tool nbd-client -N disk0 10.0.2.2 {{port}} /dev/nbd0
        mount -t ext4 /dev/nbd0 /tmp/disk
        [ "$kept" = "$(sha256sum </tmp/disk/kept)" ] && echo same
        rm /tmp/disk/lost
        sync
        fstrim /tmp/disk
        umount /tmp/disk
        check
        echo "$kept"
        echo "$small"
        tool nbd-client -d /dev/nbd0
        echo gone
        """;

    private static async Task<long> AllocatedAsync(TestFabric fabric, string path) => long.Parse(await SayAsync(fabric, "stat", "-c", "%b", path), CultureInfo.InvariantCulture) * 512;

    private static async Task<string> SayAsync(TestFabric fabric, string program, params string[] arguments)
    {
        var run = await TestFabric.EndAsync(fabric.StartProgram(program, arguments));
        Assert.True(run.Code == 0, $"{program}: {run}");
        return run.Output.Trim();
    }
}
