namespace Virtbus.Pci;

/// <summary>What a layout is drawn on: for each bit its value after power-on, and who may change it how.</summary>
internal sealed class ConfigImage(int size)
{
    internal uint[] Values { get; } = new uint[size / 4];

    internal uint[] Writable { get; } = new uint[size / 4];

    internal uint[] Clearable { get; } = new uint[size / 4];

    /// <summary>Bits that a function-level reset leaves alone: sticky ones, and those that belong to the link.</summary>
    internal uint[] Kept { get; } = new uint[size / 4];

    /// <summary>Defines a register that lies inside one dword.</summary>
    internal void Set(int offset, int bytes, uint value, uint writable = 0, uint clearable = 0, uint kept = 0)
    {
        var index = offset / 4;
        var shift = 8 * (offset & 3);
        var mask = (bytes == 4 ? uint.MaxValue : (1u << (8 * bytes)) - 1) << shift;
        Values[index] = (Values[index] & ~mask) | ((value << shift) & mask);
        Writable[index] = (Writable[index] & ~mask) | ((writable << shift) & mask);
        Clearable[index] = (Clearable[index] & ~mask) | ((clearable << shift) & mask);
        Kept[index] = (Kept[index] & ~mask) | ((kept << shift) & mask);
    }

    internal void Set64(int offset, ulong value)
    {
        Set(offset, 4, (uint)value);
        Set(offset + 4, 4, (uint)(value >> 32));
    }

    internal void SetBytes(int offset, ReadOnlySpan<byte> values, ReadOnlySpan<byte> writable)
    {
        for (var i = 0; i < values.Length; i++)
            Set(offset + i, 1, values[i], i < writable.Length ? writable[i] : 0u);
    }

    /// <summary>Defines a base address register (two for 64 bits).</summary>
    internal void SetBar(int offset, in PciBar bar)
    {
        var sizeMask = ~(bar.Size - 1);
        var prefetch = bar.IsPrefetchable ? (uint)PciHeader.PCI_BASE_ADDRESS_MEM_PREFETCH : 0;
        switch (bar.Kind)
        {
            case PciBarKind.Io:
                Set(offset, 4, PciHeader.PCI_BASE_ADDRESS_SPACE_IO, (uint)sizeMask & ~3u);
                break;
            case PciBarKind.Memory32:
                Set(offset, 4, prefetch, (uint)sizeMask & ~0xFu);
                break;
            case PciBarKind.Memory64:
                Set(offset, 4, PciHeader.PCI_BASE_ADDRESS_MEM_TYPE_64 | prefetch, (uint)sizeMask & ~0xFu);
                Set(offset + 4, 4, 0, (uint)(sizeMask >> 32));
                break;
            case PciBarKind.Rom:
                Set(offset, 4, 0, ((uint)sizeMask & ~0x7FFu) | PciHeader.PCI_ROM_ADDRESS_ENABLE);
                break;
        }
    }
}
