using System.Buffers.Binary;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;

namespace Virtbus.Ethernet;

/// <summary>The checksum of IP, TCP and UDP: the ones' complement of the ones' complement sum of 16-bit words (RFC 1071).</summary>
internal static class InternetChecksum
{
    // Where it stands in UDP's header (RFC 768), counted from its start.
    internal const int UdpOffset = 6;

    /// <summary>The checksum of some bytes, as the number that stands in network order.</summary>
    /// <param name="bytes">At most 64 MiB; an odd last byte is the upper half of a word.</param>
    public static ushort Of(ReadOnlySpan<byte> bytes) => (ushort)~Sum(bytes);

    /// <summary>The sum that is not complemented.</summary>
    /// <param name="bytes">At most 64 MiB.</param>
    public static ushort Sum(ReadOnlySpan<byte> bytes)
    {
        // The sum does not depend on the order of bytes in a word, but for the last swap (RFC 1071, 2 (B)).
        ulong sum = 0;
        if (BitConverter.IsLittleEndian && bytes.Length >= 2 * Vector256<byte>.Count)
        {
            var (even, odd) = (Vector256<ulong>.Zero, Vector256<ulong>.Zero);
            var blocks = MemoryMarshal.Cast<byte, Vector256<uint>>(bytes);
            foreach (var block in blocks)
            {
                even += Vector256.BitwiseAnd(block.AsUInt64(), Vector256.Create((ulong)uint.MaxValue));
                odd += Vector256.ShiftRightLogical(block.AsUInt64(), 32);
            }
            sum = Vector256.Sum(even) + Vector256.Sum(odd);
            bytes = bytes[(blocks.Length * Vector256<byte>.Count)..];
        }
        for (; bytes.Length >= 4; bytes = bytes[4..])
            sum += BinaryPrimitives.ReadUInt32LittleEndian(bytes);
        if (bytes.Length >= 2)
        {
            sum += BinaryPrimitives.ReadUInt16LittleEndian(bytes);
            bytes = bytes[2..];
        }
        if (!bytes.IsEmpty)
            sum += bytes[0];
        sum = (uint)sum + (sum >> 32);
        sum = (uint)sum + (sum >> 32);
        return BinaryPrimitives.ReverseEndianness(Fold((uint)sum));
    }

    /// <summary>A sum of words in 16 bits.</summary>
    /// <param name="sum">The sum with its carries.</param>
    public static ushort Fold(uint sum)
    {
        sum = (ushort)sum + (sum >> 16);
        return (ushort)(sum + (sum >> 16));
    }

    /// <summary>Puts the checksum in. The place holds the sum of the pseudo header, as its sender left it.</summary>
    /// <param name="covered">What it covers.</param>
    /// <param name="offset">Where it stands, within <paramref name="covered"/>.</param>
    public static void Put(Span<byte> covered, int offset)
    {
        var checksum = Of(covered);
        // In UDP none at all is sent as 0, so a checksum of 0 goes as its other form (RFC 768).
        if (checksum == 0 && offset == UdpOffset)
            checksum = ushort.MaxValue;
        BinaryPrimitives.WriteUInt16BigEndian(covered[offset..], checksum);
    }
}
