using Virtbus.Platform;

namespace Virtbus.Memory;

/// <summary>
/// An immutable picture of an I/O address space: which addresses a device may use for DMA and what memory lies behind them. It holds that
/// memory mapped as long as somebody holds a reference to it. Look-ups are safe from any thread and allocate nothing.
/// </summary>
public sealed class IoMap : IDisposable
{
    private readonly IoRange[] _ranges;
    private int _references = 1;

    internal IoMap(IoRange[] sorted)
    {
        _ranges = sorted;
        foreach (var range in sorted)
            range.Memory.Acquire();
    }

    /// <summary>The ranges, by rising address; no two overlap.</summary>
    public ReadOnlySpan<IoRange> Ranges => _ranges;

    /// <summary>Makes a picture with nothing in it.</summary>
    /// <returns>The map, with one reference that belongs to the caller.</returns>
    public static IoMap CreateEmpty() => new([]);

    /// <summary>Takes one more reference, to be given back by <see cref="Dispose"/>.</summary>
    /// <returns>This object.</returns>
    /// <exception cref="ObjectDisposedException">The last reference was gone already.</exception>
    public IoMap Acquire()
    {
        while (true)
        {
            var seen = Volatile.Read(ref _references);
            ObjectDisposedException.ThrowIf(seen == 0, this);
            if (Interlocked.CompareExchange(ref _references, seen + 1, seen) == seen)
                return this;
        }
    }

    /// <summary>Gives one reference back; the last one lets go of the memory.</summary>
    public void Dispose()
    {
        var left = Interlocked.Decrement(ref _references);
        if (left < 0)
            throw new InvalidOperationException("A reference to an I/O map was given back twice.");
        if (left > 0)
            return;
        foreach (var range in _ranges)
            range.Memory.Dispose();
    }

    /// <summary>
    /// Finds the memory behind an address. A buffer may cross from one range into the next; the answer then is shorter than asked for and
    /// the caller goes on behind it.
    /// </summary>
    /// <param name="address">First byte.</param>
    /// <param name="length">How many bytes are wanted.</param>
    /// <param name="access">What will be done with them.</param>
    /// <param name="hint">The caller's own memory of the range hit last; starts at 0.</param>
    /// <param name="run">The memory, 1 to <paramref name="length"/> bytes, valid while the caller holds this map.</param>
    /// <returns>False when the address is not mapped, or not for that access, or <paramref name="length"/> is 0.</returns>
    public bool TryTranslate(Iova address, uint length, DmaAccess access, ref int hint, out IoVector run)
    {
        var ranges = _ranges;
        var index = hint;
        // Subtract first, compare then: address + length may wrap, address - start of a range that holds it cannot.
        if ((uint)index >= (uint)ranges.Length || address.Value - ranges[index].Start.Value >= ranges[index].Size)
        {
            index = Find(address);
            if (index < 0)
            {
                run = default;
                return false;
            }

            hint = index;
        }

        ref readonly var range = ref ranges[index];
        var offset = address.Value - range.Start.Value;
        run = new IoVector(range.HostAddress + (nint)offset, (nuint)Math.Min(length, range.Size - offset));
        return (range.Access & access) == access && length != 0;
    }

    /// <summary>Copies from mapped memory, over range borders.</summary>
    /// <param name="address">First byte.</param>
    /// <param name="destination">Where to.</param>
    /// <returns>False when a part is not mapped for reading; the destination then holds the part before it.</returns>
    public bool TryRead(Iova address, Span<byte> destination)
    {
        var hint = 0;
        while (!destination.IsEmpty)
        {
            if (!TryTranslate(address, (uint)destination.Length, DmaAccess.Read, ref hint, out var run))
                return false;
            var span = run.AsSpan();
            span.CopyTo(destination);
            destination = destination[span.Length..];
            address = new Iova(address.Value + (ulong)span.Length);
        }

        return true;
    }

    /// <summary>Copies into mapped memory, over range borders.</summary>
    /// <param name="address">First byte.</param>
    /// <param name="source">Where from.</param>
    /// <returns>False when a part is not mapped for writing; the part before it is written then.</returns>
    public bool TryWrite(Iova address, ReadOnlySpan<byte> source)
    {
        var hint = 0;
        while (!source.IsEmpty)
        {
            if (!TryTranslate(address, (uint)source.Length, DmaAccess.Write, ref hint, out var run))
                return false;
            var span = run.AsSpan();
            source[..span.Length].CopyTo(span);
            source = source[span.Length..];
            address = new Iova(address.Value + (ulong)span.Length);
        }

        return true;
    }

    private int Find(Iova address)
    {
        int low = 0, high = _ranges.Length - 1;
        while (low <= high)
        {
            var middle = (low + high) >>> 1;
            ref readonly var range = ref _ranges[middle];
            if (address.Value < range.Start.Value)
                high = middle - 1;
            else if (address.Value - range.Start.Value >= range.Size)
                low = middle + 1;
            else
                return middle;
        }

        return -1;
    }
}
