using System.Diagnostics;
using Virtbus.Platform;
using Virtbus.Transports.VfioUser;

namespace Virtbus.Tests.Transports.VfioUser;

/// <summary>Who is the same user: the process, not its number, which the next process may have.</summary>
[Collection(WireCollection.Name)]
public sealed class VfioUserPeersTests
{
    private static FileDescriptor Open(int number)
    {
        var descriptor = PeerProcess.OpenByNumber(number);
        Assert.False(descriptor.IsInvalid);
        return descriptor;
    }

    [Fact]
    public void Connections_of_this_process_are_one_users()
    {
        var (one, other) = UnixStream.CreatePair();
        using (one)
        using (other)
        {
            using (var process = PeerProcess.TryFind(one))
            {
                Assert.Equal((Environment.ProcessId, false), (process!.Number, process.HasEnded));
                Assert.StartsWith($"process {Environment.ProcessId} (", process.Name, StringComparison.Ordinal);
            }

            var first = VfioUserPeers.Enter(one);
            Assert.Same(first, VfioUserPeers.Enter(other));
            VfioUserPeers.Leave(first);
            Assert.Same(first, VfioUserPeers.Enter(other));
            VfioUserPeers.Leave(first);
            VfioUserPeers.Leave(first);
            var next = VfioUserPeers.Enter(one);
            Assert.NotSame(first, next);
            VfioUserPeers.Leave(next);
        }
    }

    [Fact]
    public void Number_that_is_used_again_is_another_user()
    {
        using var child = Process.Start(new ProcessStartInfo("cat") { RedirectStandardInput = true, RedirectStandardOutput = true, UseShellExecute = false })!;
        var first = VfioUserPeers.Enter(new PeerProcess(child.Id, Open(child.Id)));
        Assert.Same(first, VfioUserPeers.Enter(new PeerProcess(child.Id, Open(child.Id))));
        using var ended = Open(child.Id);
        child.Kill();
        child.Ends();
        // As if the number was this process's now: the connections of before are still held by others.
        var second = VfioUserPeers.Enter(new PeerProcess(child.Id, Open(Environment.ProcessId)));
        Assert.NotSame(first, second);
        Assert.Same(second, VfioUserPeers.Enter(new PeerProcess(child.Id, Open(Environment.ProcessId))));
        VfioUserPeers.Leave(first);
        VfioUserPeers.Leave(first);
        VfioUserPeers.Leave(second);
        VfioUserPeers.Leave(second);
        // Nor has who has the number now anything to do with the name.
        using var shown = new PeerProcess(Environment.ProcessId, ended.Duplicate());
        Assert.Equal((true, $"process {Environment.ProcessId}"), (shown.HasEnded, shown.Name));
    }
}
