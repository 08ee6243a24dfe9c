using System.Buffers.Binary;
using System.Text;
using Virtbus.Memory.Dma;

namespace Virtbus.Hardware.Adapter;

/// <summary>What a virtio block function is to be, as the command to make one finds it in the driver's memory.</summary>
internal readonly record struct VirtioBlockParameters(uint Pasid, ushort Queues, bool Packed, string Serial, string Name, string Medium)
{
    public const int Size = 256;
    private const int MaxQueues = 256;
    private const int FlagsOffset = 6;
    private const ushort PackedFlag = 1;
    private const int SerialOffset = 8;
    private const int SerialSize = 20;
    private const int NameOffset = 32;
    private const int MediumOffset = 128;
    private const int TextSize = 96;
    private const int End = MediumOffset + TextSize;

    /// <summary>Reads them from a copy of the driver's memory.</summary>
    /// <returns>False when a number is out of bounds or a text is not one.</returns>
    public static bool TryRead(ReadOnlySpan<byte> from, out VirtioBlockParameters parameters)
    {
        parameters = default;
        var pasid = BinaryPrimitives.ReadUInt32LittleEndian(from);
        var queues = BinaryPrimitives.ReadUInt16LittleEndian(from[4..]);
        var flags = BinaryPrimitives.ReadUInt16LittleEndian(from[FlagsOffset..]);
        if (pasid is 0 or > DmaPort.MaxPasid || queues is 0 or > MaxQueues
            || flags > PackedFlag || from[(SerialOffset + SerialSize)..NameOffset].ContainsAnyExcept((byte)0)
            || from[End..].ContainsAnyExcept((byte)0)
            || !TryReadText(from.Slice(SerialOffset, SerialSize), out var serial)
            || !TryReadText(from.Slice(NameOffset, TextSize), out var name)
            || !TryReadText(from.Slice(MediumOffset, TextSize), out var medium))
            return false;
        parameters = new VirtioBlockParameters(pasid, queues, flags == PackedFlag, serial, name, medium);
        return true;
    }

    // Printable ASCII, filled up with zeros.
    private static bool TryReadText(ReadOnlySpan<byte> field, out string text)
    {
        var length = field.IndexOf((byte)0);
        if (length < 0)
            length = field.Length;
        text = Encoding.ASCII.GetString(field[..length]);
        return !field[..length].ContainsAnyExceptInRange((byte)' ', (byte)'~') && !field[length..].ContainsAnyExcept((byte)0);
    }
}
