using Virtbus.Platform;
using Virtbus.Remote.Pci.VfioUser;

namespace FunctionMove;

/// <summary>
/// Brings the state of a function to another one, on another machine perhaps, as a VMM does when its guest moves. The guest's memory, config space and interrupts are
/// the VMM's to bring; it has done so, but for what changes last, and the guest stands still.
/// </summary>
internal static class StateMove
{
    private const int Piece = 64 << 10;

    /// <summary>Moves it. When that fails the first function goes on, and the second is as after a reset.</summary>
    /// <returns>Bytes of state.</returns>
    /// <exception cref="VirtbusException">One of the two does not migrate, or refuses a step.</exception>
    public static long Run(VfioUserClient from, VfioUserClient to)
    {
        var hasPeers = HasPeers(from) & HasPeers(to);
        var bytes = 0L;
        try
        {
            Set(to, VfioMigrationState.Resuming);
            // With P2P it reaches no other function any more, but may be reached: what there are of functions stop one after the other.
            if (hasPeers)
                Set(from, VfioMigrationState.RunningP2P);
            Set(from, VfioMigrationState.StopCopy);
            var piece = new byte[Piece];
            for (var count = piece.Length; count == piece.Length; bytes += count)
            {
                Check(from.TryReadMigrationData(piece, out count, out var fault), fault, "read its state");
                Check(to.TryWriteMigrationData(piece.AsSpan(0, count), out fault), fault, "take the state");
            }

            Set(to, VfioMigrationState.Stop);
        }
        catch (VirtbusException)
        {
            from.TrySetMigrationState(VfioMigrationState.Running, out _);
            to.TryReset(out _);
            throw;
        }

        // From here on the guest is there.
        if (hasPeers)
            Set(to, VfioMigrationState.RunningP2P);
        Set(to, VfioMigrationState.Running);
        return bytes;
    }

    private static bool HasPeers(VfioUserClient function)
    {
        if (!function.TryGetMigrationFlags(out var flags, out _) || !flags.HasFlag(VfioMigrationFlags.StopCopy))
            throw new VirtbusException(Errno.EOPNOTSUPP, "A function does not migrate. Give it a driver that does: './virtbus driver override FUNCTION virtio-vfio-pci'.");
        return flags.HasFlag(VfioMigrationFlags.P2P);
    }

    private static void Set(VfioUserClient function, VfioMigrationState state) => Check(function.TrySetMigrationState(state, out var fault), fault, $"go to {state}");

    private static void Check(bool done, Fault fault, string what)
    {
        if (!done)
            throw new VirtbusException(fault.Errno, $"A function does not {what}: {fault.Errno}, {fault.Message}. Look into its server's log.");
    }
}
