using Virtbus.Platform;

namespace Virtbus.Subsystems.Vfio;

/// <summary>The migration of one device, as a driver offers it; <c>VfioMigration</c> makes one from a table and the driver's arcs.</summary>
public interface IVfioMigrationOps
{
    /// <summary>What it can do.</summary>
    VfioMigrationFlags Flags { get; }

    /// <summary>The state it is in. Any thread, also during a move.</summary>
    VfioMigrationState State { get; }

    /// <summary>Goes to a state, over others where the table says so; returns when it is there.</summary>
    /// <param name="state">Where to.</param>
    /// <param name="stream">The stream of the session that the move opened, or null. It belongs to the caller.</param>
    /// <param name="fault">EINVAL: not possible from here; else what the device answered, and <see cref="State"/> says where it is.</param>
    bool TrySetState(VfioMigrationState state, out VfioMigrationStream? stream, out Fault fault);

    /// <summary>Bytes that a stop-and-copy would take now (VFIO_DEVICE_FEATURE_MIG_DATA_SIZE).</summary>
    ulong DataSize { get; }
}
