using Virtbus.Platform;

namespace Virtbus.Drivers.Nic;

/// <summary>
/// What the physical function of an adapter does for the migration of its virtual functions: the part <c>vfmig</c> hands it to the driver that
/// gives a virtual function to a user (VP-06). Any thread, but not from an interrupt of the adapter.
/// </summary>
public interface INicVfMigration
{
    /// <summary>Makes a virtual function stand still. What it had in work is in its memory when the call returns.</summary>
    /// <param name="vf">Its number, from 0.</param>
    /// <param name="p2pOnly">Stops only what reaches other functions: it sends no frame, but executes commands and receives.</param>
    /// <param name="fault">ENOENT, ENODEV: there is no such function; EIO: the adapter does not answer.</param>
    bool TrySuspend(int vf, bool p2pOnly, out Fault fault);

    /// <summary>Lets a virtual function go on.</summary>
    /// <param name="vf">Its number, from 0.</param>
    /// <param name="fault">As <see cref="TrySuspend"/>.</param>
    bool TryResume(int vf, out Fault fault);

    /// <summary>Reads the whole state of a virtual function that stands still.</summary>
    /// <param name="vf">Its number, from 0.</param>
    /// <param name="state">The state; about a hundred bytes, and 48 for each queue set.</param>
    /// <param name="fault">EBUSY: it does not stand still; EOPNOTSUPP: it has virtio functions, which cannot move; else as <see cref="TrySuspend"/>.</param>
    bool TrySaveState(int vf, out byte[] state, out Fault fault);

    /// <summary>Gives a virtual function that stands still the state of another one, which may have been on another machine. It still stands still then.</summary>
    /// <param name="vf">Its number, from 0.</param>
    /// <param name="state">As read by <see cref="TrySaveState"/>; not trusted.</param>
    /// <param name="fault">EINVAL: it is no state of this make, or asks for more than the function has; nothing changed. Else as <see cref="TrySaveState"/>.</param>
    bool TryLoadState(int vf, ReadOnlySpan<byte> state, out Fault fault);

    /// <summary>A number that changes whenever the state of a virtual function may have changed; 0 when there is no such function.</summary>
    /// <param name="vf">Its number, from 0.</param>
    ulong StateGeneration(int vf);
}
