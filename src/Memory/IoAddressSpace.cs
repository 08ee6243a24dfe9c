using Virtbus.Platform;

namespace Virtbus.Memory;

/// <summary>
/// What a device does DMA through: ranges are mapped and unmapped here, and each change makes a new immutable <see cref="IoMap"/> that
/// devices look things up in. Safe from any thread.
/// </summary>
public sealed class IoAddressSpace : IDisposable
{
    private readonly Lock _lock = new();
    private readonly List<IoRange> _ranges = [];
    private IoMap? _current;
    private bool _disposed;

    /// <summary>How many ranges are mapped.</summary>
    public int Count
    {
        get
        {
            lock (_lock)
                return _ranges.Count;
        }
    }

    /// <summary>Maps memory at an address.</summary>
    /// <param name="start">First address.</param>
    /// <param name="size">Size in bytes, above 0.</param>
    /// <param name="memory">What lies behind; the space takes a reference of its own.</param>
    /// <param name="offset">Byte offset in <paramref name="memory"/>.</param>
    /// <param name="access">What a device may do there; no more than the memory allows.</param>
    /// <param name="fault">EINVAL for a range that is empty, wraps or leaves the memory; EEXIST for one that overlaps another; EACCES.</param>
    /// <returns>Whether it is mapped.</returns>
    public bool TryMap(Iova start, ulong size, HostMemory memory, ulong offset, DmaAccess access, out Fault fault)
    {
        if (size == 0 || size > ulong.MaxValue - start.Value)
        {
            fault = new Fault(Errno.EINVAL, "the range is empty or wraps around the end of the address space");
            return false;
        }

        if (offset > memory.Size || size > memory.Size - offset)
        {
            fault = new Fault(Errno.EINVAL, "the range is larger than the memory behind it");
            return false;
        }

        if ((memory.Access & access) != access)
        {
            fault = new Fault(Errno.EACCES, "the memory does not allow that access");
            return false;
        }

        lock (_lock)
        {
            ObjectDisposedException.ThrowIf(_disposed, this);
            var at = 0;
            foreach (var range in _ranges)
            {
                if (range.Overlaps(start, size))
                {
                    fault = new Fault(Errno.EEXIST, "the range overlaps another one");
                    return false;
                }

                if (range.Start.Value < start.Value)
                    at++;
            }

            _ranges.Insert(at, new IoRange(start, size, memory.Acquire(), offset, access));
            Forget();
        }

        fault = Fault.None;
        return true;
    }

    /// <summary>Unmaps exactly one range that was mapped before. Maps that were handed out keep it until they are let go.</summary>
    /// <param name="start">Its first address.</param>
    /// <param name="size">Its size.</param>
    /// <param name="fault">ENOENT when no range starts there with that size.</param>
    /// <returns>Whether it is gone.</returns>
    public bool TryUnmap(Iova start, ulong size, out Fault fault)
    {
        lock (_lock)
        {
            var at = _ranges.FindIndex(range => range.Start == start && range.Size == size);
            if (at < 0)
            {
                fault = new Fault(Errno.ENOENT, "no such range is mapped");
                return false;
            }

            var memory = _ranges[at].Memory;
            _ranges.RemoveAt(at);
            Forget();
            memory.Dispose();
        }

        fault = Fault.None;
        return true;
    }

    /// <summary>Maps a peer's memory that this process reaches by messages only.</summary>
    /// <param name="range">Where; whole granules.</param>
    /// <param name="memory">What moves the bytes.</param>
    /// <param name="access">What a device may do there.</param>
    /// <param name="fault">As the other one.</param>
    public bool TryMap(Dma.IovaRange range, Dma.IRemoteMemory memory, DmaAccess access, out Fault fault) => throw new NotSupportedException();

    /// <summary>Unmaps every range inside, in the sense of type1v2: none is no error. No access to them is under way after the return.</summary>
    /// <param name="range">What is unmapped; whole granules, its end may be 2^64.</param>
    /// <param name="unmapped">Bytes that were mapped and are no more.</param>
    /// <param name="fault">EINVAL: not aligned, or a mapping would be split; nothing is unmapped then.</param>
    public bool TryUnmap(Dma.IovaRange range, out ulong unmapped, out Fault fault) => throw new NotSupportedException();

    /// <summary>The ranges as they are now.</summary>
    /// <returns>A map, with one reference that belongs to the caller.</returns>
    public IoMap Snapshot()
    {
        lock (_lock)
        {
            ObjectDisposedException.ThrowIf(_disposed, this);
            return (_current ??= new IoMap([.. _ranges])).Acquire();
        }
    }

    /// <summary>Unmaps everything. Maps that were handed out keep their memory until they are let go.</summary>
    public void Dispose()
    {
        lock (_lock)
        {
            if (_disposed)
                return;
            _disposed = true;
            Forget();
            foreach (var range in _ranges)
                range.Memory.Dispose();
            _ranges.Clear();
        }
    }

    private void Forget()
    {
        _current?.Dispose();
        _current = null;
    }
}
