using Virtbus.Platform;

namespace Virtbus.Subsystems.Vfio;

/// <summary>The driver's migration, called as the device is: one call at a time, none once the device is closed.</summary>
internal sealed class GuardedMigration(VfioHandle handle, IVfioMigrationOps ops) : IVfioMigrationOps
{
    public VfioMigrationFlags Flags { get; } = ops.Flags;

    public VfioMigrationState State => handle.IsClosed ? VfioMigrationState.Error : ops.State;

    public ulong DataSize
    {
        get
        {
            if (!handle.TryEnter(out _))
                return 0;
            try
            {
                return ops.DataSize;
            }
            finally
            {
                handle.Leave();
            }
        }
    }

    public bool TrySetState(VfioMigrationState state, out VfioMigrationStream? stream, out Fault fault)
    {
        stream = null;
        if (!handle.TryEnter(out fault))
            return false;
        try
        {
            if (!ops.TrySetState(state, out var opened, out fault))
                return false;
            stream = opened is null ? null : new GuardedStream(handle, opened);
            return true;
        }
        finally
        {
            handle.Leave();
        }
    }
}
