using System.Security.Cryptography;
using Virtbus.Tests.Cli;
using Virtbus.Vm;

namespace Virtbus.Tests.Guest;

/// <summary>A guest whose disk's daemon is killed in the middle of its writes, and started again, notices a pause.</summary>
public sealed class DaemonDeathTests
{
    private const int Block = 4096;
    private const int Half = 1000;
    private const int Blocks = 2 * Half;
    private const int Deaths = 3;
    // A pass that is through before the kill comes is none of those that count.
    private const int MostPasses = 4 * Deaths;

    // The first QEMU of the machine, Debian's, counts in seconds; one with vfio-user is newer and counts in milliseconds.
    [Theory]
    [InlineData(VmDeviceKind.VhostUserBlk, "reconnect=1")]
    [InlineData(VmDeviceKind.VfioUserPci, "reconnect-ms=100")]
    public async Task Guest_goes_on_writing_over_deaths_of_the_daemon_and_what_was_acknowledged_is_in_the_file(VmDeviceKind kind, string reconnect)
    {
        await using var fabric = new TestFabric();
        var image = new DiskImage(fabric, "disk.img", (Blocks + 2) * Block);
        var manifest = $"""
            adapters:
              - {"{"} name: adapter0, model: merlin {"}"}
            disks:
              - {"{"} name: disk0, adapter: adapter0, file: {image.Path} {"}"}
            """;
        var daemon = await fabric.StartUpAsync(manifest);
        using var qemu = await MonitoredQemu.MakeAsync(fabric, kind, reconnect);
        var bytes = RandomNumberGenerator.GetBytes((Blocks + MostPasses) * Block);
        // Each pass writes other bytes to every block, those of the data from the pass's number on, by two writers at once. Its mark goes behind them.
        var guest = Guest.StartOn(
            fabric,
            qemu.Program,
            $"""
            dd of=/data bs={Block} count={Blocks + MostPasses} iflag=fullblock
            dmesg -c >/dev/null
            while read -r pass; do
                dd if=/data of=/dev/vda bs={Block} skip=$pass count={Half} conv=notrunc,fsync oflag=direct &
                dd if=/data of=/dev/vda bs={Block} skip=$((pass + {Half})) seek={Half} count={Half} conv=notrunc,fsync oflag=direct
                wait $!
                printf '%{Block}d' $pass | dd of=/dev/vda bs={Block} seek={Blocks} conv=notrunc,fsync oflag=direct iflag=fullblock
                echo $pass
            done
            dmesg >&2
            [ $(dmesg | wc -l) = 0 ]
            sha256sum </dev/vda
            """,
            "disk0");
        await guest.TellAsync(bytes);
        var deaths = 0;
        for (var pass = 0; pass < MostPasses && deaths < Deaths; pass++)
        {
            var written = bytes.AsMemory(pass * Block, Blocks * Block);
            await guest.TellAsync($"{pass}");
            var first = written[..Block].ToArray();
            guest.Until(() => ReadBlock(image.Path, 0).AsSpan().SequenceEqual(first), "the first block of the pass");
            daemon.Kill();
            await daemon.EndsAsync();
            // What was not written yet will be.
            if (!ReadBlock(image.Path, Blocks - 1).AsSpan().SequenceEqual(written.Span[^Block..]))
                deaths++;
            daemon = await fabric.StartUpAsync(manifest);
            await guest.SeeAsync($"{pass}");
            written.CopyTo(image.Expected);
            System.Text.Encoding.ASCII.GetBytes($"{pass}".PadLeft(Block)).CopyTo(image.Expected, Blocks * Block);
            Assert.True(image.IsAsExpected, $"What the guest was told is written in pass {pass} is not in the file.");
        }

        Assert.Equal(Deaths, deaths);
        Assert.Equal([$"{image.Sum}  -"], await guest.EndAsync());
        Assert.True(image.IsAsExpected);
    }

    private static byte[] ReadBlock(string path, int number)
    {
        var block = new byte[Block];
        using var file = File.OpenHandle(path, FileMode.Open, FileAccess.Read, FileShare.ReadWrite);
        RandomAccess.Read(file, block, (long)number * Block);
        return block;
    }
}
