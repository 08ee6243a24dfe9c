using System.Security.Cryptography;
using System.Text.Json;
using Virtbus.Tests.Cli;
using Virtbus.Vm;

namespace Virtbus.Tests.Guest;

/// <summary>Virtio functions come into a running guest and go from it while it works on them.</summary>
public sealed class HotplugTests
{
    private const string Mac = "02:00:00:00:00:01";
    private const string PeerMac = "02:00:00:00:00:02";
    private const string NextMac = "02:00:00:00:00:03";

    // QEMU 11.1.3 aborts when a function with MSI-X is taken out, so those that go have none.
    private const string Disk = "{ name: disk0, virtio: blk, file: IMAGE, format: raw, vectors: 0 }";
    private static readonly string[] Names = ["disk0", "nic0", "rng0"];
    private static readonly GuestProgram _blocks = new("blk_test");
    private static readonly GuestProgram _frames = new("net_test");

    [Fact]
    public async Task Functions_are_taken_out_and_put_back_while_the_guest_works_on_them()
    {
        await using var fabric = new TestFabric();
        var path = fabric.Write("disk.img", "");
        await File.WriteAllBytesAsync(path, new byte[8 * DiskImage.MiB], TestContext.Current.CancellationToken);
        await fabric.UpAsync($$"""
            functions:
              - {{Disk.Replace("IMAGE", path, StringComparison.Ordinal)}}
              - { name: nic0, virtio: net, mac: "{{Mac}}", vectors: 0 }
              - { name: rng0, virtio: rng, vectors: 0 }
              - { name: peer0, virtio: net, mac: "{{PeerMac}}" }
            """);
        using var qemu = await MonitoredQemu.MakeAsync(fabric, VmDeviceKind.VfioUserPci, slots: Names.Length + 1);
        var guest = Guest.StartOn(fabric, qemu.Program, await ScriptAsync(), "peer0");
        await _blocks.SendAsync(guest);
        await _frames.SendAsync(guest);
        await guest.SeeAsync("ready");
        for (var round = 0; round < 2; round++)
        {
            await PlugAsync(fabric, qemu);
            await guest.TellAsync("arrive; use; load");
            await guest.SeeAsync("same", "4096", "1514", "1514", "loaded");
            foreach (var name in Names)
                await qemu.UnplugAsync(name);
            await guest.TellAsync("left");
            await guest.SeeAsync("left", "alone");
            Assert.Equal("running", (await qemu.DoAsync("query-status")).GetProperty("status").GetString());
        }

        await PlugAsync(fabric, qemu);
        await guest.TellAsync("arrive; use; sha256sum <$disk");
        await guest.SeeAsync("same", "4096", "1514", "1514");
        await guest.SeeAsync($"{Convert.ToHexStringLower(SHA256.HashData(await File.ReadAllBytesAsync(path)))}  -");

        // Pulled without a word. The drivers of Linux wait for what does not answer any more, each for itself: no other function, no new one and nobody
        // else in the guest notices.
        await guest.TellAsync("load");
        await guest.SeeAsync("loaded");
        foreach (var name in Names)
            await fabric.OkAsync("function", "unplug", name, "--surprise");
        Assert.Equal("running", (await qemu.DoAsync("query-status")).GetProperty("status").GetString());
        await fabric.OkAsync("function", "plug", "nic1", "--virtio", "net", $"mac={NextMac}", "vectors=0");
        await qemu.PlugAsync("nic1", Names.Length + 1, await SocketAsync(fabric, "nic1"));
        await guest.TellAsync($"touch /tmp/left; until dev=$(find_nic {NextMac}) && [ \"$dev\" ]; do sleep 0.1; done; ip link set $dev up; frame $dev $peer {PeerMac} | cut -d ' ' -f 1; frame $peer $dev {NextMac} | cut -d ' ' -f 1");
        await guest.SeeAsync("1514", "1514");

        // One with MSI-X, pulled from this side in the middle of frames that come and go: QEMU and the guest live on, and so does the fabric.
        await guest.TellAsync($"while net_test say $dev 88b5 1514 {PeerMac}; do :; done 2>/dev/null & while net_test say $peer 88b5 1514 {NextMac}; do :; done 2>/dev/null & echo busy");
        await guest.SeeAsync("busy");
        await fabric.OkAsync("function", "unplug", "peer0", "--surprise");
        Assert.Equal("running", (await qemu.DoAsync("query-status")).GetProperty("status").GetString());
        await guest.TellAsync("dd if=/dev/zero bs=1k count=4 2>/dev/null | wc -c");
        await guest.SeeAsync("4096");
        Assert.Contains("bound to vfio-pci", await fabric.OkAsync("function", "plug", "peer1", "--virtio", "net"), StringComparison.Ordinal);
        await guest.KillAsync();
    }

