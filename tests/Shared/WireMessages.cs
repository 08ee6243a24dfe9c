using System.Buffers.Binary;
using Virtbus.Wire.VfioUser;

namespace Virtbus.Tests;

/// <summary>Messages of vfio-user as bytes, wrong ones too.</summary>
internal static class WireMessages
{
    /// <summary>Where memory is mapped.</summary>
    internal const ulong Base = 0x4000_0000;

    /// <summary>What QEMU 11.1.3 says of itself.</summary>
    internal const string QemuText =
        """{"capabilities":{"pgsizes":4096,"max_msg_fds":16,"max_dma_maps":65535,"max_data_xfer_size":1048576,"migration":{"max_bitmap_size":268435456,"pgsize":4096},"write_multiple":true}}""";

    internal static byte[] Words(params uint[] values)
    {
        var bytes = new byte[values.Length * 4];
        for (var i = 0; i < values.Length; i++)
            BinaryPrimitives.WriteUInt32LittleEndian(bytes.AsSpan(i * 4), values[i]);
        return bytes;
    }

    internal static byte[] Longs(params ulong[] values)
    {
        var bytes = new byte[values.Length * 8];
        for (var i = 0; i < values.Length; i++)
            BinaryPrimitives.WriteUInt64LittleEndian(bytes.AsSpan(i * 8), values[i]);
        return bytes;
    }

    internal static byte[] Message(VfioUserCommand command, byte[] payload, uint flags = 0, ushort id = 0)
    {
        var message = new byte[16 + payload.Length];
        VfioUserMessage.WriteHeader(message, id, command, message.Length, flags);
        payload.CopyTo(message, 16);
        return message;
    }

    internal static byte[] Version(string? text, ushort major = 0, ushort minor = 0) =>
        [(byte)major, (byte)(major >> 8), (byte)minor, (byte)(minor >> 8), .. text is null ? [] : System.Text.Encoding.UTF8.GetBytes(text + "\0")];

    internal static byte[] Map(ulong address, ulong size, ulong offset = 0, uint flags = 3, uint argsz = 32) =>
        [.. Words(argsz, flags), .. Longs(offset, address, size)];

    internal static byte[] Unmap(ulong address, ulong size, uint flags = 0, uint argsz = 24) => [.. Words(argsz, flags), .. Longs(address, size)];

    internal static byte[] Access(uint region, ulong offset, uint count, params byte[] data) => [.. Longs(offset), .. Words(region, count), .. data];

    internal static byte[] Irqs(uint flags, uint index, uint start, uint count, params byte[] data) =>
        [.. Words((uint)(20 + data.Length), flags, index, start, count), .. data];
}
