namespace Virtbus.Drivers.VfioPci;

/// <summary>Where an access and a register meet (VP-11): a driver that emulates a register of config space or of a BAR finds with it which bytes of an access are the register's.</summary>
/// <param name="BufferOffset">First byte in the access's buffer.</param>
/// <param name="RegisterOffset">First byte in the register.</param>
/// <param name="Count">Bytes, above 0.</param>
public readonly record struct VfioPciOverlap(int BufferOffset, int RegisterOffset, int Count)
{
    /// <summary>Finds the bytes that an access and a register have in common.</summary>
    /// <param name="offset">First byte of the access.</param>
    /// <param name="length">Bytes of the access.</param>
    /// <param name="register">First byte of the register.</param>
    /// <param name="size">Bytes of the register.</param>
    /// <param name="overlap">Where they meet.</param>
    /// <returns>False when they do not meet.</returns>
    public static bool TryFind(ulong offset, int length, ulong register, int size, out VfioPciOverlap overlap)
    {
        overlap = default;
        if (length <= 0 || size <= 0)
            return false;
        var first = Math.Max(offset, register);
        // Last bytes, not ends: an end may be 2^64.
        var last = Math.Min(LastOf(offset, length), LastOf(register, size));
        if (first > last)
            return false;
        overlap = new VfioPciOverlap((int)(first - offset), (int)(first - register), (int)(last - first) + 1);
        return true;
    }

    private static ulong LastOf(ulong offset, int length)
    {
        var last = offset + (ulong)(length - 1);
        return last < offset ? ulong.MaxValue : last;
    }
}
