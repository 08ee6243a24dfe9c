using System.Diagnostics;

namespace Virtbus.Tests.Cli;

public sealed class RuntimeFolderTests
{
    private const UnixFileMode Private = UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute;

    [Fact]
    public async Task Folder_socket_and_lock_are_private()
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync("{}");
        Assert.Equal(Private, File.GetUnixFileMode(fabric.Runtime));
        Assert.Equal(UnixFileMode.UserRead | UnixFileMode.UserWrite, File.GetUnixFileMode(fabric.ControlSocket));
        Assert.Equal(UnixFileMode.UserRead | UnixFileMode.UserWrite, File.GetUnixFileMode(Path.Combine(fabric.Runtime, "lock")));
        Assert.Equal(UnixFileMode.UserRead | UnixFileMode.UserWrite, File.GetUnixFileMode(Path.Combine(fabric.Runtime, "daemon.log")));
    }

    [Fact]
    public async Task A_folder_that_others_may_enter_is_refused()
    {
        await using var fabric = new TestFabric();
        Directory.CreateDirectory(fabric.Runtime, Private | UnixFileMode.GroupExecute);
        Assert.Equal($"virtbus: Runtime folder {fabric.Runtime} has mode 710, so others can enter it. Use: chmod 700 {fabric.Runtime}", await fabric.RefusedAsync("up", "--detach"));
        Assert.Contains("has mode 710", await fabric.RefusedAsync("tree"), StringComparison.Ordinal);
        Assert.Empty(Directory.GetFileSystemEntries(fabric.Runtime));
    }

    [Fact]
    public async Task A_folder_of_another_user_is_refused()
    {
        // Root may make a folder another's; anyone else finds one of root's.
        await using var fabric = new TestFabric();
        if (Environment.IsPrivilegedProcess)
        {
            Directory.CreateDirectory(fabric.Runtime, Private);
            using var chown = System.Diagnostics.Process.Start("chown", ["12345", fabric.Runtime]);
            await chown.EndsAsync();
        }
        else
        {
            fabric.Runtime = "/proc/1";
        }
        Assert.Contains(" belongs to user ", await fabric.RefusedAsync("up", "--detach"), StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_link_a_file_and_a_path_too_long_are_refused()
    {
        await using var fabric = new TestFabric();
        var folder = Directory.CreateDirectory(fabric.Write("x", "") + "-dir", Private).FullName;
        var link = folder + "-link";
        Directory.CreateSymbolicLink(link, folder);
        fabric.Runtime = link;
        Assert.Contains($"is a link to {folder}", await fabric.RefusedAsync("up"), StringComparison.Ordinal);
        fabric.Runtime = fabric.Write("file", "");
        Assert.Contains("is a file", await fabric.RefusedAsync("up"), StringComparison.Ordinal);
        fabric.Runtime = "/tmp/" + new string('x', 100);
        Assert.Contains("at most 107 bytes", await fabric.RefusedAsync("up"), StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_second_up_is_refused_and_says_who_is_there()
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync("{}");
        var holder = System.Text.Json.JsonDocument.Parse(await File.ReadAllTextAsync(Path.Combine(fabric.Runtime, "lock"))).RootElement;
        var said = await fabric.RefusedAsync("up", "--detach");
        Assert.StartsWith($"virtbus: A fabric of process {holder.GetProperty("pid")}, up since {holder.GetProperty("since").GetDateTimeOffset():yyyy-MM-dd HH:mm:ss} UTC with ", said, StringComparison.Ordinal);
        Assert.EndsWith($" has the runtime folder {fabric.Runtime}. Take it down with 'virtbus down', or set VIRTBUS_RUNTIME to another folder.", said, StringComparison.Ordinal);
        Assert.Equal(0, (await fabric.RunAsync("tree")).Code);
    }

    [Fact]
    public async Task What_a_killed_daemon_left_is_taken_over()
    {
        await using var fabric = new TestFabric();
        var first = await fabric.StartUpAsync("{}");
        first.Kill();
        await first.EndsAsync();
        Assert.True(File.Exists(fabric.ControlSocket));
        Assert.Contains("No fabric is running in", await fabric.RefusedAsync("tree"), StringComparison.Ordinal);
        await fabric.UpAsync("{}");
        await fabric.OkAsync("tree");
    }

    [Theory]
    [InlineData("control.sock", "exists and is no socket")]
    [InlineData("lock", "is no file")]
    [InlineData("daemon.log", "is no file")]
    public async Task What_stands_in_the_place_of_its_files_is_named_and_kept(string name, string says)
    {
        await using var fabric = new TestFabric();
        Directory.CreateDirectory(fabric.Runtime, Private);
        var path = Path.Combine(fabric.Runtime, name);
        var manifest = fabric.Write("m.yaml", "{}");

        Directory.CreateDirectory(path);
        await IsRefusedAsync();
        Directory.Delete(path);

        var precious = fabric.Write("precious", "kept");
        File.CreateSymbolicLink(path, precious);
        await IsRefusedAsync();
        Assert.Equal("kept", await File.ReadAllTextAsync(precious, TestContext.Current.CancellationToken));
        File.Delete(path);

        using (var make = Process.Start("mkfifo", [path]))
            await make.EndsAsync();
        await IsRefusedAsync();
        File.Delete(path);

        await fabric.UpAsync("{}");

        async Task IsRefusedAsync()
        {
            foreach (var way in new[] { "--detach", "-j" })
            {
                var said = (await fabric.RefusedAsync("up", manifest, way)).Split('\n')[^1];
                Assert.Contains(path, said, StringComparison.Ordinal);
                Assert.Contains(says, said, StringComparison.Ordinal);
                Assert.Contains("Remove it", said, StringComparison.Ordinal);
            }
        }
    }

    [Fact]
    public async Task Daemon_that_ends_leaves_what_another_has_put_in_its_folder_since()
    {
        const string Manifest = "adapters:\n  - { name: a, model: merlin }\ndisks:\n  - { name: d, adapter: a, memory: 1MiB }\n";
        await using var fabric = new TestFabric();
        var first = await fabric.StartUpAsync(Manifest);
        // As something that cleans the folder of temporary files does.
        foreach (var file in Directory.GetFiles(fabric.Runtime))
            File.Delete(file);
        await fabric.UpAsync(Manifest);
        var before = Entries();
        using (var kill = Process.Start("kill", ["-TERM", $"{first.Id}"]))
            await kill.EndsAsync();
        using var deadline = new CancellationTokenSource(TestFabric.Deadline);
        await first.WaitForExitAsync(deadline.Token);
        Assert.Equal(0, first.ExitCode);
        Assert.Equal(before, Entries());
        Assert.Contains("d.sock", before);
        Assert.Contains("has the runtime folder", await fabric.RefusedAsync("up", "--detach"), StringComparison.Ordinal);
        await fabric.OkAsync("down");
        Assert.Equal(["daemon.log", "lock"], Entries());

        string[] Entries() => [.. Directory.GetFileSystemEntries(fabric.Runtime).Select(e => Path.GetFileName(e)).Order(StringComparer.Ordinal)];
    }

    [Fact]
    public async Task Control_socket_of_a_live_daemon_that_lost_its_lock_is_not_taken()
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync("{}");
        File.Delete(Path.Combine(fabric.Runtime, "lock"));
        Assert.Contains($"Socket '{fabric.ControlSocket}' is in use by a running process.", await fabric.RefusedAsync("up", "-j"), StringComparison.Ordinal);
        await fabric.OkAsync("tree");
    }
}
