using System.Buffers.Binary;
using static Virtbus.Virtio.Admin.AdminOpcode;
using static Virtbus.Virtio.Admin.AdminQualifier;
using static Virtbus.Virtio.Admin.AdminStatus;

namespace Virtbus.Virtio.Admin;

// Capabilities and resource objects (VIRTIO 1.4, 2.12.1.2 and 2.12.1.3).
internal sealed partial class AdminCommands
{
    private static readonly DevicePartsCapability Limits = new(byte.MaxValue, byte.MaxValue);

    private DevicePartsCapability _limits;

    private void ForgetObjects() => _limits = default;

    private AdminAnswer DoCapability(ushort opcode, ReadOnlySpan<byte> data, Span<byte> result, out int length)
    {
        length = 0;
        if (opcode == VIRTIO_ADMIN_CMD_CAP_ID_LIST_QUERY)
        {
            length = Put(AdminCommandSet.Of(AdminCapability.VIRTIO_DEV_PARTS_CAP), result);
            return AdminAnswer.Ok;
        }

        Span<byte> id = stackalloc byte[sizeof(ushort)];
        id.Clear();
        data[..Math.Min(data.Length, id.Length)].CopyTo(id);
        if (BinaryPrimitives.ReadUInt16LittleEndian(id) != AdminCapability.VIRTIO_DEV_PARTS_CAP)
            return new AdminAnswer(VIRTIO_ADMIN_STATUS_ENXIO, VIRTIO_ADMIN_STATUS_Q_INVALID_FIELD);
        if (opcode == VIRTIO_ADMIN_CMD_DEVICE_CAP_GET)
        {
            Span<byte> whole = stackalloc byte[DevicePartsCapability.Size];
            Limits.Write(whole);
            length = Put(whole, result);
            return AdminAnswer.Ok;
        }

        _limits = DevicePartsCapability.Read(data[Math.Min(data.Length, AdminCapability.HeaderSize)..]);
        return AdminAnswer.Ok;
    }
}
