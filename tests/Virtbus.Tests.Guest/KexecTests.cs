using System.Security.Cryptography;
using Virtbus.Tests.Cli;
using Virtbus.Vm;

namespace Virtbus.Tests.Guest;

/// <summary>A guest's kernel jumps into another one, whose drivers find functions that nobody has reset.</summary>
public sealed class KexecTests
{
    private const string Mac = "02:00:00:00:00:01";
    private const string PeerMac = "02:00:00:00:00:02";
    private const int Block = 4096;
    private const int Room = 8 * DiskImage.MiB / Block;
    private static readonly GuestProgram _kexec = new("kexec_test");
    private static readonly GuestProgram _frames = new("net_test");

    [Fact]
    public async Task Newer_kernel_drives_functions_that_an_older_one_left_in_the_middle_of_their_work()
    {
        await using var fabric = new TestFabric();
        var (image, release, kernel, initrd) = await ImageAsync(fabric);
        await fabric.UpAsync($$"""
            functions:
              - { name: disk0, virtio: blk, file: {{image}}, format: raw, queues: 2, packed: true }
              - { name: line0, virtio: blk, memory: 8MiB, vectors: 0 }
              - { name: nic0, virtio: net, mac: "{{Mac}}", packed: true }
              - { name: peer0, virtio: net, mac: "{{PeerMac}}", vectors: 0 }
              - { name: rng0, virtio: rng }
              - { name: talk0, virtio: console }
            """);
        var console = new ConsoleClient(fabric, "talk0");
        var guest = Guest.Start(
            fabric,
            await _kexec.PreludeAsync() + await _frames.PreludeAsync() + VirtioTests.Find + GuestNetwork.FindTwo(Mac, PeerMac) + GuestNetwork.Frame + $$"""
            ip link set $nic up
            ip link set $peer up
            uname -r
            work
            disk=$(find_disk line0)
            work | tail -n 1
            dd if=/dev/hwrng bs=1k count=4 iflag=fullblock 2>/dev/null | wc -c
            frame $nic $peer {{PeerMac}} | cut -d ' ' -f 1
            frame $peer $nic {{Mac}} | cut -d ' ' -f 1
            stty -F /dev/hvc0 raw -echo
            exec 3<>/dev/hvc0
            echo ready
            read -r text <&3
            printf '%s\n' "$text" >&3
            case $(cat /proc/cmdline) in *again*) exit 0 ;; esac
            disk=$(find_disk disk0)
            dd if=$disk of=/tmp/kernel bs=4k skip={{Room}} count={{kernel}} 2>/dev/null
            dd if=$disk of=/tmp/initrd bs=4k skip={{Room + kernel}} count={{initrd}} 2>/dev/null
            # Whatever is in the air when the kernel jumps.
            for d in $disk $(find_disk line0); do
                while dd if=$d of=/dev/null bs=4k iflag=direct; do :; done 2>/dev/null &
            done
            while dd if=/dev/hwrng of=/dev/null bs=4k count=64; do :; done 2>/dev/null &
            while net_test say $nic 88b5 1514 {{PeerMac}}; do :; done &
            while net_test say $peer 88b5 1514 {{Mac}}; do :; done &
            kexec_test /tmp/kernel /tmp/initrd again
            """,
            "disk0",
            "line0",
            "nic0",
            "peer0",
            "rng0",
            "talk0");
        for (var boot = 0; boot < 2; boot++)
        {
            var sum = Convert.ToHexStringLower(SHA256.HashData(await File.ReadAllBytesAsync(image)));
            await _kexec.SendAsync(guest);
            await _frames.SendAsync(guest);
            Assert.Equal(boot == 1, await guest.HearAsync() == release);
            await guest.SeeAsync(sum, "same", "same", "4096", "1514", "1514", "ready");
            await console.SayAsync("hello");
            Assert.Equal("hello", await console.HearAsync());
        }

        await guest.EndAsync();
    }

    // What the guest jumps to is on its disk: behind room for what it writes the blocks of the kernel, and those of the initramfs.
    private static async Task<(string Path, string Release, int Kernel, int Initrd)> ImageAsync(TestFabric fabric)
    {
        Guest.RequireQemu();
        var line = await new VmRunner(new VmOptions { KernelSuite = "trixie" }).GetCommandLineAsync(TestContext.Current.CancellationToken);
        byte[][] parts = [await File.ReadAllBytesAsync(line.Kernel), await File.ReadAllBytesAsync(line.Initramfs)];
        var blocks = parts.Select(static part => (part.Length + Block - 1) / Block).ToArray();
        var bytes = new byte[(Room + blocks.Sum()) * Block];
        parts[0].CopyTo(bytes, Room * Block);
        parts[1].CopyTo(bytes, (Room + blocks[0]) * Block);
        var path = fabric.Write("disk.img", "");
        await File.WriteAllBytesAsync(path, bytes);
        return (path, Path.GetFileName(line.Kernel)["vmlinuz-".Length..], blocks[0], blocks[1]);
    }
}
