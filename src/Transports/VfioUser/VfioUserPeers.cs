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
    private static readonly Dictionary<int, (VfioOwner User, int Connections)> _users = [];

    /// <summary>A process has connected. To be given back by <see cref="Leave"/>.</summary>
    /// <param name="process">The kernel's word for who connected; 0 when it may not say, and then nobody is the same as another.</param>
    internal static VfioOwner Enter(int process)
    {
        if (process == 0)
            return new VfioOwner(ProcessName.Describe(0, ""));
        lock (_lock)
        {
            var (user, connections) = _users.GetValueOrDefault(process);
            user ??= new VfioOwner(ProcessName.Describe(process, ProcessName.Of(process)));
            _users[process] = (user, connections + 1);
            return user;
        }
    }

    /// <summary>A connection is over.</summary>
    internal static void Leave(int process)
    {
        if (process == 0)
            return;
        lock (_lock)
        {
            var (user, connections) = _users[process];
            if (connections == 1)
                _users.Remove(process);
            else
                _users[process] = (user, connections - 1);
        }
    }
}
