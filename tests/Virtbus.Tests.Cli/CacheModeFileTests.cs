using Virtbus.Daemon.Provisioning;
using Virtbus.Platform;

namespace Virtbus.Tests.Cli;

/// <summary>The cache mode of a disk outlives the daemon that keeps it.</summary>
public sealed class CacheModeFileTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("vb").FullName;

    public void Dispose()
    {
        if (Directory.Exists(_folder))
            Directory.Delete(_folder, recursive: true);
    }

    [Fact]
    public void Next_daemon_reads_what_was_kept()
    {
        var mode = new CacheModeFile(_folder, "disk0");
        Assert.True(mode.IsWriteback);
        Assert.True(mode.TryKeep(false, out _));
        Assert.True(mode.TryKeep(false, out _));
        Assert.False(mode.IsWriteback);
        Assert.False(new CacheModeFile(_folder, "disk0").IsWriteback);
        Assert.True(new CacheModeFile(_folder, "disk1").IsWriteback);
        var path = Path.Combine(_folder, "disk0.write-through");
        Assert.Equal(UnixFileMode.UserRead | UnixFileMode.UserWrite, File.GetUnixFileMode(path));

        Assert.True(mode.TryKeep(true, out _));
        Assert.True(mode.IsWriteback);
        Assert.True(new CacheModeFile(_folder, "disk0").IsWriteback);
        Assert.Empty(Directory.GetFileSystemEntries(_folder));
        Assert.True(mode.TryKeep(true, out _));
    }

    [Fact]
    public void What_was_kept_is_on_the_disk_with_its_name_when_that_is_answered()
    {
        List<string> synced = [];
        var mode = new CacheModeFile(_folder, "disk0", file =>
        {
            synced.Add(new FileInfo($"/proc/self/fd/{file.Number}").LinkTarget!);
            return file.SyncData();
        });
        Assert.True(mode.TryKeep(false, out _));
        // The file, and the folder that has its name.
        Assert.Equal([Path.Combine(_folder, "disk0.write-through"), _folder], synced);
        synced.Clear();
        Assert.True(mode.TryKeep(true, out _));
        Assert.Equal([_folder], synced);
    }

    [Theory]
    [InlineData(false, false)]
    [InlineData(false, true)]
    [InlineData(true, true)]
    public void Mode_that_did_not_get_to_the_disk_is_not_taken_and_the_next_daemon_writes_through(bool writeback, bool folder)
    {
        Assert.True(new CacheModeFile(_folder, "disk0").TryKeep(!writeback, out _));
        var mode = new CacheModeFile(_folder, "disk0", file =>
            Directory.Exists($"/proc/self/fd/{file.Number}") == folder ? Errno.EIO : file.SyncData());
        Assert.False(mode.TryKeep(writeback, out var fault));
        Assert.Equal((Errno.EIO, !writeback), (fault.Errno, mode.IsWriteback));
        // Weaker than what the driver relies on it never gets.
        Assert.False(new CacheModeFile(_folder, "disk0").IsWriteback);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Mode_that_cannot_be_kept_is_not_taken(bool writeback)
    {
        var mode = new CacheModeFile(_folder, "disk0");
        Assert.True(mode.TryKeep(!writeback, out _));
        Directory.Delete(_folder, recursive: true);
        Assert.False(mode.TryKeep(writeback, out var fault));
        Assert.Equal(Errno.ENOENT, fault.Errno);
        Assert.Equal(!writeback, mode.IsWriteback);
    }
}
