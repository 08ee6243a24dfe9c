using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Text;
using Virtbus.Core;
using Virtbus.Platform;
using Virtbus.Transports.Fuse;

namespace Virtbus.Tests.Transports.Fuse;

/// <summary>What a mount answers the kernel, request by request. DL-14.</summary>
public sealed class FuseSessionTests
{
    private const string Place = "devices/one";
    private readonly FuseKernel _kernel = new();
    private readonly FuseDevice _device = new("one");

    private async Task AddAsync() => await _kernel.Fabric.AddAsync(_device);

    [Fact]
    public void Structures_are_as_long_as_the_kernel_has_them() => Assert.Equal(
        (88, 128, 104, 64, 16, 40, 24, 80, 24),
        (Unsafe.SizeOf<FuseAttributes>(), Unsafe.SizeOf<FuseEntryOut>(), Unsafe.SizeOf<FuseAttrOut>(), Unsafe.SizeOf<FuseInitOut>(), Unsafe.SizeOf<FuseOpenOut>(),
            Unsafe.SizeOf<FuseTransferIn>(), Unsafe.SizeOf<FusePollIn>(), Unsafe.SizeOf<FuseStatfsOut>(), Unsafe.SizeOf<FuseDirent>()));

    [Theory]
    [InlineData(7u, 45u, 40u)]
    [InlineData(7u, 31u, 31u)]
    [InlineData(8u, 0u, 0u)]
    public void Version_is_the_older_one_of_both_and_features_those_that_both_have(uint major, uint minor, uint agreed)
    {
        var body = new byte[64];
        MemoryMarshal.Write(body, major);
        MemoryMarshal.Write(body.AsSpan(4), minor);
        MemoryMarshal.Write(body.AsSpan(12), FuseProtocol.FUSE_DO_READDIRPLUS | FuseProtocol.FUSE_CACHE_SYMLINKS | (1u << 30));
        var (errno, answer) = _kernel.Ask(FuseOpcode.FUSE_INIT, 0, body);
        Assert.Equal(Errno.None, errno);
        var init = MemoryMarshal.Read<FuseInitOut>(answer);
        Assert.Equal((7u, agreed, FuseProtocol.FUSE_DO_READDIRPLUS | FuseProtocol.FUSE_CACHE_SYMLINKS, (uint)FuseProtocol.MaxWrite), (init.Major, init.Minor, init.Flags, init.MaxWrite));
    }

    [Theory]
    [InlineData(6u, 40u, 64)]
    [InlineData(7u, 22u, 64)]
    [InlineData(7u, 40u, 12)]
    public void Kernel_that_is_too_old_is_refused(uint major, uint minor, int length)
    {
        var body = new byte[length];
        MemoryMarshal.Write(body, major);
        MemoryMarshal.Write(body.AsSpan(4), minor);
        Assert.Equal(Errno.EPROTO, _kernel.Ask(FuseOpcode.FUSE_INIT, 0, body).Errno);
    }

    [Theory]
    [InlineData(Place, 0x41ED, 0)]
    [InlineData(Place + "/fixed", 0x8124, 4096)]
    [InlineData(Place + "/value", 0x81A4, 4096)]
    [InlineData(Place + "/command", 0x8080, 4096)]
    [InlineData(Place + "/bytes", 0x81A4, FuseDevice.BytesSize)]
    public async Task File_says_what_one_of_sysfs_says(string path, int mode, int size)
    {
        await AddAsync();
        var entry = _kernel.Walk(path);
        Assert.Equal(((uint)mode, (ulong)size, FuseKernel.Owner, 7u), (entry.Attr.Mode, entry.Attr.Size, entry.Attr.Uid, entry.Attr.Gid));
        Assert.Equal(entry.NodeId, entry.Attr.Ino);
        Assert.True(entry is { EntryValid: > 0, AttrValid: > 0 });
        var (errno, body) = _kernel.Ask(FuseOpcode.FUSE_GETATTR, entry.NodeId, new byte[16]);
        Assert.Equal(Errno.None, errno);
        Assert.Equal(entry.Attr, MemoryMarshal.Read<FuseAttrOut>(body).Attr);
    }

