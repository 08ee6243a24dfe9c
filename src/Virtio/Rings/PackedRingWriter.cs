using System.Buffers.Binary;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Virtbus.Memory;

namespace Virtbus.Virtio.Rings;

/// <summary>
/// The words of a packed ring in memory as its driver writes them (VIRTIO 1.2, 2.8), without rules: a test of a device writes wrong ones
/// too. <see cref="PackedDriverRing"/> is the driver that keeps the rules. One thread uses it.
/// </summary>
public sealed class PackedRingWriter
{
    private readonly HostMemory _memory;
    private readonly ulong _descriptors;
    private readonly ulong _driver;
    private readonly ulong _device;

    internal PackedRingWriter(HostMemory memory, Iova start, ulong offset, int size, bool eventIndex, bool indirect, bool inOrder)
    {
        _memory = memory;
        _descriptors = offset;
        _driver = _descriptors + PackedRing.DescriptorAreaSize(size);
        _device = _driver + PackedRing.EventSize;
        memory.Write(offset, new byte[PackedDriverRing.BytesFor(size)]);
        Layout = new RingLayout(
            size,
            new Iova(start.Value + _descriptors),
            new Iova(start.Value + _driver),
            new Iova(start.Value + _device),
            eventIndex,
            indirect,
            inOrder,
            Packed: true);
    }

    internal RingLayout Layout { get; }

    /// <summary>The device's event area as it wrote it: offset and wrap counter below, flags above.</summary>
    public uint DeviceEvent => Volatile.Read(ref DoubleWord(_device));

    /// <summary>Writes one descriptor of the ring, its flags last.</summary>
    /// <param name="place">Which, below the queue size.</param>
    /// <param name="address">Its address field.</param>
    /// <param name="length">Its length field.</param>
    /// <param name="id">Its id field.</param>
    /// <param name="flags">Its flags field, with the bits that say whose it is.</param>
    public void WriteDescriptor(int place, Iova address, uint length, ushort id, ushort flags)
    {
        WriteAddress(place, address);
        WriteRest(place, PackedDescriptor.Rest(length, id, flags));
    }

    /// <summary>Writes one descriptor anywhere: an indirect table's.</summary>
    /// <param name="memory">The memory.</param>
    /// <param name="offset">Byte offset there.</param>
    /// <param name="address">Its address field.</param>
    /// <param name="length">Its length field.</param>
    /// <param name="flags">Its flags field.</param>
    /// <param name="id">Its id field, which means nothing in a table.</param>
    public static void EncodeDescriptor(HostMemory memory, ulong offset, Iova address, uint length, ushort flags, ushort id = 0)
    {
        ArgumentNullException.ThrowIfNull(memory);
        var bytes = memory.Run(offset, PackedRing.DescriptorSize);
        BinaryPrimitives.WriteUInt64LittleEndian(bytes, address.Value);
        BinaryPrimitives.WriteUInt64LittleEndian(bytes[8..], PackedDescriptor.Rest(length, id, flags));
    }

    /// <summary>Writes the driver's event area, also with what makes no sense.</summary>
    /// <param name="place">Offset and wrap counter.</param>
    /// <param name="flags">The flags.</param>
    public void WriteDriverEvent(ushort place, ushort flags) => Volatile.Write(ref DoubleWord(_driver), PackedRing.Event(place, flags));

    internal void WriteAddress(int place, Iova address) => QuadWord(At(place)) = address.Value;

    /// <summary>Length, id and flags in one store, after all that were made before it (2.8.21.1).</summary>
    internal void WriteRest(int place, ulong rest) => Volatile.Write(ref QuadWord(At(place) + 8), rest);

    /// <summary>Length, id and flags, read once and before what is read after it.</summary>
    internal ulong ReadRest(int place) => Volatile.Read(ref QuadWord(At(place) + 8));

    private ulong At(int place) => _descriptors + ((ulong)place * PackedRing.DescriptorSize);

    // Memory checks range and life at each access; the areas are aligned to their words.
    private ref uint DoubleWord(ulong offset) => ref Unsafe.As<byte, uint>(ref MemoryMarshal.GetReference(_memory.Run(offset, 4)));

    private ref ulong QuadWord(ulong offset) => ref Unsafe.As<byte, ulong>(ref MemoryMarshal.GetReference(_memory.Run(offset, 8)));
}
