using System.Buffers.Binary;

namespace Virtbus.Subsystems.Vfio;

/// <summary>
/// The reading side of a migration stream that consists of records: a header of 16 bytes (u64 size of the payload, u32 flags, u32 tag; little
/// endian) and the payload. A driver appends whole records, the user reads bytes. One thread at a time.
/// </summary>
public sealed class VfioRecordWriter
{
    /// <summary>Bytes of a record's header.</summary>
    public const int HeaderSize = 16;

    /// <summary>Flag of a record that a reader which does not know its tag may leave out.</summary>
    public const uint OptionalFlag = 1;

    private readonly Queue<ReadOnlyMemory<byte>> _chunks = new();
    private ReadOnlyMemory<byte> _first;

    /// <summary>Bytes that are still to be read.</summary>
    public ulong Pending { get; private set; }

    /// <summary>Appends a record.</summary>
    /// <param name="tag">What it is.</param>
    /// <param name="payload">Its content, which must not change any more.</param>
    /// <param name="isOptional">Whether a reader may leave it out.</param>
    public void Append(uint tag, ReadOnlyMemory<byte> payload, bool isOptional = false)
    {
        var header = new byte[HeaderSize];
        BinaryPrimitives.WriteUInt64LittleEndian(header, (ulong)payload.Length);
        BinaryPrimitives.WriteUInt32LittleEndian(header.AsSpan(8), isOptional ? OptionalFlag : 0);
        BinaryPrimitives.WriteUInt32LittleEndian(header.AsSpan(12), tag);
        _chunks.Enqueue(header);
        if (!payload.IsEmpty)
            _chunks.Enqueue(payload);
        Pending += (ulong)(HeaderSize + payload.Length);
    }

    /// <summary>Takes the next bytes.</summary>
    /// <param name="destination">Where to.</param>
    /// <returns>How many; 0 when there are none.</returns>
    public int Read(Span<byte> destination)
    {
        var count = 0;
        while (count < destination.Length && (!_first.IsEmpty || _chunks.TryDequeue(out _first)))
        {
            var part = Math.Min(_first.Length, destination.Length - count);
            _first.Span[..part].CopyTo(destination[count..]);
            _first = _first[part..];
            count += part;
        }
        Pending -= (ulong)count;
        return count;
    }

    /// <summary>Drops what is left.</summary>
    public void Clear()
    {
        _chunks.Clear();
        _first = default;
        Pending = 0;
    }
}