    private static async Task PlugAsync(TestFabric fabric, MonitoredQemu qemu)
    {
        for (var i = 0; i < Names.Length; i++)
            await qemu.PlugAsync(Names[i], i + 1, await SocketAsync(fabric, Names[i]));
    }

    private static async Task<string> SocketAsync(TestFabric fabric, string name)
    {
        using var status = JsonDocument.Parse(await fabric.OkAsync("status", "--json"));
        return status.RootElement.GetProperty("sockets").EnumerateArray().Single(s => s.GetProperty("device").GetString() == name).GetProperty("path").GetString()!;
    }

    // Does what it is told, line by line, until it is told to end.
    private static async Task<string> ScriptAsync() => await _blocks.PreludeAsync() + await _frames.PreludeAsync() + $$"""
        modprobe -a virtio_blk virtio_rng virtio_net
        {{VirtioTests.FindDisk}}
        {{GuestNetwork.Frame}}
        find_nic() { for n in /sys/class/net/*; do [ "$(cat $n/address)" != "$1" ] || echo ${n##*/}; done; }
        peer=$(find_nic {{PeerMac}})
        ip link set $peer up
        arrive() {
            until disk=$(find_disk disk0) dev=$(find_nic {{Mac}}) && [ -b "$disk" ] && [ "$dev" ] && [ "$(cat /sys/class/misc/hw_random/rng_available)" ]; do sleep 0.1; done
            ip link set $dev up
        }
        use() {
            dd if=/dev/urandom of=/tmp/data bs=64k count=16 2>/dev/null
            dd if=/tmp/data of=$disk bs=64k seek=16 oflag=direct conv=notrunc 2>/dev/null
            dd if=$disk bs=64k skip=16 count=16 iflag=direct 2>/dev/null | cmp - /tmp/data && echo same
            dd if=/dev/hwrng bs=1k count=4 iflag=fullblock 2>/dev/null | wc -c
            frame $dev $peer {{PeerMac}} | cut -d ' ' -f 1
            frame $peer $dev {{Mac}} | cut -d ' ' -f 1
        }
        load() {
            blkdiscard $disk
            blk_test verify $disk 1000000000 16 1 2>/tmp/load &
            dd if=/dev/hwrng of=/dev/null bs=1k 2>/dev/null &
            while net_test say $dev 88b5 1514 {{PeerMac}}; do :; done 2>/dev/null &
            while [ ! -e /tmp/left ] && net_test say $peer 88b5 1514 {{Mac}}; do :; done &
            # All of them are at work.
            for i in 1 2 3; do cat /sys/block/${disk#/dev/}/stat /sys/class/net/$dev/statistics/tx_packets >/tmp/before; until ! cat /sys/block/${disk#/dev/}/stat /sys/class/net/$dev/statistics/tx_packets | cmp -s - /tmp/before; do :; done; done
            echo loaded
        }
        left() {
            touch /tmp/left
            wait
            rm /tmp/left
            [ -s /tmp/load ] && ! grep 'not as write' /tmp/load >&2 && echo left
            [ -z "$(find_disk disk0)$(find_nic {{Mac}})$(cat /sys/class/misc/hw_random/rng_available)" ] && echo alone
        }
        echo ready
        while read -r line; do
            [ "$line" != end ] || exit 0
            eval "$line"
        done

        """;
}
