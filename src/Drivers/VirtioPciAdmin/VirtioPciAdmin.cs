using System.Buffers.Binary;
using System.Diagnostics.CodeAnalysis;
using Virtbus.Buses.Pci;
using Virtbus.Pci;
using Virtbus.Platform;
using Virtbus.Virtio.Admin;
using static Virtbus.Virtio.Admin.AdminOpcode;

namespace Virtbus.Drivers.VirtioAdmin;

/// <summary>
/// Administration commands for a virtual function, one method each (Linux: virtio_pci_admin.h). All take the virtual function; its physical one, bound to
/// <c>virtio_pci</c> with an administration queue, executes them. Where it is missing, has another driver or has not the commands, <c>Has…</c> says false and
/// <c>Try…</c> EOPNOTSUPP; nothing throws for what a device does.
/// </summary>
/// <remarks>
/// Any thread but one that interrupts: a call waits for the device, seconds at most. Errors of all <c>Try…</c>: EOPNOTSUPP, see above; EIO, ENODEV: the
/// physical function was reset, broke or went while it ran; ETIMEDOUT: no answer; EMSGSIZE: more data than a command can have; EINVAL: the device finds it
/// wrong; EAGAIN, ENOMEM, EBUSY, ENXIO, EEXIST, ENOSPC: what else the device says. Commands for one virtual function are for its user to put in order.
/// </remarks>
public static class VirtioPciAdmin
{
    // Flags of an object, and of a command for parts, behind the object's header.
    private const int PartsCommandSize = ResourceObject.Size + 8;
    private const byte SizeOfParts = 0;
    private const byte AllParts = 1;
    private const byte Stopped = 1;
    private const int MostBar = 5;
    private static readonly Fault NotSupported = new(Errno.EOPNOTSUPP, "the physical function has no such administration command");

    /// <summary>Whether a virtual function's legacy registers can be reached: all five commands of it are there.</summary>
    /// <param name="vf">The virtual function.</param>
    public static bool HasLegacyIo(PciDevice vf) => TryFind(vf, out var owner) && owner.Commands.HasAll(AdminCommandSet.Legacy);

    /// <summary>Whether a virtual function's state can be read, set, and held still: all commands of it are there, and the device has objects for it.</summary>
    /// <param name="vf">The virtual function.</param>
    public static bool HasDeviceParts(PciDevice vf) => TryFind(vf, out var owner) && owner.Commands.HasAll(AdminCommandSet.DeviceParts) && owner.ObjectLimit > 0;

    /// <summary>Writes a field of the legacy header.</summary>
    /// <param name="vf">The virtual function.</param>
    /// <param name="offset">Its first byte in the header: below 20, or below 24 while the virtual function has MSI-X enabled.</param>
    /// <param name="data">The field's bytes, little endian.</param>
    /// <param name="fault">See the remarks.</param>
    /// <returns>Whether it was written.</returns>
    public static bool TryLegacyCommonWrite(PciDevice vf, byte offset, ReadOnlySpan<byte> data, out Fault fault) =>
        TryLegacyWrite(VIRTIO_ADMIN_CMD_LEGACY_COMMON_CFG_WRITE, vf, offset, data, out fault);

    /// <summary>Reads a field of the legacy header.</summary>
    /// <param name="vf">The virtual function.</param>
    /// <param name="offset">As for <see cref="TryLegacyCommonWrite"/>.</param>
    /// <param name="data">Where the field's bytes go, little endian; zeros where the device says nothing, and when the answer is false.</param>
    /// <param name="fault">See the remarks.</param>
    /// <returns>Whether it was read.</returns>
    public static bool TryLegacyCommonRead(PciDevice vf, byte offset, Span<byte> data, out Fault fault) =>
        TryLegacyRead(VIRTIO_ADMIN_CMD_LEGACY_COMMON_CFG_READ, vf, offset, data, out fault);

    /// <summary>Writes a field of the device's configuration as a legacy driver does.</summary>
    /// <param name="vf">The virtual function.</param>
    /// <param name="offset">Its first byte in the configuration; the header does not count.</param>
    /// <param name="data">The field's bytes, little endian.</param>
    /// <param name="fault">See the remarks.</param>
    /// <returns>Whether it was written.</returns>
    public static bool TryLegacyDeviceWrite(PciDevice vf, byte offset, ReadOnlySpan<byte> data, out Fault fault) =>
        TryLegacyWrite(VIRTIO_ADMIN_CMD_LEGACY_DEV_CFG_WRITE, vf, offset, data, out fault);

