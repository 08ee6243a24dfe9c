using System.Runtime.CompilerServices;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;

namespace Virtbus.Virtio.Rings;

/// <summary>
/// One buffer that a driver made available: what the device reads first, then what it writes. The descriptors were read once and checked;
/// the runs name host memory, which stays until the chain is handed back. Made once and used again for many buffers, so a request allocates
/// nothing. Used by the queue's owner thread.
/// </summary>
/// <remarks>
/// Memory that is reached by messages only has a copy here: what the device reads is fetched when the chain is taken, what it writes goes out
/// when the chain is handed back.
/// </remarks>
public sealed unsafe class DescriptorChain
{
    // Of one chain, in memory that is reached by messages: what a driver asks for is not to fill this process.
    internal const uint MostCopied = 16 << 20;

    private readonly IoVector[] _vectors;
    // Where each run lies for the driver.
    private readonly ulong[] _addresses;
    private List<Copy>? _copies;
    private int _start;
    private int _readableEnd;
    private int _end;
    private nint _trailer;
    private ulong _trailerAddress;
    private int _trailerRun;

    /// <summary>Makes an empty chain.</summary>
    /// <param name="capacity">The most runs that it can hold; one descriptor makes more than one when its buffer crosses regions.</param>
    public DescriptorChain(int capacity)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(capacity, nameof(capacity));
        Capacity = capacity;
        // Pinned, so that the kernel reads the vectors in place.
        _vectors = GC.AllocateArray<IoVector>(capacity, pinned: true);
        _addresses = new ulong[capacity];
    }

    /// <summary>The most runs that it can hold.</summary>
    public int Capacity { get; }

    /// <summary>What an unmap waits for while the chain is with the device.</summary>
    internal DmaUse Use { get; } = new();

    /// <summary>Bytes of the copies that it holds.</summary>
    internal uint Copied { get; private set; }

    /// <summary>At which start of a ring the ring came to know of <see cref="Use"/>.</summary>
    internal long KnownSince { get; set; }

    /// <summary>Descriptors of the ring that it takes.</summary>
    internal int Slots { get; set; }

    /// <summary>Bytes that the device may write, a trailer included.</summary>
    internal uint Room { get; set; }

    /// <summary>Its place among those that are handed back in order.</summary>
    internal int Turn { get; set; }

    /// <summary>Its name when it is handed back: of a split ring the descriptor that it starts at, of a packed one the buffer's id.</summary>
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
        _trailerRun = _end - 1;
        _trailer = run.Address + (nint)run.Length - 1;
        _trailerAddress = _addresses[_end - 1] + (uint)run.Length - 1;
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
    public uint Write(ReadOnlySpan<byte> source) => Write(0, source);

    /// <summary>Copies into the writable part.</summary>
    /// <param name="offset">Bytes of the writable part before it.</param>
    /// <param name="source">Where from; what does not fit is left out.</param>
    /// <returns>Bytes written.</returns>
    public uint Write(uint offset, ReadOnlySpan<byte> source)
    {
        var written = 0u;
        foreach (var run in Writable)
        {
            if (source.IsEmpty)
                break;
            if (offset >= run.Length)
            {
                offset -= (uint)run.Length;
                continue;
            }

            var count = (int)Math.Min(run.Length - offset, (nuint)source.Length);
            // SAFETY: as in TryTakeReadable; the offset lies within the run.
            source[..count].CopyTo(new Span<byte>((byte*)run.Address + offset, count));
            source = source[count..];
            written += (uint)count;
            offset = 0;
        }

        return written;
    }

    /// <summary>Lets go of the memory and of what is copied from it: nothing of it is touched any more.</summary>
    internal void LetGo()
    {
        if (!Use.IsEmpty)
            Use.End();
        DropCopies();
    }

    internal void Clear(ushort head = 0)
    {
        LetGo();
        Head = head;
        _start = 0;
        _readableEnd = 0;
        _end = 0;
        _trailer = 0;
        ReadableLength = 0;
        WritableLength = 0;
    }

    /// <summary>Adds a run; false when there is no room.</summary>
    internal bool TryAdd(IoVector run, ulong address, bool writable)
    {
        if (_end == Capacity)
            return false;
        _addresses[_end] = address;
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

    /// <summary>Adds a run that is reached by messages only: a copy of it.</summary>
    /// <param name="memory">Who reaches it.</param>
    /// <param name="address">First byte.</param>
    /// <param name="length">Bytes.</param>
    /// <param name="writable">Whether the device writes it.</param>
    /// <param name="fault">EFAULT: it could not be read; E2BIG: no room, or too much of it.</param>
    /// <returns>Whether it was added.</returns>
    internal bool TryAddCopy(FarMemory memory, ulong address, uint length, bool writable, out Fault fault)
    {
        if (length > MostCopied - Copied)
        {
            fault = new Fault(Errno.E2BIG, "a chain has more than 16 MiB of memory that is reached by messages only");
            return false;
        }

        // What lay there before is sent to nobody: of what the device writes, only that goes out.
        var bytes = GC.AllocateUninitializedArray<byte>((int)length, pinned: true);
        if (!writable && !memory.TryRead(new Iova(address), bytes, isRing: false))
        {
            fault = new Fault(Errno.EFAULT, "a buffer cannot be read");
            return false;
        }

        if (!TryAdd(new IoVector((nint)Unsafe.AsPointer(ref bytes[0]), length), address, writable))
        {
            fault = new Fault(Errno.E2BIG, "a chain has more segments than the device takes");
            return false;
        }

        Copied += length;
        (_copies ??= []).Add(new Copy(_end - 1, bytes));
        fault = Fault.None;
        return true;
    }

    /// <summary>Sends what the device wrote into copies, and lets go of them. What does not arrive is counted and reported by the port.</summary>
    /// <param name="memory">Who reaches their memory.</param>
    /// <param name="written">Bytes from the start of the writable part; with a trailer, one more.</param>
    internal void WriteBack(FarMemory memory, uint written)
    {
        if (Copied == 0)
            return;
        var data = _trailer == 0 || written == 0 ? written : written - 1;
        var run = _readableEnd;
        var before = 0u;
        foreach (var copy in _copies!)
        {
            if (copy.Run < _readableEnd)
                continue;
            for (; run < copy.Run; run++)
                before += (uint)_vectors[run].Length;
            var count = copy.Run < _end && before < data ? (int)Math.Min(data - before, (uint)_vectors[copy.Run].Length) : 0;
            if (count > 0)
                memory.TryWrite(new Iova(_addresses[copy.Run]), copy.Bytes.AsSpan(0, count), isRing: false);
            if (_trailer != 0 && copy.Run == _trailerRun)
                memory.TryWrite(new Iova(_trailerAddress), copy.Bytes.AsSpan(copy.Bytes.Length - 1), isRing: false);
        }

        DropCopies();
    }

    /// <summary>Marks in the logs what the device wrote.</summary>
    /// <param name="dma">Whose logs.</param>
    /// <param name="written">Bytes from the start of the writable part; a trailer is marked too.</param>
    internal void MarkWritten(DmaPort dma, uint written)
    {
        for (var i = _readableEnd; i < _end && written > 0; i++)
        {
            var count = (uint)Math.Min(written, _vectors[i].Length);
            dma.MarkWritten(new Iova(_addresses[i]), count);
            written -= count;
        }

        if (_trailer != 0)
            dma.MarkWritten(new Iova(_trailerAddress), 1);
    }

    private void DropCopies()
    {
        if (Copied == 0)
            return;
        Copied = 0;
        _copies!.Clear();
    }

    // Whose bytes they are, by the number of the run.
    private readonly record struct Copy(int Run, byte[] Bytes);
}
