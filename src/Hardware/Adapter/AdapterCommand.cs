using System.Buffers.Binary;

namespace Virtbus.Hardware.Adapter;

/// <summary>A command as it lies in its ring: opcode 2, flags 2, tag 4, index 4, reserved 4, six arguments of 8 bytes.</summary>
/// <param name="bytes">The 64 bytes, already copied out of the driver's memory.</param>
internal readonly ref struct AdapterCommand(ReadOnlySpan<byte> bytes)
{
    public const int Size = 64;

    private readonly ReadOnlySpan<byte> _bytes = bytes;

    public AdapterOpcode Opcode => (AdapterOpcode)BinaryPrimitives.ReadUInt16LittleEndian(_bytes);

    public uint Tag => BinaryPrimitives.ReadUInt32LittleEndian(_bytes[4..]);

    public uint Index => BinaryPrimitives.ReadUInt32LittleEndian(_bytes[8..]);

    // What is reserved has to be zero, so that it can get a meaning later.
    public bool HasReservedBits => BinaryPrimitives.ReadUInt16LittleEndian(_bytes[2..]) != 0 || BinaryPrimitives.ReadUInt32LittleEndian(_bytes[12..]) != 0;

    public ulong this[int argument] => BinaryPrimitives.ReadUInt64LittleEndian(_bytes[(16 + (8 * argument))..]);
}
