using System.Runtime.InteropServices;
using Virtbus.Platform;

namespace Virtbus.Tests.Platform;

/// <summary>What the host says of files, memory and this process.</summary>
public sealed class HostFactTests : IDisposable
{
    private readonly DirectoryInfo _folder = Directory.CreateTempSubdirectory("virtbus-facts");

    public void Dispose() => _folder.Delete(recursive: true);

    private string At(string name) => Path.Combine(_folder.FullName, name);

    [Fact]
    public void Files_are_described_with_or_without_the_link_that_leads_to_them()
    {
        File.WriteAllText(At("file"), "12345");
        File.SetUnixFileMode(At("file"), UnixFileMode.UserRead | UnixFileMode.GroupWrite | UnixFileMode.OtherExecute | UnixFileMode.SetUser);
        File.CreateSymbolicLink(At("link"), At("file"));
        Assert.True(FileStatus.TryGet(At("file"), out var file, out var error));
        Assert.Equal((FileKind.Regular, 5UL, Errno.None), (file.Kind, file.Size, error));
        Assert.True(FileStatus.TryGet(At("link"), out var link, out _));
        Assert.Equal(FileKind.Link, link.Kind);
        Assert.NotEqual(file.Inode, link.Inode);
        Assert.True(FileStatus.TryGetTarget(At("link"), out var target, out _));
        Assert.Equal(file, target);
        Assert.True(FileStatus.TryGet(_folder.FullName, out var folder, out _));
        Assert.Equal((FileKind.Directory, file.Device), (folder.Kind, folder.Device));
        Assert.True(FileStatus.TryGet("/dev/null", out var device, out _));
        Assert.Equal(FileKind.CharacterDevice, device.Kind);
        Assert.NotEqual(file.Device, device.Device);
        if (file.Born != 0)
            Assert.InRange(new DateTimeOffset(File.GetLastWriteTimeUtc(At("file"))).ToUnixTimeMilliseconds() - (file.Born / 1_000_000), -1000, Deadline.Milliseconds);
        Assert.False(FileStatus.TryGet(At("none"), out var none, out error));
        Assert.Equal((default, Errno.ENOENT), (none, error));

        Assert.True(FilePermissions.TryGet(At("link"), follow: true, out var permissions, out error));
        Assert.Equal((FileKind.Regular, FileOwner.CurrentUser, Errno.None), (permissions.Kind, permissions.Owner, error));
        Assert.Equal(UnixFileMode.UserRead | UnixFileMode.GroupWrite | UnixFileMode.OtherExecute | UnixFileMode.SetUser, permissions.Mode);
        Assert.True(FilePermissions.TryGet(At("link"), follow: false, out permissions, out _));
        Assert.Equal(FileKind.Link, permissions.Kind);
        Assert.False(FilePermissions.TryGet(At("none"), follow: true, out permissions, out error));
        Assert.Equal((default, Errno.ENOENT), (permissions, error));

        Assert.Equal(FileOwner.CurrentUser, FileOwner.Of(At("file")));
        Assert.Equal(Errno.ENOENT, Assert.Throws<VirtbusException>(() => FileOwner.Of(At("none"))).Errno);
    }

    [Fact]
    public void What_is_appended_comes_behind_what_others_wrote()
    {
        File.WriteAllText(At("log"), "one ");
        using (var file = AppendFile.TryOpen(At("log"), out var error))
        {
            Assert.NotNull(file);
            Assert.Equal((4L, Errno.None), (file.Length, error));
            Assert.True(file.TryWrite("two "u8, out error));
            Assert.Equal((8L, Errno.None), (file.Length, error));
            File.AppendAllText(At("log"), "three ");
            Assert.True(file.TryWrite("four"u8, out _));
            Assert.True(file.TryWrite([], out error));
            Assert.Equal((12L, Errno.None), (file.Length, error));
        }

        Assert.Equal("one two three four", File.ReadAllText(At("log")));
        using (AppendFile.TryOpen(At("new"), out _))
            Assert.Equal(UnixFileMode.UserRead | UnixFileMode.UserWrite, File.GetUnixFileMode(At("new")));
        Assert.Null(AppendFile.TryOpen(_folder.FullName, out var refused));
        Assert.Equal(Errno.EISDIR, refused);
        using var full = AppendFile.TryOpen("/dev/full", out _);
        Assert.False(full!.TryWrite("x"u8, out refused));
        Assert.Equal((0L, Errno.ENOSPC), (full.Length, refused));
    }

