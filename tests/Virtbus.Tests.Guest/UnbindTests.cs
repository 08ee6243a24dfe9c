using Virtbus.Tests.Cli;

namespace Virtbus.Tests.Guest;

/// <summary>Parts of an adapter are unbound and bound while a guest has its disk open.</summary>
public sealed class UnbindTests
{
    private const int Rounds = 5;

    [Fact]
    public async Task Disk_is_undisturbed_while_the_net_part_of_its_adapter_goes_and_comes()
    {
        await using var fabric = new TestFabric();
        var image = new DiskImage(fabric, "disk.img", 8 * DiskImage.MiB);
        await fabric.UpAsync(Manifest(image));
        // A line at the begin of each round and one at its end, so that unbind and bind fall into the reading.
        var guest = Guest.Start(
            fabric,
            """
            for round in 1 2 3 4 5; do
                echo 3 >/proc/sys/vm/drop_caches
                echo begin
                sha256sum </dev/vda
                dd if=/dev/vda of=/dev/vda bs=64k count=32 conv=notrunc,fsync
            done
            """,
            "disk0");
        for (var round = 0; round < Rounds; round++)
        {
            await guest.SeeAsync("begin");
            await fabric.OkAsync("driver", "unbind", "merlin_core.net.0");
            await fabric.OkAsync("driver", "bind", "merlin_core.net.0", "nic_net");
            await guest.SeeAsync($"{image.Sum}  -");
        }
        Assert.Empty(await guest.EndAsync());
        Assert.True(image.IsAsExpected);
    }

    [Fact]
    public async Task Unbound_vdpa_part_takes_the_socket_from_an_open_guest_and_bind_brings_it_back()
    {
        await using var fabric = new TestFabric();
        var image = new DiskImage(fabric, "disk.img", 4 * DiskImage.MiB);
        await fabric.UpAsync(Manifest(image));
        var socket = Path.Combine(fabric.Runtime, "disk0.sock");
        var guest = Guest.Start(
            fabric,
            """
            while dd if=/dev/vda of=/dev/null bs=64k iflag=direct; do :; done 2>/dev/null &
            echo reading
            read line
            echo 'alive and' $line
            cat
            """,
            "disk0");
        await guest.SeeAsync("reading");
        Assert.True(File.Exists(socket));
        Assert.Contains("Device 'disk0' is in use", await fabric.RefusedAsync("vm", "disk0", "--", "true"), StringComparison.Ordinal);
        Assert.Contains("'disk0' is named twice", await fabric.RefusedAsync("vm", "disk0", "disk0", "--", "true"), StringComparison.Ordinal);
        await fabric.OkAsync("driver", "unbind", "merlin_core.vdpa.0");
        Assert.False(File.Exists(socket));
        Assert.Contains("Function 'disk0' is gone, so it offers no", await fabric.RefusedAsync("vm", "disk0", "--", "true"), StringComparison.Ordinal);
        // What hangs or fails is the disk's reader alone.
        await guest.TellAsync("well");
        await guest.SeeAsync("alive and well");

        await fabric.OkAsync("driver", "bind", "merlin_core.vdpa.0", "nic_vdpa");
        Assert.True(File.Exists(socket));
        Assert.Equal([$"{image.Sum}  -"], await Guest.RunAsync(fabric, "sha256sum </dev/vda", "disk0"));
        await guest.KillAsync();
        await fabric.OkAsync("down");
        Assert.True(image.IsAsExpected);
    }

    private static string Manifest(DiskImage image) => $"""
        adapters:
          - {"{"} name: adapter0, model: merlin {"}"}
        disks:
          - {"{"} name: disk0, adapter: adapter0, file: {image.Path} {"}"}
        """;
}
