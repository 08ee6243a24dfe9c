using System.Runtime.CompilerServices;
using Virtbus.Memory;
using Virtbus.Platform;

namespace Virtbus.Virtio.Rings;

/// <summary>
/// A copy of a split ring whose memory is reached by messages only. What the driver writes is fetched before it is looked at, what the device
/// writes is sent in the order of the standard. Used by the queue's owner thread, which waits for the peer at each call.
/// </summary>
internal sealed unsafe class SplitRingCopy
{
    private readonly FarMemory _memory;
    private readonly RingLayout _layout;
    // Pinned: walked by pointer, as a ring in host memory.
    private readonly byte[] _descriptors;
    private readonly byte[] _available;
    private readonly byte[] _used;

    internal SplitRingCopy(in RingLayout layout, FarMemory memory)
    {
        _memory = memory;
        _layout = layout;
        _descriptors = GC.AllocateArray<byte>((int)SplitRing.DescriptorAreaSize(layout.Size), pinned: true);
        _available = GC.AllocateArray<byte>((int)SplitRing.DriverAreaSize(layout.Size), pinned: true);
        _used = GC.AllocateArray<byte>((int)SplitRing.DeviceAreaSize(layout.Size), pinned: true);
    }

    internal byte* Descriptors => (byte*)Unsafe.AsPointer(ref _descriptors[0]);

    internal byte* Available => (byte*)Unsafe.AsPointer(ref _available[0]);

    internal byte* Used => (byte*)Unsafe.AsPointer(ref _used[0]);

    /// <summary>Fetches the ring as it is now, before all else.</summary>
    internal bool TryFetchAll() => TryRead(_layout.DriverArea, _available) && TryRead(_layout.DeviceArea, _used);

    /// <summary>Fetches the index that announces buffers.</summary>
    internal bool TryFetchIndex() => TryRead(_layout.DriverArea, _available.AsSpan(0, 4));

    /// <summary>Fetches the index, and what it announces when it has moved.</summary>
    /// <param name="seen">The index that is known.</param>
    /// <param name="fault">EFAULT: the ring is not reached any more.</param>
    internal bool TryFetch(ushort seen, out Fault fault)
    {
        // Entries and descriptors after the index that announces them (2.7.13.3); the index stays what it was then.
        var fetched = TryFetchIndex() && (BitConverter.ToUInt16(_available, 2) == seen ||
            (TryRead(new Iova(_layout.DriverArea.Value + 4), _available.AsSpan(4)) && TryRead(_layout.DescriptorArea, _descriptors)));
        fault = fetched ? Fault.None : new Fault(Errno.EFAULT, "the ring cannot be read any more");
        return fetched;
    }

    /// <summary>Fetches what the driver wants to be told of.</summary>
    internal void FetchWish()
    {
        if (_layout.EventIndex)
            TryRead(new Iova(_layout.DriverArea.Value + 4 + (2 * (uint)_layout.Size)), _available.AsSpan(4 + (2 * _layout.Size), 2));
        else
            TryFetchFlags();
    }

    /// <summary>Sends elements of the used ring.</summary>
    /// <param name="from">Free-running index of the first.</param>
    /// <param name="to">The index behind the last.</param>
    internal void StoreUsed(ushort from, ushort to)
    {
        var mask = _layout.Size - 1;
        for (var left = (ushort)(to - from); left > 0;)
        {
            var place = from & mask;
            var count = Math.Min(left, _layout.Size - place);
            Store(4 + (8 * place), 8 * count);
            from += (ushort)count;
            left -= (ushort)count;
        }
    }

    /// <summary>Sends bytes of the used ring. What does not arrive is counted and reported by the port.</summary>
    internal void Store(int offset, int length) => _memory.TryWrite(new Iova(_layout.DeviceArea.Value + (uint)offset), _used.AsSpan(offset, length), isRing: true);

    private bool TryRead(Iova address, Span<byte> destination) => _memory.TryRead(address, destination, isRing: true);

    private void TryFetchFlags() => TryRead(_layout.DriverArea, _available.AsSpan(0, 2));
}
