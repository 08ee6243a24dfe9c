using System.Text;
using Virtbus.Core;
using Virtbus.Platform;
using Virtbus.Transports.Fuse;

namespace Virtbus.Tests.Transports.Fuse;

/// <summary>A mount under the host's own kernel.</summary>
public sealed class FuseMountTests
{
    [Fact]
    public async Task Tree_is_read_written_and_listed_by_file_calls()
    {
        await using var rig = await FuseRig.MakeAsync();
        Assert.Equal("as ever\n", await File.ReadAllTextAsync(rig.At("devices/one/fixed"), TestContext.Current.CancellationToken));
        await File.WriteAllTextAsync(rig.At("devices/one/value"), "second\n", TestContext.Current.CancellationToken);
        Assert.Equal(("second", "second\n"), (rig.Device.Value, File.ReadAllText(rig.At("devices/one/value"))));
        Assert.Equal(["broken", "bytes", "command", "fixed", "long", "refusing", "uevent", "value"], Directory.GetFiles(rig.At("devices/one")).Select(Path.GetFileName).Order(StringComparer.Ordinal));
        Assert.Equal(["more", "power"], Directory.GetDirectories(rig.At("devices/one")).Select(Path.GetFileName).Order(StringComparer.Ordinal));
        Assert.Equal(88_890 + 20_000, File.ReadAllText(rig.At("devices/one/long")).Length);
        Assert.Equal(rig.Device.Bytes, await File.ReadAllBytesAsync(rig.At("devices/one/bytes"), TestContext.Current.CancellationToken));
        Assert.Equal(FuseDevice.BytesSize, new FileInfo(rig.At("devices/one/bytes")).Length);
        Assert.Throws<UnauthorizedAccessException>(() => File.ReadAllText(rig.At("devices/one/command")));
        Assert.Throws<UnauthorizedAccessException>(() => File.WriteAllText(rig.At("devices/one/new"), ""));
        Assert.ThrowsAny<IOException>(() => Directory.Delete(rig.At("devices/one/more")));
        Assert.Throws<IOException>(() => File.ReadAllText(rig.At("devices/one/refusing")));
        Assert.Equal("..", Path.GetDirectoryName(new FileInfo(rig.At("class/kind/of")).LinkTarget!)![..2]);
        Assert.Equal("kind", new DirectoryInfo(rig.At("class/kind/of/subsystem")).ResolveLinkTarget(returnFinalTarget: true)!.Name);
    }

    [Fact]
    public async Task What_was_there_a_moment_ago_is_not_found_and_answers_who_has_it_open_that_it_is_gone()
    {
        await using var rig = await FuseRig.MakeAsync();
        var device = new FuseDevice("two");
        await rig.Fabric.AddAsync(device);
        using var open = File.OpenRead(rig.At("devices/two/value"));
        await rig.Fabric.DeleteAsync(device);
        Assert.Contains("No such device", Assert.Throws<IOException>(() => open.ReadByte()).Message, StringComparison.Ordinal);
        Deadline.Until(() => !Directory.Exists(rig.At("devices/two")), "the folder to be gone");
        Assert.DoesNotContain(Directory.GetDirectories(rig.At("devices")), static f => f.EndsWith("two", StringComparison.Ordinal));
    }

    [Fact]
    public async Task Several_read_and_write_at_once_while_one_write_hangs()
    {
        await using var rig = await FuseRig.MakeAsync();
        var done = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        rig.Device.OnCommand = (_, _) => new ValueTask(done.Task);
        var hangs = Task.Run(() => File.WriteAllText(rig.At("devices/one/command"), "1"), TestContext.Current.CancellationToken);
        var readers = Enumerable.Range(0, 4).Select(_ => Task.Run(() =>
        {
            for (var i = 0; i < 200; i++)
                Assert.Equal("as ever\n", File.ReadAllText(rig.At("devices/one/fixed")));
        })).ToArray();
        await Task.WhenAll(readers).In();
        Assert.False(hangs.IsCompleted);
        done.SetResult();
        await hangs.In();
        Deadline.Until(() => rig.Mount.OpenFiles == 0, "the files to be closed");
    }

    [Fact]
    public async Task End_of_the_server_is_an_error_to_who_waits_and_to_who_comes()
    {
        await using var rig = await FuseRig.MakeAsync();
        var never = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        var begun = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        rig.Device.OnCommand = (_, _) =>
        {
            begun.SetResult();
            return new ValueTask(never.Task);
        };
        var hangs = Task.Run(() => File.WriteAllText(rig.At("devices/one/command"), "1"), TestContext.Current.CancellationToken);
        await begun.Task.In();
        await rig.Mount.DisposeAsync().In();
        await Assert.ThrowsAnyAsync<IOException>(() => hangs.In());
        Assert.ThrowsAny<IOException>(() => File.ReadAllText(rig.At("devices/one/fixed")));
        never.SetResult();
    }

