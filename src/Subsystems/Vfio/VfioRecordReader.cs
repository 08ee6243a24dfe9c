using System.Buffers.Binary;
using Virtbus.Platform;

namespace Virtbus.Subsystems.Vfio;

/// <summary>
/// The writing side of a migration stream of records (<see cref="VfioRecordWriter"/>): the user writes bytes, cut anyhow; the driver gets whole
/// records. What comes is not trusted. One thread at a time.
/// </summary>
/// <param name="maxPayload">The most bytes that a record may have; more is refused before any memory is taken for it.</param>
public sealed class VfioRecordReader(int maxPayload)
{
    private readonly byte[] _header = new byte[VfioRecordWriter.HeaderSize];
    private byte[] _payload = [];
    private int _have;
    private bool _inPayload;

    /// <summary>Takes a record.</summary>
    /// <param name="tag">What it is.</param>
    /// <param name="isOptional">Whether it may be left out when the tag is not known.</param>
    /// <param name="payload">Its content; it belongs to the receiver.</param>
    /// <param name="fault">Why it is refused.</param>
    public delegate bool Receive(uint tag, bool isOptional, byte[] payload, out Fault fault);

    /// <summary>Whether all bytes so far make whole records.</summary>
    public bool IsBetweenRecords => !_inPayload && _have == 0;

    /// <summary>Takes the next bytes.</summary>
    /// <param name="source">The bytes.</param>
    /// <param name="receive">Called for each record that is complete.</param>
    /// <param name="fault">EINVAL: unknown flags; ENOMEM: a record is larger than any of such a device; or what <paramref name="receive"/> answered. The stream is not usable any more.</param>
    public bool TryWrite(ReadOnlySpan<byte> source, Receive receive, out Fault fault)
    {
        ArgumentNullException.ThrowIfNull(receive);
        fault = Fault.None;
        while (true)
        {
            if (_inPayload && _have == _payload.Length)
            {
                var payload = _payload;
                _payload = [];
                _have = 0;
                _inPayload = false;
                if (!receive(BinaryPrimitives.ReadUInt32LittleEndian(_header.AsSpan(12)), (Flags & VfioRecordWriter.OptionalFlag) != 0, payload, out fault))
                    return false;
            }
            if (source.IsEmpty)
                return true;
            var target = (_inPayload ? _payload : _header).AsSpan(_have);
            var part = Math.Min(target.Length, source.Length);
            source[..part].CopyTo(target);
            source = source[part..];
            _have += part;
            if (!_inPayload && _have == _header.Length && !TryBeginPayload(out fault))
                return false;
        }
    }

    /// <summary>Forgets a record that is not complete.</summary>
    public void Clear()
    {
        _payload = [];
        _have = 0;
        _inPayload = false;
    }

    private uint Flags => BinaryPrimitives.ReadUInt32LittleEndian(_header.AsSpan(8));

    private bool TryBeginPayload(out Fault fault)
    {
        var size = BinaryPrimitives.ReadUInt64LittleEndian(_header);
        if (size > (ulong)maxPayload)
        {
            fault = new Fault(Errno.ENOMEM, "a record of the migration data is larger than any of such a device");
            return false;
        }
        if ((Flags & ~VfioRecordWriter.OptionalFlag) != 0)
        {
            fault = new Fault(Errno.EINVAL, "a record of the migration data has unknown flags");
            return false;
        }
        _payload = new byte[size];
        _have = 0;
        _inPayload = true;
        fault = Fault.None;
        return true;
    }
}
