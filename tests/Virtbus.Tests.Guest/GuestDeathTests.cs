using Virtbus.Tests.Cli;

namespace Virtbus.Tests.Guest;

/// <summary>However a guest ends, the daemon lets go of all that it had of it, and serves the next.</summary>
public sealed class GuestDeathTests
{
    // Reads and writes are in the air when the guest ends; zeros over zeros, so that the bytes are known whichever arrive.
    private const string Traffic = """
        zero() { dd if=/dev/zero of=/dev/vda bs=64k count=16 seek=48 oflag=direct conv=notrunc; }
        zero
        while dd if=/dev/vda of=/dev/null bs=64k iflag=direct; do :; done 2>/dev/null &
        while zero; do :; done 2>/dev/null &
        echo running
        read line

        """;

    [Fact]
    public async Task Daemon_lets_go_of_a_guest_that_panics_reboots_or_is_killed()
    {
        await using var fabric = new TestFabric();
        var image = new DiskImage(fabric, "disk.img", 4 * DiskImage.MiB);
        image.Expected.AsSpan(3 * DiskImage.MiB).Clear();
        await fabric.UpAsync($"""
            adapters:
              - {"{"} name: adapter0, model: merlin {"}"}
            disks:
              - {"{"} name: disk0, adapter: adapter0, file: {image.Path} {"}"}
            """);
        using var log = new DaemonLog(fabric);
        await EndGuestsAsync(fabric, image, log);
    }

    private static async Task EndGuestsAsync(TestFabric fabric, DiskImage image, DaemonLog log)
    {
        var daemon = await Holdings.DaemonOfAsync(fabric);
        // The first guest makes the daemon open what it keeps.
        await Guest.RunAsync(fabric, "dd if=/dev/vda of=/dev/null bs=1M", "disk0");
        await log.SeeGoneAsync();
        var before = Holdings.Of(daemon);
        Assert.DoesNotContain("guest memory", before.Keys);

        await EndAsync("echo c >/proc/sysrq-trigger", async guest => Assert.Contains("Kernel panic", await guest.DieAsync(), StringComparison.Ordinal));
        await EndAsync("reboot -f", async guest => Assert.Contains("it was powered off", await guest.DieAsync(), StringComparison.Ordinal));
        await EndAsync("cat", async guest =>
        {
            guest.KillQemu();
            await guest.DieAsync();
        });
        await EndAsync("cat", guest => guest.KillAsync());

        Assert.Equal([$"{image.Sum}  -"], await Guest.RunAsync(fabric, "sha256sum </dev/vda", "disk0"));
        Assert.True(image.IsAsExpected);

        async Task EndAsync(string last, Func<Guest, Task> end)
        {
            var guest = Guest.Start(fabric, Traffic + last, "disk0");
            await guest.SeeAsync("running");
            Assert.Contains("guest memory", Holdings.Of(daemon).Keys);
            await guest.TellAsync("end");
            await end(guest);
            await log.SeeGoneAsync();
            // A queue's own thread ends by itself, with what it had open, shortly after the queue has stopped.
            await Deadline.UntilAsync(() => before.OrderBy(h => h.Key).SequenceEqual(Holdings.Of(daemon).OrderBy(h => h.Key)), "what the queue had open to be closed");
        }
    }
}
