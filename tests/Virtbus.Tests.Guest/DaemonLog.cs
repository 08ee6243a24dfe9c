using System.Diagnostics;
using Virtbus.Tests.Cli;

namespace Virtbus.Tests.Guest;

/// <summary>The log of a detached daemon, read as it is written.</summary>
internal sealed class DaemonLog : IDisposable
{
    private readonly Process _tail;

    public DaemonLog(TestFabric fabric) =>
        _tail = Process.Start(new ProcessStartInfo("tail", ["-n", "+1", "-f", Path.Combine(fabric.Runtime, "daemon.log")]) { RedirectStandardOutput = true, UseShellExecute = false })!;

    /// <summary>Waits for the line that a server logs when it has let go of all that it had of a client. No warning may come before it.</summary>
    public Task SeeGoneAsync() => SeeAsync(" gone: ");

    /// <summary>Waits for a line with a text. No warning may come before it, but that a function's DMA found no memory: a guest's goes in the middle of it.</summary>
    public async Task SeeAsync(string text)
    {
        using var deadline = new CancellationTokenSource(TestFabric.Deadline);
        while (await _tail.StandardOutput.ReadLineAsync(deadline.Token) is { } line)
        {
            if (line.Contains(text, StringComparison.Ordinal))
                return;
            if (line.Contains("DMA fault", StringComparison.Ordinal))
                continue;
            Assert.DoesNotContain(" warn ", line, StringComparison.Ordinal);
            Assert.DoesNotContain(" error ", line, StringComparison.Ordinal);
        }
        Assert.Fail("The log has ended.");
    }

    public void Dispose()
    {
        _tail.Kill();
        _tail.Dispose();
    }
}
