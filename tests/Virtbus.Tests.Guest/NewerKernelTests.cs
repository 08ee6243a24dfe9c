using System.Security.Cryptography;
using Virtbus.Block;
using Virtbus.Tests.Cli;
using Virtbus.Vm;

namespace Virtbus.Tests.Guest;

/// <summary>A guest whose kernel is newer than the others' drives virtio functions, and says when its network interfaces are to be told of frames.</summary>
public sealed class NewerKernelTests
{
    private const string Suite = "trixie";
    private const string Mac = "02:00:00:00:00:01";
    private const string PeerMac = "02:00:00:00:00:02";
    private const int Length = 1514;
    private static readonly GuestProgram _frames = new("net_test");
    private static readonly InstalledProgram _ethtool = new("ethtool");

    [Fact]
    public async Task Guest_drives_all_functions_and_is_told_of_frames_as_ethtool_says_of_all_queues_and_of_one()
    {
        Guest.RequireQemu();
        var line = await new VmRunner(new VmOptions { KernelSuite = Suite }).GetCommandLineAsync(TestContext.Current.CancellationToken);
        await using var fabric = new TestFabric();
        var image = fabric.Write("disk.img", "");
        var bytes = RandomNumberGenerator.GetBytes(8 * DiskImage.MiB);
        await File.WriteAllBytesAsync(image, bytes, TestContext.Current.CancellationToken);
        int unit;
        using (var backend = FileBackend.Open(image, raw: true))
            unit = backend.Info.BlockSize << backend.Info.PhysicalBlockExponent;
        await fabric.UpAsync($$"""
            functions:
              - { name: disk0, virtio: blk, file: {{image}}, format: raw, queues: 2 }
              - { name: nic0, virtio: net, mac: "{{Mac}}", queues: 2, speed: 25000 }
              - { name: peer0, virtio: net, mac: "{{PeerMac}}", queues: 2, packed: true }
              - { name: rng0, virtio: rng }
              - { name: talk0, virtio: console }
            """);
        var console = new ConsoleClient(fabric, "talk0");
        var guest = Guest.Start(
            fabric,
            await _frames.PreludeAsync() + await _ethtool.PreludeAsync() + VirtioTests.Find + GuestNetwork.FindTwo(Mac, PeerMac) + GuestNetwork.Frame + Script,
            "disk0",
            "nic0",
            "peer0",
            "rng0",
            "talk0",
            "--cpus=2",
            $"--kernel={Suite}");
        await _frames.SendAsync(guest);
        await _ethtool.SendAsync(guest);
        await guest.SeeAsync(Path.GetFileName(line.Kernel)["vmlinuz-".Length..], Convert.ToHexStringLower(SHA256.HashData(bytes)), "same", "4096");
        // The unit of the host's file system, below which its disk reads before it writes.
        await guest.SeeAsync($"unit {unit}");
        // Its drivers were refused nothing, and the disk has its cache although firmware that asked for none had it before.
        await guest.SeeAsync("refused 0", "write back");
        await guest.SeeAsync("ready");
        await console.SayAsync("hello");
        Assert.Equal("hello", await console.HearAsync());

        var frame = $"{Length} {Enumerable.Range(14, Length - 14).Sum(static i => (byte)(i * 7))}";
        // Both features are offered and taken: bits 53 and 52.
        await guest.SeeAsync("11", "11");
        // As it begins: each frame is told of.
        await guest.SeeAsync("told 4 of 4", "sent 4, told 4");
        // What is set of all queues is read back of all and of each, and one interrupt tells of four frames that come or go.
        await guest.SeeAsync("all 60000000 4 70000000 4", "queue0 60000000 4 70000000 4", "queue1 60000000 4 70000000 4");
        await guest.SeeAsync("held 0", "told 1 of 4", "told 2 of 8", "sent 4, told 1");
        // One queue then has its own, and the other one another.
        await guest.SeeAsync("queue0 60000000 2 70000000 2", "queue1 61000000 8 71000000 6", "held 0", "told 1 of 2", "told 4 of 8", "sent 4, told 2");
        // The other interface, where the time is what ends it: a frame alone comes, too.
        await guest.SeeAsync("all 30000 1000 0 1", frame);
        // All queues again, one by one as at first, and both ways.
        await guest.SeeAsync("queue0 0 1 0 1", "queue1 0 1 0 1", "told 4 of 4", frame, frame);
        // The cable is pulled out and put in again.
        await guest.SeeAsync("carrier 1, speed 25000");
        var shown = await fabric.OkAsync("function", "show", "nic0");
        var carrier = $"/bus/pci/devices/{shown[(shown.IndexOf(" as ", StringComparison.Ordinal) + 4)..].Split('\n')[0]}/carrier";
        await fabric.OkAsync("attr", "set", carrier, "0");
        await guest.SeeAsync("carrier 0");
        await fabric.OkAsync("attr", "set", carrier, "1");
        await guest.SeeAsync("carrier 1");
        await guest.EndAsync();
    }

