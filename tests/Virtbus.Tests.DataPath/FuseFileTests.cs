using System.Buffers.Binary;
using System.Collections.Concurrent;
using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;
using Virtbus.Memory;
using Virtbus.Platform;

namespace Virtbus.Tests.DataPath;

/// <summary>A file whose file system is a peer that answers nothing but the open.</summary>
public sealed class FuseFileTests
{
    private const uint GetAttr = 3;
    private const uint Open = 14;
    private const uint Flush = 25;
    private const uint Init = 26;
    // MNT_FORCE ends whatever waits for the peer; MNT_DETACH takes the mount away though it is in use.
    private const int ForceAndDetach = 3;

    [Fact]
    public void File_of_a_peer_that_never_answers_is_refused_at_once_and_the_peer_is_not_asked()
    {
        using var connection = FileDescriptor.TryOpen("/dev/fuse", writable: true, out _);
        Assert.SkipWhen(connection is null, "no /dev/fuse for this user");
        var path = Path.GetTempFileName();
        // The file itself is the root, so there is nothing to look up.
        var mounted = Mount("virtbus-test", path, "fuse", 0, $"fd={connection!.Number},rootmode=100000,user_id=0,group_id=0") == 0;
        if (!mounted)
            File.Delete(path);
        Assert.SkipUnless(mounted, "this user may not mount");
        var asked = new ConcurrentQueue<uint>();
        var server = new Thread(() => Serve(connection, asked)) { IsBackground = true };
        server.Start();
        try
        {
            using var file = FileDescriptor.TryOpen(path, writable: true, out var error);
            Assert.NotNull(file);
            var (taken, fault) = (true, Fault.None);
            var mapping = new Thread(() =>
            {
                using var account = new MappingAccount();
                taken = file.TrySealShrink() || HostMemory.TryMap(file, 0, 4096, DmaAccess.ReadWrite, out _, out _) ||
                    HostMemory.TryMap(account, file, 0, 4096, DmaAccess.ReadWrite, out _, out fault);
            }) { IsBackground = true };
            mapping.Start();
            var done = mapping.Join(Deadline.Milliseconds);
            // Passed on, its close asks the peer, and waits where nobody else does.
            var (left, right) = UnixStream.CreatePair();
            using (left)
            using (right)
            {
                List<FileDescriptor> passed = [];
                Assert.Equal(1, left.Send("x"u8, [file], out _));
                Assert.Equal(1, right.Receive(new byte[1], passed, out _));
                var closing = new Thread(Assert.Single(passed).Dispose) { IsBackground = true };
                closing.Start();
                done &= closing.Join(Deadline.Milliseconds);
            }

            Deadline.Until(() => asked.Contains(Flush), "the close");
            Assert.Equal(1, PeerDescriptors.TotalClosing);
            // Before the file is closed, which waits for the peer too.
            _ = Unmount(path, ForceAndDetach);
            Assert.True(done, "waited for the peer");
            Assert.False(taken);
            Assert.Equal((Errno.None, Errno.EBADF), (error, fault.Errno));
            Assert.DoesNotContain(GetAttr, asked);
            Assert.Contains(Open, asked);
            Assert.True(PeerDescriptors.WaitUntilClosed(TimeSpan.FromMilliseconds(Deadline.Milliseconds)));
        }
        finally
        {
            _ = Unmount(path, ForceAndDetach);
            server.Ends("the file's server");
            File.Delete(path);
        }
    }

    private static void Serve(FileDescriptor connection, ConcurrentQueue<uint> asked)
    {
        using var stream = new FileStream(new SafeFileHandle(connection.Number, ownsHandle: false), FileAccess.ReadWrite, bufferSize: 0);
        var request = new byte[1 << 20];
        try
        {
            while (stream.Read(request) > 0)
            {
                var command = BinaryPrimitives.ReadUInt32LittleEndian(request.AsSpan(4));
                asked.Enqueue(command);
                var answer = command switch
                {
                    // Version 7.31, and at most 4096 bytes a write.
                    Init => [7, 0, 0, 0, 31, 0, 0, 0, .. new byte[12], 0, 16, 0, 0, .. new byte[40]],
                    Open => new byte[16],
                    _ => null,
                };
                if (answer is not null)
                    stream.Write([.. BitConverter.GetBytes(16 + answer.Length), 0, 0, 0, 0, .. request.AsSpan(8, 8), .. answer]);
            }
        }
        catch (IOException)
        {
            // ENODEV: unmounted.
        }
    }

    [DllImport("libc", EntryPoint = "mount", SetLastError = true, CharSet = CharSet.Ansi, BestFitMapping = false, ThrowOnUnmappableChar = true)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.SafeDirectories)]
    private static extern int Mount(string source, string target, string kind, nuint flags, string data);

    [DllImport("libc", EntryPoint = "umount2", CharSet = CharSet.Ansi, BestFitMapping = false, ThrowOnUnmappableChar = true)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.SafeDirectories)]
    private static extern int Unmount(string target, int flags);
}
