using System.Buffers.Binary;

namespace Virtbus.Pci;

/// <summary>
/// The config space of one function: values under the rules of a <see cref="ConfigLayout"/>. Safe from any thread; each dword is read and
/// written as one. Nothing is allocated by an access.
/// </summary>
public sealed class ConfigSpace
{
    private readonly Lock _lock = new();
    private readonly uint[] _values;

    /// <summary>Makes one with the values after power-on.</summary>
    /// <param name="layout">Its rules.</param>
    public ConfigSpace(ConfigLayout layout)
    {
        Layout = layout;
        _values = (uint[])layout.InitialValues.Clone();
    }

    /// <summary>Its rules.</summary>
    public ConfigLayout Layout { get; }

    /// <summary>Bytes: 256 or 4096.</summary>
    public int Size => Layout.Size;

    /// <summary>Reads. What lies outside reads as all ones.</summary>
    /// <param name="offset">First byte.</param>
    /// <param name="destination">Where to; any length.</param>
    public void Read(int offset, Span<byte> destination)
    {
        if (destination.Length == 4 && (offset & 3) == 0 && (uint)offset < (uint)Size)
        {
            lock (_lock)
                BinaryPrimitives.WriteUInt32LittleEndian(destination, _values[offset / 4]);
            return;
        }
        lock (_lock)
        {
            for (var i = 0; i < destination.Length; i++)
            {
                var at = (uint)(offset + i);
                destination[i] = at < (uint)Size ? (byte)(_values[at / 4] >> (8 * (int)(at & 3))) : (byte)0xFF;
            }
        }
    }

    /// <summary>Writes as software does: read-only bits keep their value, write-1-to-clear bits are cleared. What lies outside is lost.</summary>
    /// <param name="offset">First byte.</param>
    /// <param name="source">Where from; any length.</param>
    /// <returns>What the function has to do now.</returns>
    public ConfigEffects Write(int offset, ReadOnlySpan<byte> source)
    {
        var effects = ConfigEffects.None;
        lock (_lock)
        {
            var i = 0;
            while (i < source.Length)
            {
                var at = offset + i;
                if ((uint)at >= (uint)Size)
                    break;
                var shift = at & 3;
                var count = Math.Min(4 - shift, source.Length - i);
                uint written = 0, mask = 0;
                for (var b = 0; b < count; b++)
                {
                    written |= (uint)source[i + b] << (8 * (shift + b));
                    mask |= 0xFFu << (8 * (shift + b));
                }
                WriteWord(at / 4, written, mask, ref effects);
                i += count;
            }
        }
        return effects;
    }

    /// <summary>Reads a byte.</summary>
    /// <param name="offset">Byte offset.</param>
    public byte Read8(int offset) => (byte)(Word(offset) >> (8 * (offset & 3)));

    /// <summary>Reads a 16-bit register.</summary>
    /// <param name="offset">Byte offset, a multiple of 2.</param>
    public ushort Read16(int offset) => (ushort)(Word(offset) >> (8 * (offset & 2)));

    /// <summary>Reads a 32-bit register.</summary>
    /// <param name="offset">Byte offset, a multiple of 4.</param>
    public uint Read32(int offset) => Word(offset);

    /// <summary>Sets bits as hardware does, whatever software may write there.</summary>
    /// <param name="offset">Byte offset of a dword, a multiple of 4; a 16-bit register at offset+2 is its upper half.</param>
    /// <param name="mask">Which bits.</param>
    /// <param name="value">Their values.</param>
    public void Set(int offset, uint mask, uint value)
    {
        lock (_lock)
        {
            ref var word = ref _values[offset / 4];
            word = (word & ~mask) | (value & mask);
        }
    }

    /// <summary>Sets the values back to those after power-on.</summary>
    /// <param name="kind">A function-level reset leaves some bits alone, a conventional one none.</param>
    public void Reset(PciResetKind kind)
    {
        var initial = Layout.InitialValues;
        var kept = Layout.Kept;
        lock (_lock)
        {
            for (var i = 0; i < _values.Length; i++)
                _values[i] = kind == PciResetKind.FunctionLevel ? (initial[i] & ~kept[i]) | (_values[i] & kept[i]) : initial[i];
        }
    }

    private uint Word(int offset)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual((uint)offset, (uint)Size, nameof(offset));
        return Volatile.Read(ref _values[offset / 4]);
    }

    private void WriteWord(int index, uint written, uint mask, ref ConfigEffects effects)
    {
        var writable = Layout.Writable[index] & mask;
        var value = (_values[index] & ~writable) | (written & writable);
        value &= ~(written & Layout.Clearable[index]);
        if (Layout.OwnerOf(index) is { } owner)
        {
            var block = _values.AsSpan(owner.Offset / 4, (owner.Length + 3) / 4);
            value = owner.Write((index * 4) - owner.Offset, block, value, written, ref effects);
        }
        _values[index] = value;
    }
}
