using System.Runtime.InteropServices;

namespace Virtbus.Tests;

/// <summary>A checksum where there is no library for a better one: FNV-1a over words of eight bytes.</summary>
internal static class Checksum
{
    /// <summary>Of bytes that are a multiple of eight.</summary>
    internal static string Of(ReadOnlySpan<byte> bytes)
    {
        var sum = 0xCBF29CE484222325;
        foreach (var word in MemoryMarshal.Cast<byte, ulong>(bytes))
            sum = (sum ^ word) * 0x100000001B3;
        return $"{sum:x16}";
    }
}
