using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Virtbus.Memory;
using Virtbus.Platform;

namespace Virtbus.Virtio.Rings;

/// <summary>
/// A copy of a packed ring whose memory is reached by messages only, of what the driver writes. What the device writes is sent by the ring itself.
/// Used by the queue's owner thread, which waits for the peer at each call.
/// </summary>
/// <remarks>
/// A descriptor is good when it was read after the flags of its chain's head had been, and a message does not say in which order it was put together.
/// So the ring is fetched twice: the first time says which heads are available, the second one what they stand for.
/// </remarks>
internal sealed unsafe class PackedRingCopy
{
    private readonly FarMemory _memory;
    private readonly RingLayout _layout;
    // Pinned: walked by pointer, as a ring in host memory.
    private readonly PackedDescriptor[] _heads;
    private readonly PackedDescriptor[] _descriptors;
    private readonly uint[] _events = GC.AllocateArray<uint>(2, pinned: true);

    internal PackedRingCopy(in RingLayout layout, FarMemory memory)
    {
        _memory = memory;
        _layout = layout;
        _heads = GC.AllocateArray<PackedDescriptor>(layout.Size, pinned: true);
        _descriptors = GC.AllocateArray<PackedDescriptor>(layout.Size, pinned: true);
    }

    internal PackedDescriptor* Heads => (PackedDescriptor*)Unsafe.AsPointer(ref _heads[0]);

    internal PackedDescriptor* Descriptors => (PackedDescriptor*)Unsafe.AsPointer(ref _descriptors[0]);

    internal uint* DriverEvent => (uint*)Unsafe.AsPointer(ref _events[0]);

    internal uint* DeviceEvent => (uint*)Unsafe.AsPointer(ref _events[1]);

    /// <summary>Fetches the ring as it is now, before all else.</summary>
    internal bool TryFetchAll() => FetchWish() && TryFetch(out _);

    /// <summary>Asks for the descriptor at a place alone; true also when it can't be read.</summary>
    internal bool IsAnnounced(int place, bool wrap)
    {
        PackedDescriptor descriptor = default;
        var bytes = MemoryMarshal.AsBytes(new Span<PackedDescriptor>(ref descriptor));
        return !TryRead(new Iova(_layout.DescriptorArea.Value + ((ulong)place * PackedRing.DescriptorSize)), bytes)
            || PackedRing.IsAvailable(descriptor.Flags, wrap);
    }

    /// <summary>Fetches the ring.</summary>
    /// <param name="fault">EFAULT: it is not reached any more.</param>
    internal bool TryFetch(out Fault fault)
    {
        var fetched = TryRead(_layout.DescriptorArea, MemoryMarshal.AsBytes(_heads.AsSpan()))
            && TryRead(_layout.DescriptorArea, MemoryMarshal.AsBytes(_descriptors.AsSpan()));
        fault = fetched ? Fault.None : new Fault(Errno.EFAULT, "the ring cannot be read any more");
        return fetched;
    }

    /// <summary>Fetches what the driver wants to be told of.</summary>
    internal bool FetchWish() => TryRead(_layout.DriverArea, MemoryMarshal.AsBytes(_events.AsSpan(0, 1)));

    private bool TryRead(Iova address, Span<byte> destination) => _memory.TryRead(address, destination, isRing: true);
}
