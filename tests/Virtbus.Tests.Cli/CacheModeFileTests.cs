using Virtbus.Daemon.Provisioning;
using Virtbus.Platform;
using Xunit;

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