    [Fact]
    public async Task Mount_that_is_taken_away_ends_with_its_last_open_file()
    {
        await using var rig = await FuseRig.MakeAsync();
        var open = File.OpenRead(rig.At("devices/one/fixed"));
        Assert.Equal(Errno.None, HostMounts.Unmount(rig.Folder));
        Assert.Empty(Directory.GetFileSystemEntries(rig.Folder));
        Assert.Equal('a', open.ReadByte());
        Assert.False(rig.Mount.Ended.IsCompleted);
        open.Dispose();
        await rig.Mount.Ended.In();
    }

    [Fact]
    public async Task Ten_thousand_open_files_are_served_and_forgotten()
    {
        await using var rig = await FuseRig.MakeAsync();
        var descriptors = Kernel.DescriptorsBefore();
        var most = Math.Min(10_000, Budget.Descriptors.Limit is { } limit ? limit - descriptors - 200 : 10_000);
        Assert.SkipWhen(most < 10_000, "This host gives a process fewer than 10,000 open files.");
        var files = Enumerable.Range(0, (int)most).Select(_ => File.OpenRead(rig.At("devices/one/value"))).ToArray();
        Assert.Equal(files.Length, rig.Mount.OpenFiles);
        Assert.All(files, static f => Assert.Equal('f', f.ReadByte()));
        foreach (var file in files)
            file.Dispose();
        Deadline.Until(() => rig.Mount.OpenFiles == 0, "the files to be closed");
        Assert.Equal(descriptors, Kernel.Descriptors);
    }

    [Fact]
    public async Task Hundred_mounts_leave_no_descriptor()
    {
        const int rounds = 100;
        await RoundAsync();
        var descriptors = Kernel.DescriptorsBefore();
        for (var i = 0; i < rounds; i++)
            await RoundAsync();
        Assert.Equal(descriptors, Kernel.Descriptors);

        static async Task RoundAsync()
        {
            await using var rig = await FuseRig.MakeAsync();
            Assert.Equal("as ever\n", await File.ReadAllTextAsync(rig.At("devices/one/fixed")));
        }
    }

    [Fact]
    public async Task Mount_is_handed_over_by_the_socket_and_refused_in_words_when_it_is_none()
    {
        await using var rig = await FuseRig.MakeAsync();
        using var folder = new TemporaryFolder();
        await using var mounts = FuseMounts.Listen(rig.Fabric, folder.At("mount.sock"));
        using (var connection = UnixStream.TryConnect(mounts.Path, out _)!)
            Assert.Equal(Errno.EINVAL, Assert.Throws<VirtbusException>(() => FuseMounts.Ask(connection, FileDescriptor.TryOpen("/dev/null", writable: true, out _)!, new FuseMountRequest("", 0, 0))).Errno);
        using (var connection = UnixStream.TryConnect(mounts.Path, out _)!)
        {
            connection.Send("no json\n"u8, [], out _);
            var answer = new byte[200];
            Assert.True(Polling.Wait(connection.Descriptor, forWriting: false, null, (int)Deadline.Limit.TotalMilliseconds));
            Assert.Contains("is no mount", Encoding.UTF8.GetString(answer, 0, connection.Receive(answer, [], out _)), StringComparison.Ordinal);
        }

        Assert.Empty(mounts.Mounts);
        var place = Directory.CreateDirectory(folder.At("m")).FullName;
        using (var device = FuseFile.TryOpen(out _)!)
        {
            Assert.Equal(Errno.None, HostMounts.MountFuse(device, "virtbus", place, forOthers: true));
            using var connection = UnixStream.TryConnect(mounts.Path, out _)!;
            FuseMounts.Ask(connection, device, new FuseMountRequest(place, 0, 0));
        }

        Assert.Equal("as ever\n", await File.ReadAllTextAsync(place + "/devices/one/fixed", TestContext.Current.CancellationToken));
        Assert.Equal(place, Assert.Single(mounts.Mounts).Options.Folder);
        Assert.Equal(Errno.None, HostMounts.Unmount(place));
        Deadline.Until(() => mounts.Mounts.Count == 0, "the mount to be forgotten");
    }
}