    /// <summary>Reads a field of the device's configuration as a legacy driver does.</summary>
    /// <param name="vf">The virtual function.</param>
    /// <param name="offset">As for <see cref="TryLegacyDeviceWrite"/>.</param>
    /// <param name="data">As for <see cref="TryLegacyCommonRead"/>.</param>
    /// <param name="fault">See the remarks.</param>
    /// <returns>Whether it was read.</returns>
    public static bool TryLegacyDeviceRead(PciDevice vf, byte offset, Span<byte> data, out Fault fault) =>
        TryLegacyRead(VIRTIO_ADMIN_CMD_LEGACY_DEV_CFG_READ, vf, offset, data, out fault);

    /// <summary>
    /// Where a legacy driver's notifications of the virtual function can be written, the best place first. What is no place is left out (VIRTIO 1.4,
    /// 2.12.1.1.5): flags that are reserved, a BAR that is not there, an offset that is odd or outside.
    /// </summary>
    /// <param name="vf">The virtual function.</param>
    /// <param name="places">Where they go; there are not more than <see cref="AdminLegacyLayout.NotifyEntries"/>.</param>
    /// <param name="count">How many there are; 0 is no error.</param>
    /// <param name="fault">See the remarks.</param>
    /// <returns>Whether the device has answered.</returns>
    public static bool TryLegacyNotifyInfo(PciDevice vf, Span<LegacyNotifyInfo> places, out int count, out Fault fault)
    {
        count = 0;
        Span<byte> result = stackalloc byte[AdminLegacyLayout.NotifyEntries * LegacyNotifyInfo.Size];
        if (!TryExecute(VIRTIO_ADMIN_CMD_LEGACY_NOTIFY_INFO, vf, [], [], result, out _, out fault))
            return false;
        for (var at = 0; at < result.Length && count < places.Length; at += LegacyNotifyInfo.Size)
        {
            var place = LegacyNotifyInfo.Read(result[at..]);
            if (place.Flags == LegacyNotifyInfo.VIRTIO_ADMIN_CMD_NOTIFY_INFO_FLAGS_END)
                break;
            if (IsPlace(vf, place))
                places[count++] = place;
        }

        return true;
    }

    /// <summary>Makes an object by which parts of the virtual function's state are read or set.</summary>
    /// <param name="vf">The virtual function.</param>
    /// <param name="kind"><see cref="ResourceObject.PartsGet"/> or <see cref="ResourceObject.PartsSet"/>.</param>
    /// <param name="id">Its number, for <see cref="TryDevicePartsDestroy"/> and the others; the virtual function's until then, or until the physical one is reset.</param>
    /// <param name="fault">ENOSPC: all that there can be are in use; see the remarks.</param>
    /// <returns>Whether it was made.</returns>
    public static bool TryDevicePartsCreate(PciDevice vf, byte kind, out uint id, out Fault fault)
    {
        id = 0;
        if (!TryFind(vf, VIRTIO_ADMIN_CMD_RESOURCE_OBJ_CREATE, out var owner, out fault))
            return false;
        if (!owner.TryTakeObject(vf.VirtualFunctionIndex, out id))
        {
            fault = new Fault(Errno.ENOSPC, "all objects for parts of a device's state are in use");
            return false;
        }

        Span<byte> data = stackalloc byte[ResourceObject.Size + ResourceObject.FlagsSize + ResourceObject.PartsSize];
        data.Clear();
        new ResourceObject(ResourceObject.VIRTIO_RESOURCE_OBJ_DEV_PARTS, id).Write(data);
        data[ResourceObject.Size + ResourceObject.FlagsSize] = kind;
        if (owner.TryExecute(VIRTIO_ADMIN_CMD_RESOURCE_OBJ_CREATE, vf.VirtualFunctionIndex, data, [], [], out _, out fault))
            return true;
        owner.FreeObject(vf.VirtualFunctionIndex, id);
        return false;
    }

