using System.Diagnostics;
using Virtbus.Block;
using Virtbus.Platform;

namespace Virtbus.Tests.Block;

/// <summary>An image is one program's to write, also where the other one is QEMU.</summary>
public sealed class ImageLockTests : IDisposable
{
    // What a guest's disk that QEMU writes has: reads, writes; nobody else writes.
    private static readonly long[] Writer = [100, 101, 201];
    private static readonly long[] Reader = [100, 201];
    private readonly BlockDisks _disks = new();

    public void Dispose() => _disks.Dispose();

    [Fact]
    public void Image_that_another_program_writes_is_no_disk()
    {
        using var other = Hold(Writer);
        Assert.Equal(Errno.EBUSY, Assert.Throws<VirtbusException>(() => FileBackend.Open(other.Path)).Errno);
        Assert.Equal(Errno.EBUSY, Assert.Throws<VirtbusException>(() => FileBackend.Open(other.Path, readOnly: true)).Errno);
    }

    [Fact]
    public void Image_that_another_program_reads_is_a_disk_to_read()
    {
        using var other = Hold(Reader);
        Assert.Equal(Errno.EBUSY, Assert.Throws<VirtbusException>(() => FileBackend.Open(other.Path)).Errno);
        using var one = FileBackend.Open(other.Path, readOnly: true);
        using var two = FileBackend.Open(other.Path, readOnly: true);
        // None of the three is a writer.
        Assert.False(other.File.IsRangeLocked(101, 1));
    }

    [Fact]
    public void Other_program_sees_what_a_disk_does_with_the_image_and_when_that_has_ended()
    {
        using var other = Hold([]);
        var disk = FileBackend.Open(other.Path);
        disk.Way = FileWay.Uring;
        var channel = disk.OpenChannel(4);
        Assert.Equal([true, true, true, true], Array.ConvertAll([100L, 101, 201, 203], at => other.File.IsRangeLocked(at, 1)));
        // To read what is written, by who asks for that, is nobody's harm.
        Assert.False(other.File.IsRangeLocked(200, 1));
        channel.Dispose();
        disk.Dispose();
        Assert.False(other.File.IsRangeLocked(0, 1000));
    }

    [Fact]
    public void Tool_of_QEMU_keeps_off_a_disk_that_is_open()
    {
        using var disk = _disks.OpenFile("cached");
        var path = _disks.PathOf("cached");
        Assert.SkipUnless(TryRun(["--version"], out var missing) == 0, missing);
        Assert.NotEqual(0, TryRun(["resize", "-f", "raw", path, "1M"], out var text));
        Assert.Contains("lock", text, StringComparison.Ordinal);
    }

    private Held Hold(long[] bytes)
    {
        var path = _disks.PathOf("cached");
        File.WriteAllBytes(path, new byte[BlockDisks.Size]);
        var file = FileDescriptor.TryOpen(path, writable: true, out _)!;
        foreach (var at in bytes)
            Assert.Equal(Errno.None, file.ShareLock(at, 1));
        return new Held(path, file);
    }

    private static int TryRun(string[] arguments, out string text)
    {
        try
        {
            using var process = Process.Start(new ProcessStartInfo("qemu-img", arguments) { RedirectStandardError = true, RedirectStandardOutput = true, UseShellExecute = false })!;
            text = process.StandardError.ReadToEnd();
            process.WaitForExit();
            return process.ExitCode;
        }
        catch (System.ComponentModel.Win32Exception)
        {
            text = "there is no qemu-img";
            return -1;
        }
    }

    private sealed record Held(string Path, FileDescriptor File) : IDisposable
    {
        public void Dispose() => File.Dispose();
    }
}
