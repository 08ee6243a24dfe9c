using System.Diagnostics;
using System.Globalization;
using Virtbus.Tests.Cli;

namespace Virtbus.Tests.Guest;

/// <summary>A guest uses virtio disks over vfio-user as guests do: with a file system, with discards, and with many requests at once.</summary>
public sealed class VirtioDiskTests
{
    private const int Kept = 4;
    private const int Lost = 24;
    private const int Requests = 8000;
    private static readonly GuestProgram _program = new("blk_test");

    [Fact]
    public async Task File_system_gives_blocks_of_a_sparse_file_back_while_a_load_on_another_disk_is_verified()
    {
        await using var fabric = new TestFabric();
        var sparse = Sparse(fabric, "sparse.img", 96);
        var load = Sparse(fabric, "load.img", 32);
        await fabric.UpAsync($$"""
            functions:
              - { name: disk0, virtio: blk, file: {{sparse}}, format: raw, queues: 2 }
              - { name: load0, virtio: blk, file: {{load}}, format: raw, queues: 2, packed: true }
            """);
        Assert.Equal(0, await AllocatedAsync(sparse));
        var guest = Guest.Start(
            fabric,
            await _program.PreludeAsync() + VirtioTests.Find + $$"""
            load=$(find_disk load0)
            blk_test verify $load {{Requests}} 32 1 >/tmp/load &
            fill() { dd if=/dev/urandom of=/mnt/$1 bs=1M count=$2 2>/dev/null; sync; }
            tell() { echo $1; read -r go; }
            mke2fs -q -b 4096 $disk >&2
            mount -t ext4 $disk /mnt
            fill kept {{Kept}}
            sum=$(sha256sum </mnt/kept)
            fill lost {{Lost}}
            tell full
            rm /mnt/lost
            sync
            tell removed
            fstrim /mnt
            tell trimmed
            umount /mnt
            mount -t ext4 -o discard $disk /mnt
            fill lost {{Lost}}
            tell full
            rm /mnt/lost
            sync
            tell discarded
            umount /mnt
            echo 3 >/proc/sys/vm/drop_caches
            mount -t ext4 -o ro $disk /mnt
            [ "$sum" = "$(sha256sum </mnt/kept)" ] && echo kept
            umount /mnt
            wait
            cat /tmp/load
            for d in $disk $load; do echo 3 >/proc/sys/vm/drop_caches; sha256sum <$d; done
            read -r go
            blkdiscard $disk
            sync
            cmp $disk /dev/zero 2>&1 | grep -c EOF
            """,
            "disk0",
            "load0",
            "--cpus=2");
        await _program.SendAsync(guest);
        await guest.SeeAsync("full");
        var full = await AllocatedAsync(sparse);
        Assert.True(full >= (Kept + Lost) * DiskImage.MiB, $"{full}");
        await guest.TellAsync("go");
        // Without a discard the host knows nothing of it.
        await guest.SeeAsync("removed");
        Assert.True(await AllocatedAsync(sparse) >= (Kept + Lost) * DiskImage.MiB);
        await guest.TellAsync("go");
        foreach (var freed in (string[])["trimmed", "full", "discarded"])
        {
            await guest.SeeAsync(freed);
            var now = await AllocatedAsync(sparse);
            // Its own tables, up to 5 MiB, are part of what is there.
            Assert.True(freed == "full" ? now >= (Kept + Lost) * DiskImage.MiB : now is >= Kept * DiskImage.MiB and < (Kept + 6) * DiskImage.MiB, $"{freed}: {now} of {full}");
            await guest.TellAsync("go");
        }

        await guest.SeeAsync("kept", "verified");
        await guest.SeeAsync(await SumAsync(sparse), await SumAsync(load));
        await guest.TellAsync("go");
        Assert.Equal(["1"], await guest.EndAsync());
        Assert.Equal(0, await AllocatedAsync(sparse));
    }

    private static string Sparse(TestFabric fabric, string name, int mebibytes)
    {
        var path = fabric.Write(name, "");
        using var file = File.OpenWrite(path);
        file.SetLength(mebibytes * DiskImage.MiB);
        return path;
    }

    /// <summary>The bytes of the host's disk that a file has.</summary>
    private static async Task<long> AllocatedAsync(string path) => long.Parse(await SayAsync("stat", "-c", "%b", path), CultureInfo.InvariantCulture) * 512;

    private static async Task<string> SumAsync(string path) => (await SayAsync("sha256sum", path)).Split(' ')[0] + "  -";

    private static async Task<string> SayAsync(string program, params string[] arguments)
    {
        using var deadline = new CancellationTokenSource(TestFabric.Deadline);
        using var process = Process.Start(new ProcessStartInfo(program, arguments) { RedirectStandardOutput = true, UseShellExecute = false })!;
        var text = await process.StandardOutput.ReadToEndAsync(deadline.Token);
        await process.WaitForExitAsync(deadline.Token);
        Assert.Equal(0, process.ExitCode);
        return text.Trim();
    }
}