    /// <summary>Destroys an object.</summary>
    /// <param name="vf">The virtual function.</param>
    /// <param name="id">Its number.</param>
    /// <param name="fault">ENXIO: the virtual function has no such object; see the remarks.</param>
    /// <returns>Whether it was destroyed.</returns>
    public static bool TryDevicePartsDestroy(PciDevice vf, uint id, out Fault fault)
    {
        Span<byte> data = stackalloc byte[ResourceObject.Size];
        if (!TryFindObject(vf, VIRTIO_ADMIN_CMD_RESOURCE_OBJ_DESTROY, id, data, out var owner, out fault))
            return false;
        var isDone = owner.TryExecute(VIRTIO_ADMIN_CMD_RESOURCE_OBJ_DESTROY, vf.VirtualFunctionIndex, data, [], [], out _, out fault);
        // Of what the device does not know the number is free too.
        if (isDone || fault.Errno == Errno.ENXIO)
            owner.FreeObject(vf.VirtualFunctionIndex, id);
        return isDone;
    }

    /// <summary>How many bytes all parts of the state have at most.</summary>
    /// <param name="vf">The virtual function.</param>
    /// <param name="id">An object that reads.</param>
    /// <param name="bytes">How many, as the device says.</param>
    /// <param name="fault">As for <see cref="TryDevicePartsDestroy"/>.</param>
    /// <returns>Whether the device has answered.</returns>
    public static bool TryDevicePartsSize(PciDevice vf, uint id, out uint bytes, out Fault fault)
    {
        bytes = 0;
        Span<byte> data = stackalloc byte[PartsCommandSize];
        Span<byte> result = stackalloc byte[sizeof(ulong)];
        if (!TryFindObject(vf, VIRTIO_ADMIN_CMD_DEV_PARTS_METADATA_GET, id, data, out var owner, out fault))
            return false;
        data[ResourceObject.Size] = SizeOfParts;
        if (!owner.TryExecute(VIRTIO_ADMIN_CMD_DEV_PARTS_METADATA_GET, vf.VirtualFunctionIndex, data, [], result, out _, out fault))
            return false;
        bytes = BinaryPrimitives.ReadUInt32LittleEndian(result);
        return true;
    }

    /// <summary>Reads all parts of the state. What they say is the device's word, for who uses it to check.</summary>
    /// <param name="vf">The virtual function.</param>
    /// <param name="id">An object that reads.</param>
    /// <param name="destination">Where they go; as long as <see cref="TryDevicePartsSize"/> says, or the device answers ENOMEM.</param>
    /// <param name="count">Bytes that there are.</param>
    /// <param name="fault">As for <see cref="TryDevicePartsDestroy"/>.</param>
    /// <returns>Whether they were read.</returns>
    public static bool TryDevicePartsGet(PciDevice vf, uint id, Span<byte> destination, out int count, out Fault fault)
    {
        count = 0;
        Span<byte> data = stackalloc byte[PartsCommandSize];
        if (!TryFindObject(vf, VIRTIO_ADMIN_CMD_DEV_PARTS_GET, id, data, out var owner, out fault))
            return false;
        data[ResourceObject.Size] = AllParts;
        return owner.TryExecute(VIRTIO_ADMIN_CMD_DEV_PARTS_GET, vf.VirtualFunctionIndex, data, [], destination, out count, out fault);
    }

    /// <summary>Sets parts of the state of a virtual function that is stopped.</summary>
    /// <param name="vf">The virtual function.</param>
    /// <param name="id">An object that sets.</param>
    /// <param name="parts">Parts with their headers, in the standard's order; see <see cref="DevicePart"/>.</param>
    /// <param name="fault">As for <see cref="TryDevicePartsDestroy"/>.</param>
    /// <returns>Whether all of them were set; none was when the answer is false.</returns>
    public static bool TryDevicePartsSet(PciDevice vf, uint id, ReadOnlySpan<byte> parts, out Fault fault)
    {
        Span<byte> data = stackalloc byte[ResourceObject.Size];
        return TryFindObject(vf, VIRTIO_ADMIN_CMD_DEV_PARTS_SET, id, data, out var owner, out fault)
            && owner.TryExecute(VIRTIO_ADMIN_CMD_DEV_PARTS_SET, vf.VirtualFunctionIndex, data, parts, [], out _, out fault);
    }

