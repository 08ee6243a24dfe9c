using Virtbus.Core;
using Virtbus.Platform;

namespace Virtbus.Drivers.Nic;

/// <summary>
/// What the physical function of an adapter does for the migration of the others: the part <see cref="NicPartKind.Migration"/> hands it to the
/// driver that gives such a function to a user (VP-06). Functions are named by their ids in the adapter. Any thread, but not from an interrupt
/// of the adapter.
/// </summary>
public interface INicMigration
{
    /// <summary>Finds the id that a function has in the adapter.</summary>
    /// <param name="function">Its device.</param>
    /// <param name="id">The id.</param>
    /// <returns>False when it is none of this adapter.</returns>
    bool TryGetFunctionId(Device function, out uint id);

    /// <summary>Makes a function stand still. What it had in work is in its memory when the call returns.</summary>
    /// <param name="function">Its id.</param>
    /// <param name="p2pOnly">Stops only what reaches other functions: it sends no frame, but executes commands and receives.</param>
    /// <param name="fault">ENOENT, ENODEV: there is no such function; EIO: the adapter does not answer; ETIMEDOUT: the function does not come to rest.</param>
    bool TrySuspend(uint function, bool p2pOnly, out Fault fault);

    /// <summary>Lets a function go on.</summary>
    /// <param name="function">Its id.</param>
    /// <param name="fault">As <see cref="TrySuspend"/>.</param>
    bool TryResume(uint function, out Fault fault);

    /// <summary>Reads the whole state of a function that stands still.</summary>
    /// <param name="function">Its id.</param>
    /// <param name="state">The state; about a hundred bytes, and 48 for each queue set.</param>
    /// <param name="fault">EBUSY: it does not stand still; EOPNOTSUPP: it has virtio functions, which cannot move; else as <see cref="TrySuspend"/>.</param>
    bool TrySaveState(uint function, out byte[] state, out Fault fault);

    /// <summary>Gives a function that stands still the state of another one, which may have been on another machine. It still stands still then.</summary>
    /// <param name="function">Its id.</param>
    /// <param name="state">As read by <see cref="TrySaveState"/>; not trusted.</param>
    /// <param name="fault">EINVAL: it is no state of this make, or asks for more than the function has; nothing changed. Else as <see cref="TrySaveState"/>.</param>
    bool TryLoadState(uint function, ReadOnlySpan<byte> state, out Fault fault);

    /// <summary>A number that changes whenever the state of a function may have changed; 0 when there is no such function.</summary>
    /// <param name="function">Its id.</param>
    ulong StateGeneration(uint function);
}
