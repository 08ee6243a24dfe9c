using Virtbus.Platform;

namespace Virtbus.Memory.Dma;

/// <summary>
/// A way into an address space for what does no DMA of its own (iommufd calls it an access): a driver that mediates, an emulated device. It
/// reads, writes and pins next to the devices that are attached. Safe from any thread.
/// </summary>
public sealed class IoAccess : IDisposable
{
    private readonly IoAddressSpace _space;
    private int _hint;
    private volatile bool _disposed;

    internal IoAccess(IoAddressSpace space, string name, Action<IovaRange>? unmapping)
    {
        _space = space;
        Name = name;
        Unmapping = unmapping;
    }

    /// <summary>Whose it is.</summary>
    public string Name { get; }

    internal Action<IovaRange>? Unmapping { get; }

    /// <summary>Reads memory, over the borders of ranges.</summary>
    /// <param name="address">First byte.</param>
    /// <param name="destination">Where to; on a fault it holds the part before.</param>
    /// <param name="fault">EFAULT, EACCES; what a peer answered.</param>
    /// <returns>Whether all was read.</returns>
    public bool TryRead(Iova address, Span<byte> destination, out Fault fault)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        var slot = AccessSlot.Mine;
        var done = 0;
        fault = Fault.None;
        while (done < destination.Length)
        {
            slot.Enter(_space.Number);
            var error = _space.Read(address.Value, destination, ref done, ref _hint, out var remote, out var count);
            slot.Leave();
            if (error != Errno.None)
            {
                fault = DmaFault.Because(error);
                return false;
            }

            if (remote is null)
                continue;
            if (!remote.TryRead(new Iova(address.Value + (uint)done), destination.Slice(done, count), out fault))
                return false;
            done += count;
        }

        return true;
    }

    /// <summary>Writes memory, over the borders of ranges, and marks it in the space's log.</summary>
    /// <param name="address">First byte.</param>
    /// <param name="source">Where from; on a fault the part before it is written.</param>
    /// <param name="fault">EFAULT, EACCES; what a peer answered.</param>
    /// <returns>Whether all was written.</returns>
    public bool TryWrite(Iova address, ReadOnlySpan<byte> source, out Fault fault)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        var slot = AccessSlot.Mine;
        var done = 0;
        fault = Fault.None;
        while (done < source.Length)
        {
            slot.Enter(_space.Number);
            var error = _space.Write(address.Value, source, ref done, ref _hint, null, out var remote, out var count);
            slot.Leave();
            if (error != Errno.None)
            {
                fault = DmaFault.Because(error);
                return false;
            }

            if (remote is null)
                continue;
            var at = new Iova(address.Value + (uint)done);
            if (!remote.TryWrite(at, source.Slice(done, count), out fault))
                return false;
            slot.Enter(_space.Number);
            _space.MarkLog(at, (uint)count);
            slot.Leave();
            done += count;
        }

        return true;
    }

    /// <summary>Holds memory in place, for as long as the pin lives: until then an unmap of it fails with EBUSY, unless the holder lets go when asked.</summary>
    /// <param name="range">What is pinned; any bytes.</param>
    /// <param name="access">What will be done there. Memory that is pinned for writing counts as written.</param>
    /// <param name="pin">The pin.</param>
    /// <param name="fault">EINVAL: no such range; EFAULT: not mapped; EACCES; EOPNOTSUPP: a peer's memory.</param>
    /// <returns>Whether all of it is pinned.</returns>
    public bool TryPin(IovaRange range, DmaAccess access, out IoPin? pin, out Fault fault)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        return _space.TryPin(this, range, access, out pin, out fault);
    }

    /// <summary>Ends the access; pins that are left are disposed.</summary>
    public void Dispose()
    {
        _disposed = true;
        foreach (var pin in _space.PinsOf(this))
            pin.Dispose();
    }
}