    /// <summary>Stops the virtual function, which then leaves memory alone and interrupts nobody, or has it go on.</summary>
    /// <param name="vf">The virtual function.</param>
    /// <param name="stopped">Whether it is to stand still.</param>
    /// <param name="fault">See the remarks.</param>
    /// <returns>Whether it does.</returns>
    public static bool TryModeSet(PciDevice vf, bool stopped, out Fault fault) =>
        TryExecute(VIRTIO_ADMIN_CMD_DEV_MODE_SET, vf, [stopped ? Stopped : (byte)0, 0, 0, 0, 0, 0, 0, 0], [], [], out _, out fault);

    private static bool TryLegacyWrite(ushort opcode, PciDevice vf, byte offset, ReadOnlySpan<byte> data, out Fault fault)
    {
        // The length of the data is that of the field, so nothing fills it up.
        Span<byte> head = stackalloc byte[AdminLegacyLayout.WriteHeaderSize];
        head.Clear();
        head[0] = offset;
        return TryExecute(opcode, vf, head, data, [], out _, out fault);
    }

    private static bool TryLegacyRead(ushort opcode, PciDevice vf, byte offset, Span<byte> data, out Fault fault)
    {
        data.Clear();
        Span<byte> head = stackalloc byte[sizeof(ulong)];
        head.Clear();
        head[0] = offset;
        return TryExecute(opcode, vf, head, [], data, out _, out fault);
    }

    private static bool IsPlace(PciDevice vf, in LegacyNotifyInfo place)
    {
        var owner = place.Flags switch
        {
            LegacyNotifyInfo.VIRTIO_ADMIN_CMD_NOTIFY_INFO_FLAGS_OWNER_DEV => vf.PhysicalFunction,
            LegacyNotifyInfo.VIRTIO_ADMIN_CMD_NOTIFY_INFO_FLAGS_OWNER_MEM => vf,
            _ => null,
        };
        if (owner is null || place.Bar is 0 or > MostBar || place.Offset % sizeof(ushort) != 0)
            return false;
        var bar = owner.GetRegion(place.Bar).Bar;
        return bar.Kind is not (PciBarKind.None or PciBarKind.Rom) && place.Offset < bar.Size && bar.Size - place.Offset >= sizeof(ushort);
    }

    private static bool TryExecute(
        ushort opcode, PciDevice vf, ReadOnlySpan<byte> head, ReadOnlySpan<byte> body, Span<byte> result, out int written, out Fault fault)
    {
        written = 0;
        return TryFind(vf, opcode, out var owner, out fault) && owner.TryExecute(opcode, vf.VirtualFunctionIndex, head, body, result, out written, out fault);
    }

    // Writes what all commands for an object begin with.
    private static bool TryFindObject(PciDevice vf, ushort opcode, uint id, Span<byte> data, [NotNullWhen(true)] out IVirtioAdminOwner? owner, out Fault fault)
    {
        data.Clear();
        new ResourceObject(ResourceObject.VIRTIO_RESOURCE_OBJ_DEV_PARTS, id).Write(data);
        if (!TryFind(vf, opcode, out owner, out fault))
            return false;
        if (owner.HasObject(vf.VirtualFunctionIndex, id))
            return true;
        fault = new Fault(Errno.ENXIO, "the virtual function has no such object for parts of its state");
        return false;
    }

    private static bool TryFind(PciDevice vf, ushort opcode, [NotNullWhen(true)] out IVirtioAdminOwner? owner, out Fault fault)
    {
        var isThere = TryFind(vf, out owner) && owner.Commands.Has(opcode);
        fault = isThere ? Fault.None : NotSupported;
        return isThere;
    }

    private static bool TryFind(PciDevice vf, [NotNullWhen(true)] out IVirtioAdminOwner? owner)
    {
        ArgumentNullException.ThrowIfNull(vf);
        // Another driver's data is of a type of its own.
        owner = vf.PhysicalFunction?.GetDriverData<object>() as IVirtioAdminOwner;
        return owner is not null;
    }
}