    private const string Script = $$"""
        for n in $nic $peer; do
            # No frames but those of the test.
            [ ! -e /proc/sys/net/ipv6/conf/$n ] || echo 1 >/proc/sys/net/ipv6/conf/$n/disable_ipv6
            ip link set $n up
        done
        uname -r
        work
        dd if=/dev/hwrng bs=1k count=4 iflag=fullblock 2>/dev/null | wc -c
        echo unit $(cat /sys/block/${disk#/dev/}/queue/physical_block_size)
        stty -F /dev/hvc0 raw -echo
        exec 3<>/dev/hvc0
        echo refused $(dmesg | grep -ci 'RSS\|issue with committing')
        cat /sys/block/${disk#/dev/}/cache_type
        echo ready
        read -r text <&3
        printf '%s\n' "$text" >&3
        say() { net_test say $1 88b5 1514 $2; }
        virtio=$(basename $(readlink -f /sys/class/net/$nic/device))
        interrupts() { awk -v q="$virtio-$1.0" '$NF == q { for (i = 2; i < NF; i++) if ($i ~ /^[0-9]+$/) n += $i } END { print n + 0 }' /proc/interrupts; }
        received() { cat /sys/class/net/$nic/statistics/rx_packets; }
        begin() { frames=$(received); told=$(interrupts input); }
        # Sends frames to it, of which the guest is told by so many together: it has taken those when the next ones come, however slow it is.
        send() {
            for i in $(seq $1); do
                say $peer {{Mac}}
                [ $((i % $2)) != 0 ] || until [ $(received) = $((frames + i)) ]; do :; done
            done
        }
        told() {
            until [ $(received) -ge $((frames + $1)) ]; do :; done
            echo told $(($(interrupts input) - told)) of $(($(received) - frames))
        }
        # Four frames go out by its first queue, and so many interrupts tell of them.
        sent() {
            frames=$(cat /sys/class/net/$peer/statistics/rx_packets) told=$(interrupts output)
            for i in 1 2 3 4; do
                taskset 1 net_test say $nic 88b5 1514 {{PeerMac}}
                until [ $(($(interrupts output) - told)) -ge $(($1 * i / 4)) ]; do :; done
            done
            until [ $(cat /sys/class/net/$peer/statistics/rx_packets) = $((frames + 4)) ]; do :; done
            echo sent 4, told $(($(interrupts output) - told))
        }
        # Receive: time, frames; transmit: time, frames.
        show() { awk '/^(rx|tx)-(usecs|frames):/ { printf " %s", $2 } END { print "" }'; }
        all() { echo "all$(ethtool -c $1 | show)"; }
        queue() { echo "queue$2$(ethtool --per-queue $1 queue_mask $((1 << $2)) --show-coalesce | show)"; }
        for n in $nic $peer; do cut -c 53,54 </sys/class/net/$n/device/features; done
        begin; send 4 1; told 4
        sent 4
        ethtool -C $nic adaptive-rx off rx-usecs 60000000 rx-frames 4 tx-usecs 70000000 tx-frames 4
        all $nic; queue $nic 0; queue $nic 1
        begin; send 3 4; echo held $(($(received) - frames))
        send 1 4; told 4
        begin; send 8 4; told 8
        sent 1
        ethtool --per-queue $nic queue_mask 0x1 --coalesce rx-usecs 60000000 rx-frames 2 tx-usecs 70000000 tx-frames 2
        ethtool --per-queue $nic queue_mask 0x2 --coalesce rx-usecs 61000000 rx-frames 8 tx-usecs 71000000 tx-frames 6
        queue $nic 0; queue $nic 1
        begin; send 1 2; echo held $(($(received) - frames))
        send 1 2; told 2
        begin; send 8 2; told 8
        sent 2
        ethtool -C $peer adaptive-rx off rx-usecs 30000 rx-frames 1000
        all $peer
        frame $nic $peer {{PeerMac}}
        ethtool -C $nic rx-usecs 0 rx-frames 1 tx-usecs 0 tx-frames 1
        queue $nic 0; queue $nic 1
        begin; send 4 1; told 4
        frame $nic $peer {{PeerMac}}
        frame $peer $nic {{Mac}}
        carrier() { until [ $(cat /sys/class/net/$nic/carrier) = $1 ]; do :; done; echo carrier $1; }
        echo "carrier $(cat /sys/class/net/$nic/carrier), speed $(cat /sys/class/net/$nic/speed)"
        carrier 0
        carrier 1
        """;
}
