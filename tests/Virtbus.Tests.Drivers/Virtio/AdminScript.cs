using System.Buffers.Binary;
using System.Collections.Concurrent;
using Virtbus.Virtio.Admin;
using static Virtbus.Virtio.Admin.AdminGroupType;
using static Virtbus.Virtio.Admin.AdminOpcode;

namespace Virtbus.Tests.Drivers.Virtio;

/// <summary>A small device that has all commands: what it is told is noted, and what it says a test may change. One call at a time.</summary>
internal sealed class AdminScript
{
    internal const int ConfigSize = 8;
    private const int HeaderSize = 24;
    private readonly ConcurrentQueue<string> _calls = new();
    private readonly Dictionary<ulong, byte[]> _registers = [];
    private readonly HashSet<(ulong Member, uint Id)> _objects = [];

    /// <summary>What it was told, as <c>opcode:member:data</c> in hexadecimal digits; the group of itself is member "self".</summary>
    internal IReadOnlyList<string> Calls => [.. _calls];

    /// <summary>What it has for virtual functions.</summary>
    internal AdminCommandSet ForMembers { get; set; } = AdminCommandSet.Lists | AdminCommandSet.Legacy | AdminCommandSet.DeviceParts;

    /// <summary>What it has for itself.</summary>
    internal AdminCommandSet ForSelf { get; set; } = AdminCommandSet.Lists | AdminCommandSet.Capabilities;

    /// <summary>Its capabilities.</summary>
    internal byte Capabilities { get; set; } = 1;

    internal DevicePartsCapability Limits { get; set; } = new(2, 3);

    /// <summary>Whether there are virtual functions, as far as it knows.</summary>
    internal bool HasMembers { get; set; } = true;

    internal LegacyNotifyInfo[] Places { get; set; } = [];

    internal byte[] State { get; set; } = [1, 2, 3, 4, 5, 6, 7, 8, 9];

    /// <summary>What was agreed on for virtual functions.</summary>
    internal AdminCommandSet InUse { get; private set; }

    internal int Objects => _objects.Count;

    /// <summary>Commands that are not answered.</summary>
    internal ushort? Silent { get; set; }

    internal byte[] RegistersOf(ulong member) => _registers.TryGetValue(member, out var there) ? there : _registers[member] = new byte[HeaderSize + ConfigSize];

    internal void Clear() => _calls.Clear();

    internal void Reset()
    {
        _objects.Clear();
        InUse = AdminCommandSet.Lists;
    }

    /// <summary>Answers; null for never.</summary>
    internal (ushort Status, byte[] Result)? Answer(AdminCommand command, byte[] data, int resultLength)
    {
        var isSelf = command.GroupType == VIRTIO_ADMIN_GROUP_TYPE_SELF;
        _calls.Enqueue($"{command.Opcode:x}:{(isSelf ? "self" : command.MemberId)}:{Convert.ToHexStringLower(data)}");
        if (Silent == command.Opcode)
            return null;
        if (!isSelf && !HasMembers)
            return (AdminStatus.VIRTIO_ADMIN_STATUS_EINVAL, []);
        switch (command.Opcode)
        {
            case VIRTIO_ADMIN_CMD_LIST_QUERY:
                return (0, Words((isSelf ? ForSelf : ForMembers).Bits));
            case VIRTIO_ADMIN_CMD_LIST_USE:
                if (!isSelf)
                    InUse = new AdminCommandSet(BinaryPrimitives.ReadUInt64LittleEndian(data));
                return (0, []);
            case VIRTIO_ADMIN_CMD_CAP_ID_LIST_QUERY:
                return (0, [Capabilities, 0, 0, 0, 0, 0, 0, 0]);
            case VIRTIO_ADMIN_CMD_DEVICE_CAP_GET:
                return (0, [Limits.GetLimit, Limits.SetLimit]);
            case VIRTIO_ADMIN_CMD_LEGACY_COMMON_CFG_READ:
                return (0, RegistersOf(command.MemberId).AsSpan(data[0], resultLength).ToArray());
            case VIRTIO_ADMIN_CMD_LEGACY_DEV_CFG_READ:
                return (0, RegistersOf(command.MemberId).AsSpan(HeaderSize + data[0], resultLength).ToArray());
            case VIRTIO_ADMIN_CMD_LEGACY_COMMON_CFG_WRITE:
                data.AsSpan(8).CopyTo(RegistersOf(command.MemberId).AsSpan(data[0]));
                return (0, []);
            case VIRTIO_ADMIN_CMD_LEGACY_DEV_CFG_WRITE:
                data.AsSpan(8).CopyTo(RegistersOf(command.MemberId).AsSpan(HeaderSize + data[0]));
                return (0, []);
            case VIRTIO_ADMIN_CMD_LEGACY_NOTIFY_INFO:
                var places = new byte[resultLength];
                for (var i = 0; i < Places.Length; i++)
                    Places[i].Write(places.AsSpan(i * LegacyNotifyInfo.Size));
                return (0, places);
            case VIRTIO_ADMIN_CMD_RESOURCE_OBJ_CREATE:
                return (_objects.Add((command.MemberId, ResourceObject.Read(data).Id)) ? (ushort)0 : AdminStatus.VIRTIO_ADMIN_STATUS_EEXIST, []);
            case VIRTIO_ADMIN_CMD_RESOURCE_OBJ_DESTROY:
                return (_objects.Remove((command.MemberId, ResourceObject.Read(data).Id)) ? (ushort)0 : AdminStatus.VIRTIO_ADMIN_STATUS_ENXIO, []);
            case VIRTIO_ADMIN_CMD_DEV_PARTS_METADATA_GET:
                return (0, Words((ulong)State.Length));
            case VIRTIO_ADMIN_CMD_DEV_PARTS_GET:
                return State.Length <= resultLength ? ((ushort)0, State) : (AdminStatus.VIRTIO_ADMIN_STATUS_ENOMEM, []);
            case VIRTIO_ADMIN_CMD_DEV_PARTS_SET:
                State = data[ResourceObject.Size..];
                return (0, []);
            default:
                return (0, []);
        }
    }

    private static byte[] Words(ulong word)
    {
        var bytes = new byte[8];
        BinaryPrimitives.WriteUInt64LittleEndian(bytes, word);
        return bytes;
    }
}
