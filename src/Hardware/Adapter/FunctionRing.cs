using Virtbus.Memory;

namespace Virtbus.Hardware.Adapter;

/// <summary>A ring of fixed-size entries in the driver's memory.</summary>
/// <param name="Base">Where it is.</param>
/// <param name="Log">Log2 of its entries.</param>
internal readonly record struct FunctionRing(Iova Base, byte Log)
{
    private const int MinLog = 1;
    private const int MaxLog = 12;
    private const ulong Alignment = 64;

    public uint Count => 1u << Log;

    public static bool TryMake(ulong start, uint log, int entrySize, out FunctionRing ring)
    {
        ring = default;
        if (log is < MinLog or > MaxLog || start % Alignment != 0 || start > ulong.MaxValue - (((ulong)entrySize << (int)log) - 1))
            return false;
        ring = new FunctionRing(new Iova(start), (byte)log);
        return true;
    }

    public Iova At(uint index, int entrySize) => new(Base.Value + ((index & (Count - 1)) * (ulong)entrySize));
}
