namespace Virtbus.Platform;

/// <summary>States of a migrating device; values as in Linux's vfio.h (enum vfio_device_mig_state).</summary>
public enum VfioMigrationState : uint
{
    /// <summary>Only a reset leaves it.</summary>
    Error = 0,
    /// <summary>No DMA, no interrupt, no change of state.</summary>
    Stop = 1,
    /// <summary>Works.</summary>
    Running = 2,
    /// <summary>Stopped, and its state is read.</summary>
    StopCopy = 3,
    /// <summary>Stopped, and its state is written.</summary>
    Resuming = 4,
    /// <summary>Works, but starts no DMA to other devices.</summary>
    RunningP2P = 5,
    /// <summary>Works, and its state is read already.</summary>
    PreCopy = 6,
    /// <summary>As <see cref="PreCopy"/> and <see cref="RunningP2P"/>.</summary>
    PreCopyP2P = 7,
}

/// <summary>What a device's migration can do (VFIO_MIGRATION_*).</summary>
[Flags]
public enum VfioMigrationFlags : ulong
{
    /// <summary>Nothing.</summary>
    None = 0,
    /// <summary>Stop and copy.</summary>
    StopCopy = 1,
    /// <summary>The states without peer-to-peer DMA.</summary>
    P2P = 2,
    /// <summary>Copying while it runs.</summary>
    PreCopy = 4,
}
