using static Virtbus.Virtio.Admin.AdminOpcode;
using static Virtbus.Virtio.Admin.AdminQualifier;

namespace Virtbus.Virtio.Admin;

/// <summary>
/// What administration commands do (VIRTIO 1.4, 2.12.1), for the two groups of an owner: itself, and its virtual functions. It holds what the owner's driver set by
/// commands, all of which goes at a reset.
/// </summary>
/// <remarks>One command at a time; <see cref="Reset"/> from any thread.</remarks>
internal sealed partial class AdminCommands(AdminOptions options, IAdminMembers members)
{
    private readonly Lock _lock = new();
    private AdminCommandSet _usedForSelf = AdminCommandSet.Lists;
    private AdminCommandSet _usedForMembers = AdminCommandSet.Lists;

    // Linux knows neither QUERY nor MODIFY.
    private static AdminCommandSet ObjectLife => AdminCommandSet.Of(VIRTIO_ADMIN_CMD_RESOURCE_OBJ_CREATE, VIRTIO_ADMIN_CMD_RESOURCE_OBJ_DESTROY);

    private static AdminCommandSet NeedObjects =>
        AdminCommandSet.Of(VIRTIO_ADMIN_CMD_DEV_PARTS_METADATA_GET, VIRTIO_ADMIN_CMD_DEV_PARTS_GET, VIRTIO_ADMIN_CMD_DEV_PARTS_SET);

    private static AdminCommandSet ForSelf => AdminCommandSet.Lists | AdminCommandSet.Capabilities;

    private AdminCommandSet ForMembers =>
        AdminCommandSet.Lists | (members.HaveLegacy ? AdminCommandSet.Legacy : default) | AdminCommandSet.DeviceParts | (options.IsStrict ? default : AdminCommandSet.Capabilities);

    /// <summary>Does a command.</summary>
    /// <param name="command">The part of the buffer that the device reads, of any length.</param>
    /// <param name="answer">The part that it writes, of any length.</param>
    /// <param name="isDone">Whether it was done.</param>
    /// <returns>Bytes written.</returns>
    internal int Do(ReadOnlySpan<byte> command, Span<byte> answer, out bool isDone)
    {
        Span<byte> head = stackalloc byte[AdminAnswer.Size];
        var size = Math.Min(answer.Length, AdminAnswer.Size);
        var length = 0;
        AdminAnswer status;
        var what = AdminCommand.Read(command);
        lock (_lock)
            status = Do(what, command[Math.Min(command.Length, AdminCommand.Size)..], answer[size..], out length);
        isDone = status.IsOk;
        status.Write(head);
        head[..size].CopyTo(answer);
        options.Told?.Invoke(what, status);
        return size + (isDone ? length : 0);
    }

    /// <summary>All is as after power-on.</summary>
    internal void Reset()
    {
        lock (_lock)
        {
            _usedForSelf = _usedForMembers = AdminCommandSet.Lists;
            ForgetObjects();
        }
    }

    // Group, opcode, member, in that order.
    private AdminAnswer Do(in AdminCommand command, ReadOnlySpan<byte> data, Span<byte> result, out int length)
    {
        length = 0;
        var isSelf = command.GroupType == AdminGroupType.VIRTIO_ADMIN_GROUP_TYPE_SELF;
        if (!isSelf && !HasMembers(command))
            return AdminAnswer.Invalid(VIRTIO_ADMIN_STATUS_Q_INVALID_GROUP);
        if (!IsUsed(isSelf, command.Opcode))
            return AdminAnswer.Invalid(VIRTIO_ADMIN_STATUS_Q_INVALID_OPCODE);
        switch (command.Opcode)
        {
            case VIRTIO_ADMIN_CMD_LIST_QUERY:
                length = Put(isSelf ? ForSelf : ForMembers, result);
                return AdminAnswer.Ok;
            case VIRTIO_ADMIN_CMD_LIST_USE:
                return Use(isSelf, data);
            case VIRTIO_ADMIN_CMD_CAP_ID_LIST_QUERY or VIRTIO_ADMIN_CMD_DEVICE_CAP_GET or VIRTIO_ADMIN_CMD_DRIVER_CAP_SET:
                return isSelf && command.MemberId != 0 ? AdminAnswer.Invalid(VIRTIO_ADMIN_STATUS_Q_INVALID_MEMBER) : DoCapability(command.Opcode, data, result, out length);
        }

        // 0 becomes more than there can be.
        return members.Find(command.MemberId - 1) is { } member
            ? DoForMember(command.Opcode, command.MemberId - 1, member, data, result, out length)
            : AdminAnswer.Invalid(VIRTIO_ADMIN_STATUS_Q_INVALID_MEMBER);
    }

