using Microsoft.Extensions.Logging;
using Virtbus.Daemon.Logs;

namespace Virtbus.Tests.Cli;

public sealed class LogTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("vb").FullName;

    private string LogPath => Path.Combine(_folder, "daemon.log");

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    private sealed class Disk : ILogOutput
    {
        public bool IsFull { get; set; }

        public string Text { get; private set; } = "";

        public bool TryWrite(ReadOnlySpan<byte> text, out string error)
        {
            error = IsFull ? "ENOSPC" : "";
            if (!IsFull)
                Text += System.Text.Encoding.UTF8.GetString(text);
            return !IsFull;
        }
    }

    [Fact]
    public void Line_that_could_not_be_written_is_counted_and_told_of_later()
    {
        var disk = new Disk();
        using var provider = new LineLoggerProvider(disk, TimeProvider.System, LogLevel.Information);
        var log = provider.CreateLogger("some");
        disk.IsFull = true;
        for (var i = 0; i < 5; i++)
            log.Log(LogLevel.Information, $"line {i}");
        Assert.Equal(("", 5), (disk.Text, provider.Lost));
        disk.IsFull = false;
        log.Log(LogLevel.Information, "line 5");
        var lines = disk.Text.TrimEnd('\n').Split('\n');
        Assert.EndsWith("error Virtbus.Daemon[605] 5 lines could not be written before this: ENOSPC", lines[0], StringComparison.Ordinal);
        Assert.EndsWith("info  some[0] line 5", lines[1], StringComparison.Ordinal);
        Assert.Equal(2, lines.Length);
    }

    [Fact]
    public void Text_that_fails_while_it_is_made_throws_nothing()
    {
        var disk = new Disk();
        using var provider = new LineLoggerProvider(disk, TimeProvider.System, LogLevel.Information);
        var log = provider.CreateLogger("some");
        log.Log(LogLevel.Error, default, 0, null, static (_, _) => throw new InvalidOperationException("no text"));
        Assert.Equal(1, provider.Lost);
        log.Log(LogLevel.Error, "next");
        Assert.Contains("1 lines could not be written before this: no text", disk.Text, StringComparison.Ordinal);
    }

    [Fact]
    public void Nothing_in_a_text_looks_like_a_line_of_its_own()
    {
        var disk = new Disk();
        using var provider = new LineLoggerProvider(disk, TimeProvider.System, LogLevel.Information);
        const string Forged = "2026-01-01T00:00:00.000Z error Virtbus.Daemon[1] forged\u001b[2J";
        provider.CreateLogger("some").Log(LogLevel.Error, new IOException("first\n" + Forged), "opened by 'x\n{Name}'", Forged);
        var lines = disk.Text.TrimEnd('\n').Split('\n');
        Assert.Contains(@"opened by 'x\n2026", lines[0], StringComparison.Ordinal);
        Assert.All(lines[1..], line => Assert.StartsWith("    ", line, StringComparison.Ordinal));
        Assert.DoesNotContain('\u001b', disk.Text);
    }

    [Fact]
    public void File_has_a_bound_and_keeps_the_one_before()
    {
        var begun = 0;
        using var file = new LogFile(LogPath, capacity: 1000, () => begun++);
        var line = new byte[100];
        line.AsSpan().Fill((byte)'x');
        line[^1] = (byte)'\n';
        for (var i = 0; i < 10_000; i++)
            Assert.True(file.TryWrite(line, out _));
        Assert.Equal(["daemon.log", "daemon.log.1"], new DirectoryInfo(_folder).GetFiles().Select(f => f.Name).Order(StringComparer.Ordinal));
        Assert.Equal((1000, 1000, 999), (new FileInfo(LogPath).Length, new FileInfo(LogPath + ".1").Length, begun));
        Assert.Equal(UnixFileMode.UserRead | UnixFileMode.UserWrite, File.GetUnixFileMode(LogPath));
    }

    [Fact]
    public void File_goes_on_where_an_earlier_one_ended()
    {
        using (var first = new LogFile(LogPath, capacity: 10))
            Assert.True(first.TryWrite("12345678"u8, out _));
        using (var second = new LogFile(LogPath, capacity: 10))
            Assert.True(second.TryWrite("abc"u8, out _));
        Assert.Equal(("abc", "12345678"), (File.ReadAllText(LogPath), File.ReadAllText(LogPath + ".1")));
    }

    [Fact]
    public void Full_disk_is_an_answer_and_no_exception()
    {
        Assert.SkipUnless(File.Exists("/dev/full"), "no /dev/full");
        File.CreateSymbolicLink(LogPath, "/dev/full");
        using var file = new LogFile(LogPath);
        Assert.False(file.TryWrite("line\n"u8, out var error));
        Assert.Equal("ENOSPC", error);
    }

    [Theory]
    [InlineData(0)]
    [InlineData(10)]
    public async Task Daemon_whose_log_takes_no_line_serves_its_users_and_tells_of_it_later(int part)
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync("""
            adapters:
              - { name: adapter0, model: merlin }
            disks:
              - { name: disk0, adapter: adapter0, memory: 1MiB }
            """);
        var log = Path.Combine(fabric.Runtime, "daemon.log");
        var before = await File.ReadAllTextAsync(log, TestContext.Current.CancellationToken);
        var length = new FileInfo(log).Length + part;
        // As on a full disk, without one: files of the daemon have their longest length, perhaps in the middle of a line.
        await LimitFilesAsync($"{length}");
        for (var i = 0; i < 30; i++)
        {
            using var stream = Virtbus.Platform.UnixStream.TryConnect(Path.Combine(fabric.Runtime, "disk0.sock"), out var error);
            Assert.True(stream is not null || error == Virtbus.Platform.Errno.EAGAIN, $"connection {i}: {error}");
        }

        await fabric.OkAsync("driver", "unbind", "disk0");
        await fabric.OkAsync("driver", "bind", "disk0", "vhost-vdpa");
        Assert.Contains("vhost-vdpa-0", await fabric.OkAsync("device", "list"), StringComparison.Ordinal);
        Assert.Equal(length, new FileInfo(log).Length);
        await LimitFilesAsync("unlimited");
        await fabric.OkAsync("driver", "unbind", "disk0");
        await fabric.OkAsync("driver", "bind", "disk0", "vhost-vdpa");
        // What was written of a line stands alone; the line that tells of it is one of its own, and counts all.
        var after = (await File.ReadAllTextAsync(log, TestContext.Current.CancellationToken))[before.Length..];
        Assert.Matches($"^[^\n]{{{part}}}\n[^\n]*Z error Virtbus.Daemon\\[605\\] [1-9][0-9]* lines could not be written before this: EFBIG\n", after);
        await fabric.OkAsync("down");

        async Task LimitFilesAsync(string limit)
        {
            var process = System.Text.Json.JsonDocument.Parse(await fabric.OkAsync("status", "-j")).RootElement.GetProperty("pid").GetInt32();
            using var prlimit = System.Diagnostics.Process.Start("prlimit", ["--pid", $"{process}", $"--fsize={limit}:"]);
            await prlimit.EndsAsync();
            Assert.Equal(0, prlimit.ExitCode);
        }
    }
}
