using Virtbus.Platform;

namespace Virtbus.Virtio.Rings;

/// <summary>
/// One buffer that a driver made available: what the device reads first, then what it writes. The descriptors were read once and checked;
/// the runs name host memory and stay valid until the queue stops. Made once and used again for many buffers, so a request allocates
/// nothing. Used by the queue's owner thread.
/// </summary>
public sealed unsafe class DescriptorChain
{
    private readonly IoVector[] _vectors;
    private int _start;
    private int _readableEnd;
    private int _end;
    private nint _trailer;

    /// <summary>Makes an empty chain.</summary>
    /// <param name="capacity">The most runs that it can hold; one descriptor makes more than one when its buffer crosses regions.</param>
    public DescriptorChain(int capacity)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(capacity, nameof(capacity));
        Capacity = capacity;
        // Pinned, so that the kernel reads the vectors in place.
        _vectors = GC.AllocateArray<IoVector>(capacity, pinned: true);
    }

    /// <summary>The most runs that it can hold.</summary>
    public int Capacity { get; }

    /// <summary>The descriptor that the chain starts at: its name when it is handed back.</summary>
    public ushort Head { get; internal set; }

    /// <summary>Bytes that the device reads and that were not taken yet.</summary>
    public uint ReadableLength { get; private set; }

    /// <summary>Bytes that the device writes, less a trailer that was reserved.</summary>
    public uint WritableLength { get; private set; }

    /// <summary>The runs that the device reads.</summary>
    public ReadOnlySpan<IoVector> Readable => new(_vectors, _start, _readableEnd - _start);

    /// <summary>The runs that the device writes.</summary>
    public ReadOnlySpan<IoVector> Writable => new(_vectors, _readableEnd, _end - _readableEnd);

    /// <summary>Copies the first readable bytes and takes them off the chain, over run borders: a header.</summary>
    /// <param name="destination">Where to.</param>
    /// <returns>False, with nothing taken, when the chain has fewer.</returns>
    public bool TryTakeReadable(Span<byte> destination)
    {
        if (destination.Length > ReadableLength)
            return false;
        ReadableLength -= (uint)destination.Length;
        while (!destination.IsEmpty)
        {
            var run = _vectors[_start];
            var count = (int)Math.Min(run.Length, (nuint)destination.Length);
            // SAFETY: the run was checked against the map that the queue holds; count does not exceed it.
            new ReadOnlySpan<byte>((void*)run.Address, count).CopyTo(destination);
            destination = destination[count..];
            if ((nuint)count == run.Length)
                _start++;
            else
                _vectors[_start] = new IoVector(run.Address + count, run.Length - (nuint)count);
        }

        return true;
    }

    /// <summary>Sets the last writable byte aside, for <see cref="WriteTrailer"/>: a status.</summary>
    /// <returns>False when the chain has no writable byte.</returns>
    public bool TryReserveTrailer()
    {
        if (WritableLength == 0)
            return false;
        WritableLength--;
        var run = _vectors[_end - 1];
        _trailer = run.Address + (nint)run.Length - 1;
        if (run.Length == 1)
            _end--;
        else
            _vectors[_end - 1] = new IoVector(run.Address, run.Length - 1);
        return true;
    }

    /// <summary>Writes the byte that was set aside.</summary>
    /// <param name="value">The byte.</param>
    public void WriteTrailer(byte value)
    {
        if (_trailer == 0)
            throw new InvalidOperationException("No trailer was reserved.");
        // SAFETY: the address came from a run that was checked against the map that the queue holds.
        *(byte*)_trailer = value;
    }

    /// <summary>Copies into the writable part, from its start.</summary>
    /// <param name="source">Where from; what does not fit is left out.</param>
    /// <returns>Bytes written.</returns>
    public uint Write(ReadOnlySpan<byte> source)
    {
        var written = 0u;
        foreach (var run in Writable)
        {
            if (source.IsEmpty)
                break;
            var count = (int)Math.Min(run.Length, (nuint)source.Length);
            // SAFETY: as in TryTakeReadable.
            source[..count].CopyTo(new Span<byte>((void*)run.Address, count));
            source = source[count..];
            written += (uint)count;
        }

        return written;
    }

    internal void Clear(ushort head)
    {
        Head = head;
        _start = 0;
        _readableEnd = 0;
        _end = 0;
        _trailer = 0;
        ReadableLength = 0;
        WritableLength = 0;
    }

    /// <summary>Adds a run; false when there is no room.</summary>
    internal bool TryAdd(IoVector run, bool writable)
    {
        if (_end == Capacity)
            return false;
        _vectors[_end++] = run;
        if (writable)
        {
            WritableLength += (uint)run.Length;
        }
        else
        {
            ReadableLength += (uint)run.Length;
            _readableEnd = _end;
        }

        return true;
    }
}
