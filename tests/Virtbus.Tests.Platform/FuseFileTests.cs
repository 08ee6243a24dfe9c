using System.Collections.Concurrent;
using Virtbus.Memory;
using Virtbus.Platform;

namespace Virtbus.Tests.Platform;

/// <summary>A file whose file system is a peer that answers nothing but the open.</summary>
public sealed class FuseFileTests
{
    private const uint GetAttr = 3;
    private const uint Open = 14;
    private const uint Flush = 25;
    private const uint Init = 26;

    [Fact]
    public void File_of_a_peer_that_never_answers_is_refused_at_once_and_the_peer_is_not_asked()
    {
        var asked = new ConcurrentQueue<uint>();
        using var mount = FuseMount.Make((uint command, ReadOnlySpan<byte> _, out Errno error) =>
        {
            error = Errno.None;
            asked.Enqueue(command);
            return command switch
            {
                // Version 7.31, and at most 4096 bytes a write.
                Init => [7, 0, 0, 0, 31, 0, 0, 0, .. new byte[12], 0, 16, 0, 0, .. new byte[40]],
                Open => new byte[16],
                _ => null,
            };
        });
        using var file = FileDescriptor.TryOpen(mount.Path, writable: true, out var error);
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
        mount.Unmount();
        Assert.True(done, "waited for the peer");
        Assert.False(taken);
        Assert.Equal((Errno.None, Errno.EBADF), (error, fault.Errno));
        Assert.DoesNotContain(GetAttr, asked);
        Assert.Contains(Open, asked);
        Assert.True(PeerDescriptors.WaitUntilClosed(TimeSpan.FromMilliseconds(Deadline.Milliseconds)));
    }
}