    private AdminAnswer DoForMember(ushort opcode, ulong index, IAdminMember member, ReadOnlySpan<byte> data, Span<byte> result, out int length)
    {
        length = 0;
        switch (opcode)
        {
            case VIRTIO_ADMIN_CMD_LEGACY_COMMON_CFG_WRITE or VIRTIO_ADMIN_CMD_LEGACY_DEV_CFG_WRITE:
                return member.WriteLegacy(opcode == VIRTIO_ADMIN_CMD_LEGACY_DEV_CFG_WRITE, First(data), Behind(data, AdminLegacyLayout.WriteHeaderSize));
            case VIRTIO_ADMIN_CMD_LEGACY_COMMON_CFG_READ or VIRTIO_ADMIN_CMD_LEGACY_DEV_CFG_READ:
                length = result.Length;
                return member.ReadLegacy(opcode == VIRTIO_ADMIN_CMD_LEGACY_DEV_CFG_READ, First(data), result);
            case VIRTIO_ADMIN_CMD_RESOURCE_OBJ_CREATE or VIRTIO_ADMIN_CMD_RESOURCE_OBJ_QUERY or VIRTIO_ADMIN_CMD_RESOURCE_OBJ_MODIFY or VIRTIO_ADMIN_CMD_RESOURCE_OBJ_DESTROY:
                return DoObject(opcode, index, member, data, result, out length);
            case VIRTIO_ADMIN_CMD_DEV_PARTS_METADATA_GET or VIRTIO_ADMIN_CMD_DEV_PARTS_GET or VIRTIO_ADMIN_CMD_DEV_PARTS_SET or VIRTIO_ADMIN_CMD_DEV_MODE_SET:
                return DoParts(opcode, member, data, result, out length);
            default:
                Span<byte> places = stackalloc byte[AdminLegacyLayout.NotifyEntries * LegacyNotifyInfo.Size];
                places.Clear();
                member.NotifyInfo.Write(places);
                length = Put(places, result);
                return AdminAnswer.Ok;
        }
    }

    private AdminAnswer Use(bool isSelf, ReadOnlySpan<byte> data)
    {
        if (!AdminCommandSet.TryRead(data, out var wanted) || !(isSelf ? ForSelf : ForMembers).HasAll(wanted) || !GoTogether(wanted))
            return AdminAnswer.InvalidField;
        if (isSelf)
            _usedForSelf = wanted;
        else
            _usedForMembers = wanted;
        return AdminAnswer.Ok;
    }

    private static bool GoTogether(AdminCommandSet wanted)
    {
        var legacy = wanted & AdminCommandSet.LegacyAccess;
        var capabilities = wanted & AdminCommandSet.Capabilities;
        return (legacy == default ? !wanted.Has(VIRTIO_ADMIN_CMD_LEGACY_NOTIFY_INFO) : legacy == AdminCommandSet.LegacyAccess)
            && (capabilities == default || capabilities == AdminCommandSet.Capabilities)
            && ((wanted & NeedObjects) == default || wanted.HasAll(ObjectLife));
    }

    private bool HasMembers(in AdminCommand command) =>
        command.GroupType == AdminGroupType.VIRTIO_ADMIN_GROUP_TYPE_SRIOV
        && (members.IsThere || (!options.IsStrict && (AdminCommandSet.Lists | AdminCommandSet.Capabilities).Has(command.Opcode)));

    private bool IsUsed(bool isSelf, ushort opcode)
    {
        var isListed = (isSelf ? _usedForSelf : _usedForMembers).Has(opcode);
        return isListed || (!options.IsStrict && AdminCommandSet.Capabilities.Has(opcode) && (_usedForSelf | _usedForMembers).Has(opcode));
    }

    private static ReadOnlySpan<byte> Behind(ReadOnlySpan<byte> data, int length) => data[Math.Min(data.Length, length)..];

    private static byte First(ReadOnlySpan<byte> data) => data.IsEmpty ? (byte)0 : data[0];

    private static int Put(AdminCommandSet set, Span<byte> result)
    {
        Span<byte> whole = stackalloc byte[AdminCommandSet.Size];
        set.Write(whole);
        return Put(whole, result);
    }

    // What a driver gives no room for is cut off (2.13).
    private static int Put(ReadOnlySpan<byte> whole, Span<byte> result)
    {
        var length = Math.Min(whole.Length, result.Length);
        whole[..length].CopyTo(result);
        return length;
    }
}
