using System.Buffers.Binary;
using Virtbus.Drivers.VirtioAdmin;
using Virtbus.Platform;
using Virtbus.Virtio.Admin;
using static Virtbus.Virtio.Admin.AdminOpcode;

namespace Virtbus.Tests.Drivers.VfioPci;

/// <summary>A physical function's driver of which the tests say what its device answers.</summary>
internal sealed class FakeAdminOwner : IVirtioAdminOwner
{
    private readonly bool[] _objects = new bool[4];

    /// <summary>Reads of ports give these bytes, from the byte of the place on.</summary>
    internal const byte Pattern = 0x80;

    public AdminCommandSet Commands { get; set; } = AdminCommandSet.Lists | AdminCommandSet.Legacy | AdminCommandSet.DeviceParts;

    public int ObjectLimit { get; set; } = 4;

    /// <summary>What was asked: opcode, virtual function, data of the command, bytes of the answer.</summary>
    internal List<string> Calls { get; } = [];

    /// <summary>Where notifications of old drivers go.</summary>
    internal List<LegacyNotifyInfo> Places { get; } =
        [new(LegacyNotifyInfo.VIRTIO_ADMIN_CMD_NOTIFY_INFO_FLAGS_OWNER_DEV, FakeVirtioFunction.RegisterBar, 8), new(LegacyNotifyInfo.VIRTIO_ADMIN_CMD_NOTIFY_INFO_FLAGS_OWNER_MEM, FakeVirtioFunction.RegisterBar, FakeVirtioFunction.NotifyAt)];

    /// <summary>What the device answers to these commands.</summary>
    internal Dictionary<ushort, Errno> Fails { get; } = [];

    /// <summary>Called for each command, before it is done.</summary>
    internal Action<ushort>? Executing { get; set; }

    internal byte[] State { get; set; } = [1, 2, 3, 4, 5];

    internal uint? Size { get; set; }

    internal List<byte[]> Loaded { get; } = [];

    internal bool IsStopped { get; private set; }

    internal int Objects => _objects.Count(static o => o);

    public bool TryExecute(ushort opcode, int function, ReadOnlySpan<byte> head, ReadOnlySpan<byte> body, Span<byte> result, out int written, out Fault fault)
    {
        written = 0;
        Executing?.Invoke(opcode);
        Calls.Add($"{opcode:x} {function} {Convert.ToHexStringLower(head)}{Convert.ToHexStringLower(body)} {result.Length}");
        if (Fails.TryGetValue(opcode, out var errno))
        {
            fault = new Fault(errno, "as the test says");
            return false;
        }

        fault = Fault.None;
        switch (opcode)
        {
            case VIRTIO_ADMIN_CMD_LEGACY_COMMON_CFG_READ or VIRTIO_ADMIN_CMD_LEGACY_DEV_CFG_READ:
                for (var i = 0; i < result.Length; i++)
                    result[i] = (byte)(Pattern + head[0] + i);
                written = result.Length;
                break;
            case VIRTIO_ADMIN_CMD_LEGACY_NOTIFY_INFO:
                for (var i = 0; i < Places.Count; i++)
                    Places[i].Write(result[(i * LegacyNotifyInfo.Size)..]);
                written = result.Length;
                break;
            case VIRTIO_ADMIN_CMD_DEV_PARTS_METADATA_GET:
                BinaryPrimitives.WriteUInt32LittleEndian(result, Size ?? (uint)State.Length);
                written = result.Length;
                break;
            case VIRTIO_ADMIN_CMD_DEV_PARTS_GET:
                written = Math.Min(State.Length, result.Length);
                State.AsSpan(0, written).CopyTo(result);
                break;
            case VIRTIO_ADMIN_CMD_DEV_PARTS_SET:
                Loaded.Add(body.ToArray());
                break;
            case VIRTIO_ADMIN_CMD_DEV_MODE_SET:
                IsStopped = head[0] == 1;
                break;
        }

        return true;
    }

    public bool TryTakeObject(int function, out uint id)
    {
        var free = _objects.AsSpan(0, ObjectLimit).IndexOf(false);
        id = (uint)free;
        if (free < 0)
            return false;
        _objects[free] = true;
        return true;
    }

    public bool HasObject(int function, uint id) => id < _objects.Length && _objects[id];

    public void FreeObject(int function, uint id) => _objects[id] = false;
}
