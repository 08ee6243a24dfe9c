using System.Buffers.Binary;

namespace Virtbus.Virtio;

/// <summary>One register at a time, as a number: registers are little endian on every bus (VIRTIO 1.2, 4.1.3).</summary>
public static class VirtioRegisterAccessExtensions
{
    /// <summary>Reads a register of one byte; 0xFF when the device is gone.</summary>
    /// <param name="registers">The registers.</param>
    /// <param name="offset">Its place.</param>
    public static byte ReadByte(this IVirtioRegisterAccess registers, int offset)
    {
        Span<byte> bytes = stackalloc byte[1];
        registers.Read(offset, bytes);
        return bytes[0];
    }

    /// <summary>Reads a register of two bytes; all ones when the device is gone.</summary>
    /// <param name="registers">The registers.</param>
    /// <param name="offset">Its first byte.</param>
    public static ushort ReadUInt16(this IVirtioRegisterAccess registers, int offset)
    {
        Span<byte> bytes = stackalloc byte[2];
        registers.Read(offset, bytes);
        return BinaryPrimitives.ReadUInt16LittleEndian(bytes);
    }

    /// <summary>Reads a register of four bytes; all ones when the device is gone.</summary>
    /// <param name="registers">The registers.</param>
    /// <param name="offset">Its first byte.</param>
    public static uint ReadUInt32(this IVirtioRegisterAccess registers, int offset)
    {
        Span<byte> bytes = stackalloc byte[4];
        registers.Read(offset, bytes);
        return BinaryPrimitives.ReadUInt32LittleEndian(bytes);
    }

    /// <summary>Reads a register of eight bytes; all ones when the device is gone.</summary>
    /// <param name="registers">The registers.</param>
    /// <param name="offset">Its first byte.</param>
    public static ulong ReadUInt64(this IVirtioRegisterAccess registers, int offset)
    {
        Span<byte> bytes = stackalloc byte[8];
        registers.Read(offset, bytes);
        return BinaryPrimitives.ReadUInt64LittleEndian(bytes);
    }

    /// <summary>Writes a register of two bytes.</summary>
    /// <param name="registers">The registers.</param>
    /// <param name="offset">Its first byte.</param>
    /// <param name="value">The value.</param>
    public static void WriteUInt16(this IVirtioRegisterAccess registers, int offset, ushort value)
    {
        Span<byte> bytes = stackalloc byte[2];
        BinaryPrimitives.WriteUInt16LittleEndian(bytes, value);
        registers.Write(offset, bytes);
    }

    /// <summary>Writes a register of four bytes.</summary>
    /// <param name="registers">The registers.</param>
    /// <param name="offset">Its first byte.</param>
    /// <param name="value">The value.</param>
    public static void WriteUInt32(this IVirtioRegisterAccess registers, int offset, uint value)
    {
        Span<byte> bytes = stackalloc byte[4];
        BinaryPrimitives.WriteUInt32LittleEndian(bytes, value);
        registers.Write(offset, bytes);
    }

    /// <summary>Writes a register of eight bytes.</summary>
    /// <param name="registers">The registers.</param>
    /// <param name="offset">Its first byte.</param>
    /// <param name="value">The value.</param>
    public static void WriteUInt64(this IVirtioRegisterAccess registers, int offset, ulong value)
    {
        Span<byte> bytes = stackalloc byte[8];
        BinaryPrimitives.WriteUInt64LittleEndian(bytes, value);
        registers.Write(offset, bytes);
    }
}
