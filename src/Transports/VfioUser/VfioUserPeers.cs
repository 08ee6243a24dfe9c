using Virtbus.Platform;
using Virtbus.Subsystems.Vfio;

namespace Virtbus.Transports.VfioUser;

/// <summary>
/// Who is behind the connections: a process is one user, so a VMM can have several functions of one IOMMU group, each by its own socket. Any
/// thread.
/// </summary>
internal static class VfioUserPeers
{
    private static readonly Lock _lock = new();
    private static readonly List<Peer> _peers = [];

    /// <summary>A process has connected. To be given back by <see cref="Leave"/>.</summary>
    /// <param name="stream">The connection.</param>
    /// <returns>The user: the same one for connections that one process made. When it cannot be told who made it, nobody is the same as another.</returns>
    internal static VfioOwner Enter(UnixStream stream) => Enter(PeerProcess.TryFind(stream));

    /// <summary>As the other one.</summary>
    /// <param name="process">Who connected, alive a moment ago; it is taken over. Null when that is not known.</param>
    internal static VfioOwner Enter(PeerProcess? process)
    {
        if (process is null)
            return new VfioOwner("a process that is not known");
        lock (_lock)
        {
            // Two live processes do not have one number. One that has ended has connections still that others hold; its number may be another's by now.
            if (_peers.Find(p => p.Process.Number == process.Number && !p.Process.HasEnded) is { } peer)
            {
                process.Dispose();
            }
            else
            {
                peer = new Peer(process, new VfioOwner(process.Name));
                _peers.Add(peer);
            }

            peer.Connections++;
            return peer.User;
        }
    }

    /// <summary>A connection is over.</summary>
    /// <param name="user">What <see cref="Enter(UnixStream)"/> answered.</param>
    internal static void Leave(VfioOwner user)
    {
        lock (_lock)
        {
            if (_peers.Find(p => p.User == user) is not { } peer || --peer.Connections > 0)
                return;
            _peers.Remove(peer);
            peer.Process.Dispose();
        }
    }

    private sealed class Peer(PeerProcess process, VfioOwner user)
    {
        internal PeerProcess Process { get; } = process;

        internal VfioOwner User { get; } = user;

        internal int Connections { get; set; }
    }
}
