using Virtbus.Platform;
using Virtbus.Virtio.Admin;

namespace Virtbus.Drivers.VirtioAdmin;

/// <summary>
/// The owner of a group, as the data that a physical function's driver has put on its device (<see cref="Core.Device.SetDriverData{T}"/>). Any thread but one
/// that interrupts; a call waits for the device, not without end.
/// </summary>
internal interface IVirtioAdminOwner
{
    /// <summary>Commands for virtual functions that device and driver agreed on, with the two of the list; none when there is no queue for them, or it is broken.</summary>
    AdminCommandSet Commands { get; }

    /// <summary>The most objects for parts of states at one time; 0 when there are none.</summary>
    int ObjectLimit { get; }

    /// <summary>Executes a command of the group of virtual functions. The device's EAGAIN is tried again by it.</summary>
    /// <param name="opcode">Which, see <see cref="AdminOpcode"/>.</param>
    /// <param name="function">Which virtual function, from 0.</param>
    /// <param name="head">Data of the command.</param>
    /// <param name="body">More data, behind it.</param>
    /// <param name="result">Where the result goes; zeros where the device wrote nothing.</param>
    /// <param name="written">Bytes of the result that the device wrote.</param>
    /// <param name="fault">
    /// EOPNOTSUPP: not agreed on; EMSGSIZE: longer than it can be; ENODEV, EIO: device or queue went, or broke; ETIMEDOUT: no answer; else the device's status,
    /// EINVAL for those that the standard does not know.
    /// </param>
    bool TryExecute(ushort opcode, int function, ReadOnlySpan<byte> head, ReadOnlySpan<byte> body, Span<byte> result, out int written, out Fault fault);

    /// <summary>Takes a number for an object of a virtual function.</summary>
    /// <param name="function">Which virtual function, from 0.</param>
    /// <param name="id">The number, below <see cref="ObjectLimit"/>.</param>
    /// <returns>False when all are taken.</returns>
    bool TryTakeObject(int function, out uint id);

    /// <summary>Whether a virtual function has an object.</summary>
    /// <param name="function">Which virtual function, from 0.</param>
    /// <param name="id">The object's number; any.</param>
    bool HasObject(int function, uint id);

    /// <summary>Gives a number back. Without effect when the virtual function does not have it.</summary>
    /// <param name="function">Which virtual function, from 0.</param>
    /// <param name="id">The number.</param>
    void FreeObject(int function, uint id);
}
