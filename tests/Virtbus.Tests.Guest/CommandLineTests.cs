using System.Diagnostics;
using System.Text;
using System.Text.Json;
using Virtbus.Tests.Cli;

namespace Virtbus.Tests.Guest;

/// <summary>The command line that <c>virtbus vm --print</c> gives, run by a shell as a person pastes it.</summary>
public sealed class CommandLineTests
{
    private const string Prompt = "guest:";

    private const string Manifest = """
        adapters:
          - { name: adapter0, model: merlin }
        disks:
          - { name: disk0, adapter: adapter0, memory: 1MiB, serial: PRINTED-1 }
        serials:
          - { name: serial0 }
        """;

    [Fact]
    public async Task Printed_command_line_boots_a_guest_that_has_the_device()
    {
        Guest.RequireQemu();
        await using var fabric = new TestFabric();
        await fabric.UpAsync(Manifest);
        var printed = await fabric.RunAsync("vm", "--print", "disk0");
        Assert.Equal(0, printed.Code);
        Assert.Matches("kernel +/.*\n.*initramfs +/.*initramfs.gz\n.* kept in /", printed.Errors);
        // A vhost-user disk's state QEMU moves.
        Assert.DoesNotContain("migrate", printed.Errors, StringComparison.Ordinal);
        Assert.Contains("Do not migrate this guest", (await fabric.RunAsync("vm", "--print", "serial0")).Errors, StringComparison.Ordinal);
        var shell = fabric.StartProgram("sh", "-c", "exec " + printed.Output);
        await ReadUntilAsync(shell, Prompt);
        Assert.Contains($" ({Name(shell)})", await fabric.OkAsync("socket", "list", "disk0"), StringComparison.Ordinal);
        var end = await TestFabric.EndAsync(shell, "cat /sys/block/vda/serial; exit\n");
        Assert.Equal(0, end.Code);
        Assert.Contains("\nPRINTED-1", end.Output, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("disk0", "shares no memory, which the device needs: start QEMU with share=on: -object memory-backend-memfd,")]
    [InlineData("serial0", "by messages, which is slow; to share it, start QEMU with share=on: -object memory-backend-memfd,")]
    public async Task Guest_that_shares_no_memory_is_told_so_in_the_log_and_in_the_status(string device, string says)
    {
        Guest.RequireQemu();
        await using var fabric = new TestFabric();
        await fabric.UpAsync(Manifest);
        var printed = await fabric.RunAsync("vm", "--print", device, "-j");
        string[] arguments = [.. JsonDocument.Parse(printed.Output).RootElement.GetProperty("arguments").EnumerateArray().Select(a => a.GetString()!)];
        var memory = Array.IndexOf(arguments, "-object") + 1;
        Assert.Equal("memory-backend-memfd,id=mem,size=256M,share=on", arguments[memory]);
        arguments[memory] = "memory-backend-ram,id=mem,size=256M";
        var qemu = fabric.StartProgram(arguments[0], arguments[1..]);
        using var deadline = new CancellationTokenSource(TestFabric.Deadline);
        string? hint;
        do
        {
            deadline.Token.ThrowIfCancellationRequested();
            var sockets = JsonDocument.Parse(await fabric.OkAsync("socket", "list", device, "-j")).RootElement.EnumerateArray();
            hint = sockets.Select(s => s.TryGetProperty("hint", out var h) ? h.GetString() : null).FirstOrDefault(h => h is not null);
        }
        while (hint is null);
        Assert.Contains(says, hint, StringComparison.Ordinal);
        Assert.Contains("share=on", await fabric.OkAsync("status"), StringComparison.Ordinal);
        Assert.Contains("start QEMU with share=on: -object memory-backend-memfd,", await File.ReadAllTextAsync(Path.Combine(fabric.Runtime, "daemon.log"), deadline.Token), StringComparison.Ordinal);
        qemu.Kill();
    }

    private static string Name(Process process) => File.ReadAllText($"/proc/{process.Id}/comm").TrimEnd('\n');

    private static async Task ReadUntilAsync(Process process, string text)
    {
        using var progress = new Progress(process.Id);
        var seen = new StringBuilder();
        var one = new char[1];
        while (!seen.ToString().EndsWith(text, StringComparison.Ordinal))
        {
            if (await process.StandardOutput.ReadAsync(one, progress.Token) == 0)
                Assert.Fail($"The guest ended: {seen}{await process.StandardError.ReadToEndAsync(progress.Token)}");
            seen.Append(one[0]);
        }
    }
}
