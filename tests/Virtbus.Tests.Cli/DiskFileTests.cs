using Virtbus.Block;

namespace Virtbus.Tests.Cli;

/// <summary>Files of disks, folders and sockets that can't be used, as the program says it.</summary>
public sealed class DiskFileTests
{
    private const string Adapters = "adapters:\n  - { name: a, model: merlin }\n";

    [Fact]
    public async Task Every_disk_whose_file_another_process_has_is_told_at_its_file_key()
    {
        await using var fabric = new TestFabric();
        var (first, second) = (fabric.Write("1.img", new string('\0', 4096)), fabric.Write("2.img", new string('\0', 4096)));
        using (FileBackend.Open(first))
        using (FileBackend.Open(second))
        {
            var manifest = fabric.Write("m.yaml", $"{Adapters}disks:\n  - {{ name: d1, adapter: a, file: {first} }}\n  - {{ name: d2, adapter: a, file: {second} }}\n");
            var run = await fabric.RunAsync("up", manifest, "--detach");
            Assert.Equal(1, run.Code);
            Assert.Contains($"virtbus: {manifest}:4:35: disks[0].file: Disk file '{first}' is in use", run.Errors, StringComparison.Ordinal);
            Assert.Contains($"{manifest}:5:35: disks[1].file: Disk file '{second}' is in use", run.Errors, StringComparison.Ordinal);
        }
    }

    [Fact]
    public async Task Image_that_a_guest_wrote_is_served_while_the_daemon_runs_and_at_the_next_start_when_the_manifest_says_raw()
    {
        await using var fabric = new TestFabric();
        var disk = fabric.Write("disk.img", new string('\0', 4096));
        var manifest = $"{Adapters}disks:\n  - {{ name: d, adapter: a, file: {disk}, format: FORMAT }}\n";
        await fabric.UpAsync(manifest.Replace(", format: FORMAT", "", StringComparison.Ordinal));
        // As the daemon writes what the guest says, and not by .NET, which asks for a lock.
        Assert.Equal(0, (await TestFabric.EndAsync(fabric.StartProgram("sh", "-c", "printf 'QFI\\373\\0\\0\\0\\3' | dd of=\"$0\" conv=notrunc", disk))).Code);
        await fabric.OkAsync("driver", "unbind", "merlin_core.vdpa.0");
        await fabric.OkAsync("driver", "bind", "merlin_core.vdpa.0", "nic_vdpa");
        Assert.Contains("d.sock", await fabric.OkAsync("socket", "list", "d"), StringComparison.Ordinal);
        await fabric.OkAsync("down");
        var run = await fabric.RunAsync("up", fabric.Write("m.yaml", manifest.Replace(", format: FORMAT", "", StringComparison.Ordinal)), "--detach");
        Assert.Equal(1, run.Code);
        Assert.Contains("say 'format: raw'", run.Errors, StringComparison.Ordinal);
        await fabric.UpAsync(manifest.Replace("FORMAT", "raw", StringComparison.Ordinal));
        Assert.Contains("d.sock", await fabric.OkAsync("socket", "list", "d"), StringComparison.Ordinal);
    }

    [Fact]
    public async Task Permission_denied_is_not_told_as_something_that_does_not_exist()
    {
        await using var fabric = new TestFabric();
        var folder = Directory.CreateDirectory(fabric.Write("x", "") + "-closed").FullName;
        await File.WriteAllBytesAsync(Path.Combine(folder, "disk.img"), new byte[4096], TestContext.Current.CancellationToken);
        Directory.CreateDirectory(Path.Combine(folder, "modules"));
        var unreadable = fabric.Write("unreadable.img", new string('\0', 4096));
        File.SetUnixFileMode(unreadable, UnixFileMode.None);
        var modules = Directory.CreateDirectory(folder + "-modules").FullName;
        File.SetUnixFileMode(modules, UnixFileMode.UserRead);
        File.SetUnixFileMode(folder, UnixFileMode.None);
        try
        {
            var manifest = fabric.Write("m.yaml", $$"""
                {{Adapters}}disks:
                  - { name: d1, adapter: a, file: {{folder}}/disk.img }
                  - { name: d2, adapter: a, file: {{unreadable}}, readonly: true }
                functions:
                  - { name: f, vfio_user: {{folder}}/f.sock }
                modules: {{modules}}
                """);
            var run = await TestFabric.EndAsync(Unprivileged(fabric, "up", manifest, "--detach"));
            Assert.Equal(1, run.Code);
            Assert.DoesNotContain("does not exist", run.Errors, StringComparison.Ordinal);
            Assert.Contains($"{manifest}:4:35: disks[0].file: Disk file '{folder}/disk.img' may not be opened to read and write (EACCES)", run.Errors, StringComparison.Ordinal);
            Assert.Contains($"{manifest}:5:35: disks[1].file: Disk file '{unreadable}' may not be read (EACCES)", run.Errors, StringComparison.Ordinal);
            Assert.Contains($"{manifest}:7:27: functions[0].vfio_user: {folder}/f.sock may not be looked at: EACCES. Change its permissions", run.Errors, StringComparison.Ordinal);
            Assert.Contains($"{manifest}:8:10: modules: {modules} may not be read: EACCES. Change its permissions", run.Errors, StringComparison.Ordinal);

            fabric.Runtime = folder + "/run";
            run = await TestFabric.EndAsync(Unprivileged(fabric, "status"));
            Assert.Equal((1, ""), (run.Code, run.Output));
            Assert.StartsWith($"virtbus: {fabric.Runtime} can't be reached: EACCES. Run as the user whose fabric it is", run.Errors, StringComparison.Ordinal);
        }
        finally
        {
            File.SetUnixFileMode(folder, UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute);
        }
    }

    // Root may do everything, so it goes without that right.
    private static System.Diagnostics.Process Unprivileged(TestFabric fabric, params string[] arguments) => Environment.IsPrivilegedProcess
        ? fabric.StartProgram("setpriv", ["--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search", "--", TestFabric.Program, .. arguments])
        : fabric.Start(arguments);
}
