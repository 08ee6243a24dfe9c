using Virtbus.Platform;

namespace Virtbus.Subsystems.Vfio;

/// <summary>
/// What a driver does for the migration of its device: single steps between states, and the state as bytes. <see cref="VfioMigration"/>
/// calls it, one call at a time, and only as the states allow.
/// </summary>
public interface IVfioMigrationArcs
{
    /// <summary>What the driver can do. With P2P and PRE_COPY come more steps; without, none of those states is ever asked for.</summary>
    VfioMigrationFlags Flags { get; }

    /// <summary>Bytes that a stop-and-copy would take now, an estimate.</summary>
    ulong DataSize { get; }

    /// <summary>
    /// Makes one step. A step into the group of saving states (STOP to STOP_COPY, RUNNING to PRE_COPY, RUNNING_P2P to PRE_COPY_P2P) begins a
    /// session of <see cref="TryRead"/>; STOP to RESUMING one of <see cref="TryWrite"/>. RESUMING to STOP loads what was written.
    /// </summary>
    /// <param name="from">The state it is in.</param>
    /// <param name="to">The next one.</param>
    /// <param name="fault">Why the device stays where it is. A driver that does not know where it is calls <see cref="VfioMigration.Fail"/> too.</param>
    bool TryMove(VfioMigrationState from, VfioMigrationState to, out Fault fault);

    /// <summary>The next bytes of the device's state.</summary>
    /// <param name="destination">Where to; not empty.</param>
    /// <param name="count">How many bytes; 0 when there are none for now (while pre-copying), or at the end of the state (in STOP_COPY).</param>
    /// <param name="fault">What the device answered.</param>
    bool TryRead(Span<byte> destination, out int count, out Fault fault);

    /// <summary>The next bytes of a state to load.</summary>
    /// <param name="source">The bytes; not empty. However they are cut, their order is right.</param>
    /// <param name="fault">EINVAL: they are no state of such a device.</param>
    bool TryWrite(ReadOnlySpan<byte> source, out Fault fault);

    /// <summary>What is left to read while pre-copying.</summary>
    /// <param name="initialBytes">Bytes of what should be read before the device is stopped.</param>
    /// <param name="dirtyBytes">Bytes that changed since they were read.</param>
    void GetPreCopyInfo(out ulong initialBytes, out ulong dirtyBytes);

    /// <summary>The session is over: bytes that are left of it are dropped.</summary>
    void EndSession();
}
