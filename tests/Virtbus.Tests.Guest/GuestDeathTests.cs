using System.Diagnostics;
using System.Text.Json;
using Virtbus.Tests.Cli;
using Xunit;

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
        using var log = Process.Start(new ProcessStartInfo("tail", ["-n", "+1", "-f", Path.Combine(fabric.Runtime, "daemon.log")]) { RedirectStandardOutput = true, UseShellExecute = false })!;
        try
        {
            await EndGuestsAsync(fabric, image, log.StandardOutput);
        }
        finally
        {
            log.Kill();
        }
    }

    private static async Task EndGuestsAsync(TestFabric fabric, DiskImage image, StreamReader log)
    {
        var daemon = JsonDocument.Parse(await File.ReadAllTextAsync(Path.Combine(fabric.Runtime, "lock"))).RootElement.GetProperty("pid").GetInt32();
        // The first guest makes the daemon open what it keeps.
        await Guest.RunAsync(fabric, "dd if=/dev/vda of=/dev/null bs=1M", "disk0");
        await SeeGoneAsync(log);
        var before = Holdings(daemon);
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
            Assert.Contains("guest memory", Holdings(daemon).Keys);
            await guest.TellAsync("end");
            await end(guest);
            await SeeGoneAsync(log);
            Assert.Equal(before, Holdings(daemon));
        }
    }

    // The daemon logs this line when it has let go of all.
    private static async Task SeeGoneAsync(StreamReader log)
    {
        using var deadline = new CancellationTokenSource(TestFabric.Deadline);
        while (await log.ReadLineAsync(deadline.Token) is { } line)
        {
            if (line.Contains(" gone: ", StringComparison.Ordinal))
                return;
            Assert.DoesNotContain(" warn ", line, StringComparison.Ordinal);
            Assert.DoesNotContain(" error ", line, StringComparison.Ordinal);
        }
        Assert.Fail("The log has ended.");
    }

    /// <summary>How many descriptors of each kind a process has, but for files, which the runtime opens when it will; and mappings of guest memory.</summary>
    private static SortedDictionary<string, int> Holdings(int process)
    {
        var kinds = Directory.GetFiles($"/proc/{process}/fd").Select(path => File.ResolveLinkTarget(path, returnFinalTarget: false)?.Name ?? "")
            .Where(name => name.Contains(':', StringComparison.Ordinal))
            .Select(name => name.Split('[')[0])
            .Concat(File.ReadLines($"/proc/{process}/maps").Where(line => line.Contains("memory-backend-memfd", StringComparison.Ordinal)).Select(_ => "guest memory"));
        return new SortedDictionary<string, int>(kinds.CountBy(kind => kind).ToDictionary(), StringComparer.Ordinal);
    }
}