    [Fact]
    public async Task Link_is_relative_and_as_long_as_it_says()
    {
        var child = new FuseDevice("below", _device);
        await AddAsync();
        await _kernel.Fabric.AddAsync(child);
        var @class = _kernel.Fabric.RegisterClass(new Class("kind"));
        await _kernel.Fabric.AddAsync(new Device("of", child, null, @class));
        foreach (var (path, text) in new[]
        {
            ("class/kind/of", "../../devices/one/below/kind/of"),
            ("devices/one/below/kind/of/device", "../../../below"),
            ("devices/one/below/kind/of/subsystem", "../../../../../class/kind"),
        })
        {
            var link = _kernel.Walk(path);
            Assert.Equal((0xA1FFu, (ulong)text.Length), (link.Attr.Mode, link.Attr.Size));
            Assert.Equal(text, Encoding.UTF8.GetString(_kernel.Ask(FuseOpcode.FUSE_READLINK, link.NodeId, []).Body));
        }

        Assert.Equal(Errno.EINVAL, _kernel.Ask(FuseOpcode.FUSE_READLINK, _kernel.Walk(Place).NodeId, []).Errno);
    }

    [Theory]
    [InlineData("nothing")]
    [InlineData("")]
    [InlineData("fixed\0x")]
    public async Task What_is_not_there_is_ENOENT(string name)
    {
        await AddAsync();
        Assert.Equal(Errno.ENOENT, _kernel.Ask(FuseOpcode.FUSE_LOOKUP, _kernel.Walk(Place).NodeId, FuseKernel.Name(name)).Errno);
        Assert.Equal(Errno.ENOENT, _kernel.Ask(FuseOpcode.FUSE_LOOKUP, _kernel.Walk(Place + "/fixed").NodeId, FuseKernel.Name("fixed")).Errno);
        Assert.Equal(Errno.ENOENT, _kernel.Ask(FuseOpcode.FUSE_GETATTR, 999_999, new byte[16]).Errno);
        Assert.Equal(Errno.ENOTDIR, _kernel.Ask(FuseOpcode.FUSE_OPENDIR, _kernel.Walk(Place + "/fixed").NodeId, new byte[8]).Errno);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task Folder_is_listed_in_pieces_and_each_entry_comes_once(bool isPlus)
    {
        await AddAsync();
        const int count = 300;
        for (var i = 0; i < count; i++)
            await _kernel.Fabric.AddAsync(new Device($"child{i}", _device));
        var folder = _kernel.Walk(Place).NodeId;
        var (_, opened) = _kernel.Ask(FuseOpcode.FUSE_OPENDIR, folder, new byte[8]);
        var handle = MemoryMarshal.Read<FuseOpenOut>(opened).Handle;
        // What comes later is not in it.
        await _kernel.Fabric.AddAsync(new Device("late", _device));
        List<(string Name, uint Type, ulong Ino)> entries = [];
        ulong next = 0;
        byte[] piece;
        while ((piece = _kernel.Ask(isPlus ? FuseOpcode.FUSE_READDIRPLUS : FuseOpcode.FUSE_READDIR, folder, FuseKernel.Transfer(handle, next, 1000)).Body).Length > 0)
        {
            Assert.InRange(piece.Length, 1, 1000);
            for (var at = 0; at < piece.Length;)
            {
                var entry = isPlus ? MemoryMarshal.Read<FuseEntryOut>(piece.AsSpan(at)) : default;
                at += isPlus ? Unsafe.SizeOf<FuseEntryOut>() : 0;
                var dirent = MemoryMarshal.Read<FuseDirent>(piece.AsSpan(at));
                var name = Encoding.UTF8.GetString(piece, at + FuseProtocol.DirentSize, (int)dirent.NameLength);
                at += (FuseProtocol.DirentSize + (int)dirent.NameLength + 7) & ~7;
                next = dirent.Offset;
                entries.Add((name, dirent.Type, dirent.Ino));
                // The two dots are not told of.
                if (isPlus)
                    Assert.Equal(name is "." or ".." ? 0 : dirent.Ino, entry.NodeId);
            }
        }

        Assert.Equal([".", ".."], entries.Take(2).Select(static e => e.Name));
        Assert.Equal((folder, FuseKernel.Root + 1), (entries[0].Ino, entries[1].Ino));
        Assert.Equal(entries.Count, entries.Select(static e => e.Name).Distinct().Count());
        Assert.Equal(count, entries.Count(static e => e.Name.StartsWith("child", StringComparison.Ordinal) && e.Type == 4));
        Assert.Contains(entries, static e => e is { Name: "fixed", Type: 8 });
        Assert.DoesNotContain(entries, static e => e.Name == "late");
        Assert.All(entries, static e => Assert.NotEqual(0UL, e.Ino));
    }

    [Fact]
    public async Task Value_is_made_when_it_is_read_from_the_start_and_stays_so_for_who_reads_on()
    {
        await AddAsync();
        var node = _kernel.Walk(Place + "/value").NodeId;
        var (one, two) = (_kernel.Open(node), _kernel.Open(node));
        Assert.Equal("first\n"u8, _kernel.Read(node, one).Body);
        _device.Value = "second";
        Assert.Equal("rst\n"u8, _kernel.Read(node, one, 2).Body);
        Assert.Equal("se"u8, _kernel.Read(node, two, 0, 2).Body);
        Assert.Equal("cond\n"u8, _kernel.Read(node, two, 2).Body);
        Assert.Equal("second\n"u8, _kernel.Read(node, one).Body);
        Assert.Empty(_kernel.Read(node, one, 7).Body);
        Assert.Empty(_kernel.Read(node, one, ulong.MaxValue).Body);
    }

    [Fact]
    public async Task Long_value_comes_whole()
    {
        await AddAsync();
        var node = _kernel.Walk(Place + "/long").NodeId;
        var handle = _kernel.Open(node);
        var text = new StringBuilder();
        byte[] piece;
        while ((piece = _kernel.Read(node, handle, (ulong)text.Length).Body).Length > 0)
            text.Append(Encoding.UTF8.GetString(piece));
        Assert.Equal(string.Concat(Enumerable.Range(0, 20_000).Select(static i => $"{i}\n")), text.ToString());
    }

    [Theory]
    [InlineData("later\n", "later")]
    [InlineData("later", "later")]
    [InlineData("later\0", "later")]
    [InlineData("later\n\0", "later")]
    public async Task Write_ends_at_a_newline_or_a_NUL(string text, string value)
    {
        await AddAsync();
        var node = _kernel.Walk(Place + "/value").NodeId;
        var handle = _kernel.Open(node, FuseProtocol.O_WRONLY);
        var (errno, answer) = _kernel.Write(node, handle, Encoding.UTF8.GetBytes(text));
        Assert.Equal((Errno.None, text.Length), (errno, MemoryMarshal.Read<int>(answer)));
        Assert.Equal((value, 8), (_device.Value, answer.Length));
    }

    [Fact]
    public async Task What_the_object_answers_is_the_writer_s_and_the_reader_s_errno()
    {
        await AddAsync();
        var node = _kernel.Walk(Place + "/value").NodeId;
        var handle = _kernel.Open(node, 2);
        Assert.Equal(Errno.EINVAL, _kernel.Write(node, handle, "\n"u8).Errno);
        Assert.Equal(Errno.EINVAL, _kernel.Write(node, handle, [0xFF, 0xFE]).Errno);
        Assert.Equal(Errno.EINVAL, _kernel.Write(node, handle, new byte[4097]).Errno);
        Assert.Equal(Errno.EINVAL, _kernel.Ask(FuseOpcode.FUSE_WRITE, node, FuseKernel.Transfer(handle, 0, 9, "four"u8)).Errno);
        Assert.Equal("first", _device.Value);
        var refusing = _kernel.Walk(Place + "/refusing").NodeId;
        Assert.Equal(Errno.EBUSY, _kernel.Read(refusing, _kernel.Open(refusing)).Errno);
        // A bug is told to the log, once for all that follow, and costs nobody else anything.
        var broken = _kernel.Walk(Place + "/broken").NodeId;
        Assert.Equal(Errno.EIO, _kernel.Read(broken, _kernel.Open(broken)).Errno);
        Assert.Contains(_kernel.Log.Lines, static l => l.Contains("failed by a bug", StringComparison.Ordinal));
        Assert.Equal("as ever\n", _kernel.ReadText(Place + "/fixed"));
    }

    [Theory]
    [InlineData("fixed", 0u, Errno.None)]
    [InlineData("fixed", 1u, Errno.EACCES)]
    [InlineData("fixed", 2u, Errno.EACCES)]
    [InlineData("command", 0u, Errno.EACCES)]
    [InlineData("command", 1u, Errno.None)]
    [InlineData("command", 2u, Errno.EACCES)]
    [InlineData("value", 2u, Errno.None)]
    [InlineData("more", 0u, Errno.EISDIR)]
    public async Task File_is_opened_for_what_it_can_by_root_too(string name, uint flags, Errno errno)
    {
        await AddAsync();
        Assert.Equal(errno, _kernel.Ask(FuseOpcode.FUSE_OPEN, _kernel.Walk($"{Place}/{name}").NodeId, FuseKernel.Words(flags), user: 0).Errno);
    }

    [Fact]
    public async Task Bytes_are_read_and_written_where_they_are()
    {
        await AddAsync();
        var node = _kernel.Walk(Place + "/bytes").NodeId;
        var handle = _kernel.Open(node, 2);
        Assert.Equal(_device.Bytes[100..104], _kernel.Read(node, handle, 100, 4).Body);
        Assert.Equal(Errno.None, _kernel.Write(node, handle, [1, 2, 3], 200).Errno);
        Assert.Equal([1, 2, 3, 203], _device.Bytes[200..204]);
        // Up to its end and no further.
        var (errno, answer) = _kernel.Write(node, handle, [9, 9, 9, 9], FuseDevice.BytesSize - 2);
        Assert.Equal((Errno.None, 2), (errno, MemoryMarshal.Read<int>(answer)));
        Assert.Equal(2, _kernel.Read(node, handle, FuseDevice.BytesSize - 2, 100).Body.Length);
        Assert.Equal(Errno.EFBIG, _kernel.Write(node, handle, [9], FuseDevice.BytesSize).Errno);
        Assert.Empty(_kernel.Read(node, handle, ulong.MaxValue, 100).Body);
    }

    [Theory]
    [InlineData(FuseKernel.Owner, 0, FuseDevice.BytesSize)]
    [InlineData(0u, 0, FuseDevice.BytesSize)]
    [InlineData(1001u, 0, FuseDevice.PublicBytes)]
    [InlineData(1001u, 60, 4)]
    [InlineData(1001u, 64, 0)]
    [InlineData(1001u, 65, 0)]
    public async Task Who_does_not_own_the_fabric_reads_what_is_for_everybody(uint user, int offset, int count)
    {
        await AddAsync();
        var node = _kernel.Walk(Place + "/bytes").NodeId;
        var (errno, body) = _kernel.Read(node, _kernel.Open(node), (ulong)offset, FuseDevice.BytesSize, user);
        Assert.Equal((Errno.None, count), (errno, body.Length));
    }

    [Fact]
    public async Task Write_that_takes_long_keeps_nobody_else_waiting()
    {
        await AddAsync();
        var done = new TaskCompletionSource();
        _device.OnCommand = (_, _) => new ValueTask(done.Task);
        var node = _kernel.Walk(Place + "/command").NodeId;
        var write = _kernel.Begin(FuseOpcode.FUSE_WRITE, node, FuseKernel.Transfer(_kernel.Open(node, 1), 0, 1, "1"u8));
        Assert.Equal("as ever\n", _kernel.ReadText(Place + "/fixed"));
        Assert.False(_kernel.IsAnswered(write));
        done.SetResult();
        Assert.Equal(Errno.None, _kernel.End(write).Errno);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task Writer_that_is_interrupted_is_answered_at_once_and_once(bool listens)
    {
        await AddAsync();
        var (done, ended) = (new TaskCompletionSource(), new TaskCompletionSource<bool>(TaskCreationOptions.RunContinuationsAsynchronously));
        _device.OnCommand = async (_, cancel) =>
        {
            try
            {
                await done.Task.WaitAsync(listens ? cancel : CancellationToken.None);
            }
            finally
            {
                ended.SetResult(cancel.IsCancellationRequested);
            }
        };
        var node = _kernel.Walk(Place + "/command").NodeId;
        var write = _kernel.Begin(FuseOpcode.FUSE_WRITE, node, FuseKernel.Transfer(_kernel.Open(node, 1), 0, 1, "1"u8));
        // It may be about to begin: then the kernel asks again.
        var interrupt = _kernel.Begin(FuseOpcode.FUSE_INTERRUPT, 0, FuseKernel.Words(write));
        Assert.False(_kernel.IsAnswered(interrupt));
        Assert.Equal(Errno.EINTR, _kernel.End(write).Errno);
        done.SetResult();
        Assert.True(await ended.Task.In());
        // What ended by itself meanwhile is not told again.
        Deadline.Until(() => _kernel.IsAnswered(_kernel.Begin(FuseOpcode.FUSE_INTERRUPT, 0, FuseKernel.Words(write))), "the write to be over");
        Assert.False(_kernel.IsAnswered(write));
        Assert.Equal(0, _kernel.Unasked);
    }

    [Fact]
    public async Task Write_is_answered_when_what_it_set_off_is_done_too()
    {
        var done = new TaskCompletionSource();
        var kernel = new FuseKernel(settle: _ => done.Task);
        await kernel.Fabric.AddAsync(_device);
        var node = kernel.Walk(Place + "/value").NodeId;
        var write = kernel.Begin(FuseOpcode.FUSE_WRITE, node, FuseKernel.Transfer(kernel.Open(node, 1), 0, 1, "1"u8));
        Deadline.Until(() => _device.Value == "1", "the value");
        Assert.False(kernel.IsAnswered(write));
        done.SetResult();
        Assert.Equal(Errno.None, kernel.End(write).Errno);
    }

    [Fact]
    public async Task Object_that_is_gone_is_ENODEV_to_who_has_it_open_and_ENOENT_to_who_looks()
    {
        await AddAsync();
        var (folder, node, inner) = (_kernel.Walk(Place).NodeId, _kernel.Walk(Place + "/value").NodeId, _kernel.Walk(Place + "/more").NodeId);
        var (handle, bytes) = (_kernel.Open(node, 2), _kernel.Walk(Place + "/bytes").NodeId);
        var raw = _kernel.Open(bytes, 2);
        _kernel.Read(node, handle);
        await _kernel.Fabric.DeleteAsync(_device);
        Assert.Equal(Errno.ENODEV, _kernel.Read(node, handle).Errno);
        Assert.Equal(Errno.ENODEV, _kernel.Write(node, handle, "x"u8).Errno);
        Assert.Equal(Errno.ENODEV, _kernel.Read(bytes, raw).Errno);
        Assert.Equal(Errno.ENODEV, _kernel.Write(bytes, raw, [1]).Errno);
        Assert.Equal(Errno.ENODEV, _kernel.Ask(FuseOpcode.FUSE_OPEN, node, FuseKernel.Words(0)).Errno);
        Assert.Equal(Errno.ENOENT, _kernel.Ask(FuseOpcode.FUSE_LOOKUP, folder, FuseKernel.Name("value")).Errno);
        Assert.Equal(Errno.ENOENT, _kernel.Ask(FuseOpcode.FUSE_LOOKUP, inner, FuseKernel.Name("inner")).Errno);
        Assert.Equal(Errno.ENOENT, _kernel.Ask(FuseOpcode.FUSE_OPENDIR, folder, new byte[8]).Errno);
        // One of the same name that comes then is another one, by another number.
        await _kernel.Fabric.AddAsync(new FuseDevice("one"));
        Assert.NotEqual(folder, _kernel.Walk(Place).NodeId);
        Assert.Equal(Errno.ENODEV, _kernel.Read(node, handle).Errno);
        Assert.Equal("first\n", _kernel.ReadText(Place + "/value"));
    }

    [Fact]
    public async Task Names_and_files_that_the_kernel_forgot_are_forgotten()
    {
        await AddAsync();
        var (folder, node) = (_kernel.Walk(Place), _kernel.Walk(Place + "/value"));
        var handle = _kernel.Open(node.NodeId);
        Assert.Equal((4, 1), (_kernel.Session.Nodes.Count, _kernel.Session.Handles.Count));
        _kernel.Ask(FuseOpcode.FUSE_RELEASE, node.NodeId, FuseKernel.Words(handle, 0, 0));
        Assert.Equal(Errno.EBADF, _kernel.Read(node.NodeId, handle).Errno);
        Assert.Equal(0, _kernel.Session.Handles.Count);
        // Told of it twice, so once is not enough; in whatever order.
        var devices = _kernel.LookUp(FuseKernel.Root, "devices").NodeId;
        _kernel.Begin(FuseOpcode.FUSE_FORGET, devices, FuseKernel.Words(100));
        _kernel.Begin(FuseOpcode.FUSE_FORGET, folder.NodeId, FuseKernel.Words(1));
        Assert.Equal(4, _kernel.Session.Nodes.Count);
        _kernel.Begin(FuseOpcode.FUSE_BATCH_FORGET, 0, [.. FuseKernel.Words(2), .. FuseKernel.Words(folder.NodeId, 1), .. FuseKernel.Words(node.NodeId, 1)]);
        Assert.Equal(1, _kernel.Session.Nodes.Count);
        Assert.Equal("first\n", _kernel.ReadText(Place + "/value"));
    }

    [Fact]
    public async Task Full_table_of_names_is_ENOMEM_until_some_are_forgotten()
    {
        var kernel = new FuseKernel(maxNames: 4);
        await kernel.Fabric.AddAsync(_device);
        var folder = kernel.Walk(Place).NodeId;
        var first = kernel.LookUp(folder, "fixed").NodeId;
        Assert.Equal(Errno.ENOMEM, kernel.Ask(FuseOpcode.FUSE_LOOKUP, folder, FuseKernel.Name("value")).Errno);
        // A list has the names all the same.
        var handle = MemoryMarshal.Read<FuseOpenOut>(kernel.Ask(FuseOpcode.FUSE_OPENDIR, folder, new byte[8]).Body).Handle;
        Assert.True(kernel.Ask(FuseOpcode.FUSE_READDIRPLUS, folder, FuseKernel.Transfer(handle, 0, 4096)).Body.Length > 1000);
        Assert.Equal(4, kernel.Session.Nodes.Count);
        kernel.Begin(FuseOpcode.FUSE_FORGET, first, FuseKernel.Words(2));
        kernel.LookUp(folder, "value");
    }

    [Fact]
    public async Task Poll_says_that_a_file_changed_until_it_is_read()
    {
        await AddAsync();
        var node = _kernel.Walk(Place + "/value").NodeId;
        var handle = _kernel.Open(node);
        const uint ready = FuseProtocol.POLLIN | FuseProtocol.POLLOUT | FuseProtocol.POLLRDNORM | FuseProtocol.POLLWRNORM;
        const uint changed = ready | FuseProtocol.POLLPRI | FuseProtocol.POLLERR;
        // Before the first read, as of sysfs.
        Assert.Equal(changed, Poll());
        _kernel.Read(node, handle);
        Assert.Equal(ready, Poll());
        await _kernel.Fabric.DeleteAsync(_device);
        Assert.Equal(changed, Poll());

        uint Poll() => MemoryMarshal.Read<uint>(_kernel.Ask(FuseOpcode.FUSE_POLL, node, FuseKernel.Words(handle, 1, FuseProtocol.FUSE_POLL_SCHEDULE_NOTIFY)).Body);
    }

    // CREATE, MKNOD, MKDIR, UNLINK, RMDIR, RENAME2, SYMLINK, IOCTL, STATFS, GETXATTR, ACCESS, and none.
    [Theory]
    [InlineData(35, Errno.EACCES)]
    [InlineData(8, Errno.EACCES)]
    [InlineData(9, Errno.EPERM)]
    [InlineData(10, Errno.EPERM)]
    [InlineData(11, Errno.EPERM)]
    [InlineData(45, Errno.EPERM)]
    [InlineData(6, Errno.EPERM)]
    [InlineData(39, Errno.ENOTTY)]
    [InlineData(17, Errno.None)]
    [InlineData(22, Errno.ENOSYS)]
    [InlineData(34, Errno.ENOSYS)]
    [InlineData(4711, Errno.ENOSYS)]
    public void What_a_file_system_of_attributes_does_not_do_has_sysfs_s_errno(int opcode, Errno errno) =>
        Assert.Equal(errno, _kernel.Ask((FuseOpcode)opcode, FuseKernel.Root, FuseKernel.Name("new")).Errno);

    [Theory]
    [InlineData(0u, Errno.None)]
    [InlineData(8u, Errno.None)]
    [InlineData(0x30u, Errno.None)]
    [InlineData(1u, Errno.EPERM)]
    [InlineData(2u, Errno.EPERM)]
    [InlineData(4u, Errno.EPERM)]
    public async Task File_is_cut_short_and_touched_without_effect_and_keeps_mode_and_owner(uint what, Errno errno)
    {
        await AddAsync();
        var body = new byte[88];
        MemoryMarshal.Write(body, what);
        Assert.Equal(errno, _kernel.Ask(FuseOpcode.FUSE_SETATTR, _kernel.Walk(Place + "/value").NodeId, body).Errno);
        Assert.Equal("first", _device.Value);
    }

    [Fact]
    public void Message_that_is_none_is_told_of_and_dropped()
    {
        _kernel.Give(new byte[39]);
        _kernel.Give(new byte[40]);
        Assert.Equal(2, _kernel.Log.Lines.Count(static l => l.Contains("is no FUSE request", StringComparison.Ordinal)));
        _kernel.Ask(FuseOpcode.FUSE_DESTROY, 0, []);
        Assert.True(_kernel.Session.IsOver);
    }
}
