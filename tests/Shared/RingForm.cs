using Virtbus.Memory;
using Virtbus.Virtio.Rings;

namespace Virtbus.Tests;

/// <summary>Both sides of a ring of either form, for tests that are about what the forms have in common.</summary>
internal static class RingForm
{
    internal static DeviceRing NewDevice(bool packed) => packed ? new PackedDeviceRing() : new SplitDeviceRing();

    internal static DriverRing NewDriver(
        bool packed, HostMemory memory, ulong start, int size, bool eventIndex = false, bool indirect = false, bool inOrder = false, ulong offset = 0) => packed
        ? new PackedDriverRing(memory, new Iova(start), offset, size, eventIndex, indirect, inOrder)
        : new SplitDriverRing(memory, new Iova(start), offset, size, eventIndex, indirect, inOrder);

    internal static ulong BytesFor(bool packed, int size) => packed ? PackedDriverRing.BytesFor(size) : SplitDriverRing.BytesFor(size);

    /// <summary>Writes an indirect table.</summary>
    internal static void WriteTable(bool packed, HostMemory memory, ulong offset, ReadOnlySpan<DriverBuffer> buffers)
    {
        for (var i = 0; i < buffers.Length; i++)
        {
            var at = offset + ((ulong)i * SplitRing.DescriptorSize);
            var writes = buffers[i].DeviceWrites ? SplitRing.VIRTQ_DESC_F_WRITE : 0;
            var next = i + 1 < buffers.Length ? SplitRing.VIRTQ_DESC_F_NEXT : 0;
            if (packed)
                PackedRingWriter.EncodeDescriptor(memory, at, buffers[i].Address, buffers[i].Length, (ushort)writes);
            else
                SplitRingWriter.EncodeDescriptor(memory, at, buffers[i].Address, buffers[i].Length, (ushort)(writes | next), (ushort)(i + 1));
        }
    }
}
