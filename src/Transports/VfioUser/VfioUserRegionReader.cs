using System.Buffers.Binary;
using Virtbus.Platform;
using Virtbus.Subsystems.Vfio;
using static Virtbus.Transports.VfioUser.VfioUserProtocol;

namespace Virtbus.Transports.VfioUser;

/// <summary>Reads a server's answer to DEVICE_GET_REGION_INFO.</summary>
internal static class VfioUserRegionReader
{
    private const int MaxCapabilities = 64;

    /// <summary>The most areas of a region: what is looked at when it is plugged, and at each access to it.</summary>
    private const int MaxAreas = 1024;

    /// <summary>Reads it.</summary>
    /// <param name="reply">The payload, of at least the size without capabilities.</param>
    /// <param name="descriptors">What came with it; they stay the caller's.</param>
    /// <param name="info">The region; its areas share one duplicate of the descriptor.</param>
    /// <param name="fault">EPROTO: it points outside of itself, or in a circle; E2BIG: it has more areas than are taken.</param>
    /// <exception cref="VirtbusException">The process has no descriptor left.</exception>
    internal static bool TryRead(ReadOnlySpan<byte> reply, List<FileDescriptor> descriptors, out VfioRegionInfo? info, out Fault fault)
    {
        info = null;
        fault = Fault.None;
        var flags = BinaryPrimitives.ReadUInt32LittleEndian(reply[4..]);
        ulong size = BinaryPrimitives.ReadUInt64LittleEndian(reply[16..]), offset = BinaryPrimitives.ReadUInt64LittleEndian(reply[24..]);
        VfioRegionType? type = null;
        List<(ulong Offset, ulong Size)>? sparse = null;
        var next = (flags & RegionCapsFlag) != 0 ? BinaryPrimitives.ReadUInt32LittleEndian(reply[12..]) : 0;
        for (var i = 0; next != 0; i++)
        {
            if (i == MaxCapabilities || next < RegionInfoSize || next > (uint)(reply.Length - CapabilityHeaderSize))
                return Refuse(Errno.EPROTO, "a region's capabilities point outside of the answer, or in a circle", out fault);
            var capability = reply[(int)next..];
            next = BinaryPrimitives.ReadUInt32LittleEndian(capability[4..]);
            switch (BinaryPrimitives.ReadUInt16LittleEndian(capability))
            {
                case CapSparseMmap when capability.Length >= SparseHeaderSize:
                    var count = BinaryPrimitives.ReadUInt32LittleEndian(capability[8..]);
                    if (count > (uint)((capability.Length - SparseHeaderSize) / SparseAreaSize))
                        return Refuse(Errno.EPROTO, "a region has more areas than fit into the answer", out fault);
                    if (count > MaxAreas)
                        return Refuse(Errno.E2BIG, "a region has more than 1024 areas", out fault);
                    sparse = [];
                    for (var area = 0; area < (int)count; area++)
                    {
                        var at = capability[(SparseHeaderSize + (area * SparseAreaSize))..];
                        sparse.Add((BinaryPrimitives.ReadUInt64LittleEndian(at), BinaryPrimitives.ReadUInt64LittleEndian(at[8..])));
                    }

                    break;
                case CapType when capability.Length >= TypeCapabilitySize:
                    type = new VfioRegionType(
                        BinaryPrimitives.ReadUInt32LittleEndian(capability[8..]), BinaryPrimitives.ReadUInt32LittleEndian(capability[12..]));
                    break;
            }
        }

        var known = (VfioRegionFlags)flags & (VfioRegionFlags.Read | VfioRegionFlags.Write | VfioRegionFlags.Mmap);
        var areas = new List<VfioRegionArea>();
        if (known.HasFlag(VfioRegionFlags.Mmap) && descriptors.Count == 1)
        {
            // One for all areas, as the server has it: who offers the region on tells by it that they go together.
            FileDescriptor? file = null;
            foreach (var (start, length) in sparse ?? [(0, size)])
            {
                if (length == 0 || start > size || length > size - start)
                    continue;
                areas.Add(new VfioRegionArea(start, length, file ??= descriptors[0].Duplicate(), unchecked(offset + start)));
            }
        }

        info = new VfioRegionInfo(areas.Count == 0 ? known & ~VfioRegionFlags.Mmap : known, size) { Areas = areas, Type = type };
        return true;
    }
}
