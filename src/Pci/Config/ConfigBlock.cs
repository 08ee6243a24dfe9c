namespace Virtbus.Pci;

/// <summary>
/// A part of config space with rules of its own: the header or a capability. It belongs to a layout that many functions share, so it holds
/// no state of a function.
/// </summary>
internal abstract class ConfigBlock(string name, int length)
{
    /// <summary>Name for messages.</summary>
    internal string Name { get; } = name;

    /// <summary>Bytes that it takes.</summary>
    internal int Length { get; } = length;

    /// <summary>First byte; set when the layout is built.</summary>
    internal int Offset { get; set; }

    /// <summary>Where it was asked to be; null for anywhere.</summary>
    internal int? WantedOffset { get; init; }

    /// <summary>Defines the registers.</summary>
    internal abstract void Fill(ConfigImage image);

    /// <summary>
    /// Told of a write to one of its dwords, under the lock of the space, after the masks were applied.
    /// </summary>
    /// <param name="register">Byte offset of the dword in the block.</param>
    /// <param name="block">The block's dwords as they were before.</param>
    /// <param name="value">The dword as the masks make it.</param>
    /// <param name="written">What was written, bits of bytes that were not are 0.</param>
    /// <param name="effects">What the function has to do; flags are added.</param>
    /// <returns>The dword as it will be.</returns>
    internal virtual uint Write(int register, ReadOnlySpan<uint> block, uint value, uint written, ref ConfigEffects effects) => value;
}

/// <summary>Bytes of a function's own outside of any capability, read-only.</summary>
internal sealed class HiddenBlock(int offset, byte[] bytes) : ConfigBlock($"hidden bytes at 0x{offset:x}", bytes.Length)
{
    internal override void Fill(ConfigImage image) => image.SetBytes(Offset, bytes, []);
}

/// <summary>A capability in the first 256 bytes (version 0) or an extended one.</summary>
internal abstract class PciCapability(string name, ushort id, int length, int version = 0) : ConfigBlock(name, length)
{
    internal ushort Id { get; } = id;

    internal int Version { get; } = version;

    internal bool IsExtended => Version > 0;

    /// <summary>Offset of the next one in the list, 0 at its end; set when the layout is built.</summary>
    internal int Next { get; set; }

    internal sealed override void Fill(ConfigImage image)
    {
        if (IsExtended)
            image.Set(Offset, 4, Id | ((uint)Version << 16) | ((uint)Next << 20));
        else
            image.Set(Offset, 2, Id | ((uint)Next << 8));
        FillRegisters(image);
    }

    private protected abstract void FillRegisters(ConfigImage image);
}
