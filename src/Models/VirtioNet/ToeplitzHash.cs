using System.Buffers.Binary;

namespace Virtbus.Models.VirtioNet;

/// <summary>The Toeplitz hash with one key: for each bit of the input that is set, the 32 bits of the key that begin at its place. Bytes are looked up.</summary>
internal sealed class ToeplitzHash
{
    // Two IPv6 addresses and two ports.
    private const int MostInput = 36;
    private readonly uint[] _table = new uint[MostInput * 256];

    /// <summary>Makes one.</summary>
    /// <param name="key">40 bytes.</param>
    internal ToeplitzHash(ReadOnlySpan<byte> key)
    {
        Span<uint> ofBit = stackalloc uint[8];
        for (var at = 0; at < MostInput; at++)
        {
            var window = ((ulong)BinaryPrimitives.ReadUInt32BigEndian(key[at..]) << 8) | key[at + 4];
            // The highest bit comes first.
            for (var bit = 0; bit < 8; bit++)
                ofBit[7 - bit] = (uint)(window >> (8 - bit));
            for (var value = 1; value < 256; value++)
            {
                var lowest = int.TrailingZeroCount(value);
                _table[(at * 256) + value] = _table[(at * 256) + (value & (value - 1))] ^ ofBit[lowest];
            }
        }
    }

    /// <summary>The hash of two pieces, one behind the other, of 36 bytes together at most.</summary>
    internal uint Of(ReadOnlySpan<byte> addresses, ReadOnlySpan<byte> ports)
    {
        var hash = 0u;
        var at = 0;
        foreach (var value in addresses)
            hash ^= _table[(at++ * 256) + value];
        foreach (var value in ports)
            hash ^= _table[(at++ * 256) + value];
        return hash;
    }
}