    [Fact]
    public void Budgets_are_what_proc_says()
    {
        Assert.Equal(("descriptors", "mappings", "threads"), (Budget.Descriptors.Name, Budget.Mappings.Name, Budget.Threads.Name));
        var before = Budget.Descriptors.Used;
        var more = Enumerable.Range(0, 50).Select(_ => new EventFd()).ToList();
        // The runtime opens and closes its own meanwhile.
        Assert.InRange(Budget.Descriptors.Used!.Value - before!.Value, 40, 60);
        more.ForEach(each => each.Dispose());
        Assert.Equal(long.Parse(File.ReadAllText("/proc/sys/vm/max_map_count"), System.Globalization.CultureInfo.InvariantCulture), Budget.Mappings.Limit);
        Assert.Equal(MappingLimits.Count, Budget.Mappings.Limit);
        Assert.InRange(Budget.Mappings.Used!.Value, 10, Budget.Mappings.Limit!.Value);
        Assert.InRange(Budget.Threads.Used!.Value, 2, 10_000);
        Assert.Equal(Libc.GetDescriptorLimit(), Budget.Descriptors.Limit);
        Assert.Null(new Budget("none", () => null, () => null).Used);
    }

    [Fact]
    public void Free_addresses_get_fewer_by_what_is_mapped()
    {
        // More than others map meanwhile.
        var size = nuint.CreateChecked(1UL << 40);
        using var file = MemoryFile.Create("virtbus-test", size);
        var before = MappingLimits.GetFreeBytes();
        Assert.InRange(before, 1UL << 30, 1UL << 57);
        using var mapping = Mapping.TryMap(file, 0, size, writable: true, out _);
        Assert.SkipWhen(mapping is null, "this host maps no 1 TiB");
        Assert.InRange(before - MappingLimits.GetFreeBytes(), size - (1 << 30), size + (1 << 30));
    }

    [Fact]
    public void File_is_mapped_from_where_it_is_said_and_as_it_may_be()
    {
        using var file = MemoryFile.Create("virtbus-part", 0x3000);
        using var all = Mapping.TryMap(file, 0, 0x3000, writable: true, out var error);
        using var part = Mapping.TryMap(file, 0x1000, 0x1000, writable: false, out _);
        Assert.Equal((Errno.None, (nuint)0x3000, (nuint)0x1000, false), (error, all!.Length, part!.Length, part.IsInvalid));
        Marshal.WriteInt64(all.Address + 0x1008, 42);
        Assert.Equal(42, Marshal.ReadInt64(part.Address + 8));
        var maps = File.ReadLines("/proc/self/maps").ToList();
        Assert.Contains(maps, line => line.StartsWith($"{all.Address:x}-{all.Address + 0x3000:x} rw-s", StringComparison.Ordinal));
        Assert.Contains(maps, line => line.StartsWith($"{part.Address:x}-{part.Address + 0x1000:x} r--s 00001000", StringComparison.Ordinal));
        Assert.Null(Mapping.TryMap(file, 1, 0x1000, writable: true, out error));
        Assert.Equal(Errno.EINVAL, error);
        part.Dispose();
        Assert.Single(File.ReadLines("/proc/self/maps"), line => line.Contains("/memfd:virtbus-part", StringComparison.Ordinal));
    }

    [Fact]
    public void Buffer_is_aligned_and_named_as_far_as_it_goes()
    {
        using var buffer = new AlignedBuffer(100, 4096);
        Assert.Equal((100, false, (nint)0), (buffer.Length, buffer.IsInvalid, buffer.Take(100).Address % 4096));
        Assert.Equal((nuint)7, buffer.Take(7).Length);
        Assert.Throws<ArgumentOutOfRangeException>(() => buffer.Take(101));
        Assert.Throws<ArgumentOutOfRangeException>(() => buffer.Take(-1));
        Assert.Throws<ArgumentOutOfRangeException>(() => new AlignedBuffer(0, 8));
    }

    [Fact]
    public void List_of_runs_is_cut_at_both_ends()
    {
        var pinned = GC.AllocateArray<IoVector>(4, pinned: true);
        for (var i = 0; i < pinned.Length; i++)
            pinned[i] = new IoVector(i, (nuint)(i + 10));
        var list = IoVectorList.OfPinned(pinned);
        Assert.Equal(pinned, list.AsSpan().ToArray());
        Assert.Equal(pinned[1..], list.Slice(1).AsSpan().ToArray());
        Assert.Equal(pinned[1..3], list.Slice(1, 2).AsSpan().ToArray());
        Assert.Equal(pinned[2..], list.Slice(2, 5).AsSpan().ToArray());
        Assert.Equal((0, 4), (list.Slice(4).Count, list.Count));
        Assert.Throws<ArgumentOutOfRangeException>(() => list.Slice(5));
        Assert.Throws<ArgumentOutOfRangeException>(() => list.Slice(-1));
    }
}
