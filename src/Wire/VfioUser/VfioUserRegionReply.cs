using System.Runtime.InteropServices;
using Virtbus.Platform;
using static Virtbus.Wire.VfioUser.VfioUserProtocol;

namespace Virtbus.Wire.VfioUser;

/// <summary>An answer to DEVICE_GET_REGION_INFO: the region, and capabilities for its areas and its type.</summary>
internal static class VfioUserRegionReply
{
    private const int MaxCapabilities = 64;

    /// <summary>The most areas of a region: what is looked at when it is plugged, and at each access to it.</summary>
    private const int MaxAreas = 1024;

    /// <summary>Bytes of an answer with all its capabilities.</summary>
    /// <param name="areas">How many areas are named; 0 for no capability of them.</param>
    /// <param name="hasType">Whether the region's type is named.</param>
    internal static int SizeOf(int areas, bool hasType) =>
        RegionInfoSize + (areas > 0 ? SparseAreasSize + (areas * SparseAreaSize) : 0) + (hasType ? RegionTypeSize : 0);

    /// <summary>Writes the capabilities behind the region's info.</summary>
    /// <param name="reply">The payload, of the size that <see cref="SizeOf"/> says.</param>
    /// <param name="areas">The areas that are named.</param>
    /// <param name="type">The type, if it is named.</param>
    internal static void WriteCapabilities(Span<byte> reply, ReadOnlySpan<VfioRegionArea> areas, VfioRegionType? type)
    {
        var at = RegionInfoSize;
        if (areas.Length > 0)
        {
            var next = at + SparseAreasSize + (areas.Length * SparseAreaSize);
            var header = new VfioUserCapabilityHeader { Id = CapSparseMmap, Version = 1, Next = type is null ? 0 : (uint)next };
            MemoryMarshal.Write(reply[at..], new VfioUserSparseAreas { Header = header, Count = (uint)areas.Length });
            at += SparseAreasSize;
            foreach (var area in areas)
            {
                MemoryMarshal.Write(reply[at..], new VfioUserSparseArea { Offset = area.Offset, Size = area.Size });
                at += SparseAreaSize;
            }
        }

        if (type is { } known)
        {
            var header = new VfioUserCapabilityHeader { Id = CapType, Version = 1 };
            MemoryMarshal.Write(reply[at..], new VfioUserRegionType { Header = header, Type = known.Type, Subtype = known.Subtype });
        }
    }

    /// <summary>Reads an answer.</summary>
    /// <param name="reply">The payload, of at least the size without capabilities.</param>
    /// <param name="descriptors">What came with it; they stay the caller's.</param>
    /// <param name="info">The region; its areas share one duplicate of the descriptor.</param>
    /// <param name="fault">EPROTO: it points outside of itself, or in a circle; E2BIG: it has more areas than are taken.</param>
    /// <exception cref="VirtbusException">The process has no descriptor left.</exception>
    internal static bool TryRead(ReadOnlySpan<byte> reply, List<FileDescriptor> descriptors, out VfioRegionInfo? info, out Fault fault)
    {
        info = null;
        fault = Fault.None;
        var region = MemoryMarshal.Read<VfioUserRegionInfo>(reply);
        VfioRegionType? type = null;
        List<VfioUserSparseArea>? sparse = null;
        var next = (region.Flags & RegionCapsFlag) != 0 ? region.Capabilities : 0;
        for (var i = 0; next != 0; i++)
        {
            if (i == MaxCapabilities || next < RegionInfoSize || next > (uint)(reply.Length - CapabilityHeaderSize))
                return Refuse(Errno.EPROTO, "a region's capabilities point outside of the answer, or in a circle", out fault);
            var capability = reply[(int)next..];
            var header = MemoryMarshal.Read<VfioUserCapabilityHeader>(capability);
            next = header.Next;
            switch (header.Id)
            {
                case CapSparseMmap when capability.Length >= SparseAreasSize:
                    if (!TryReadAreas(capability, out sparse, out fault))
                        return false;
                    break;
                case CapType when capability.Length >= RegionTypeSize:
                    var named = MemoryMarshal.Read<VfioUserRegionType>(capability);
                    type = new VfioRegionType(named.Type, named.Subtype);
                    break;
            }
        }

        var known = (VfioRegionFlags)region.Flags & (VfioRegionFlags.Read | VfioRegionFlags.Write | VfioRegionFlags.Mmap);
        var areas = new List<VfioRegionArea>();
        if (known.HasFlag(VfioRegionFlags.Mmap) && descriptors.Count == 1)
        {
            // One for all areas, as the server has it: who offers the region on tells by it that they go together.
            FileDescriptor? file = null;
            foreach (var area in sparse ?? [new VfioUserSparseArea { Size = region.Size }])
            {
                if (area.Size == 0 || area.Offset > region.Size || area.Size > region.Size - area.Offset)
                    continue;
                areas.Add(new VfioRegionArea(area.Offset, area.Size, file ??= descriptors[0].Duplicate(), unchecked(region.Offset + area.Offset)));
            }
        }

        info = new VfioRegionInfo(areas.Count == 0 ? known & ~VfioRegionFlags.Mmap : known, region.Size) { Areas = areas, Type = type };
        return true;
    }

    private static bool TryReadAreas(ReadOnlySpan<byte> capability, out List<VfioUserSparseArea>? areas, out Fault fault)
    {
        areas = null;
        fault = Fault.None;
        var count = MemoryMarshal.Read<VfioUserSparseAreas>(capability).Count;
        if (count > (uint)((capability.Length - SparseAreasSize) / SparseAreaSize))
            return Refuse(Errno.EPROTO, "a region has more areas than fit into the answer", out fault);
        if (count > MaxAreas)
            return Refuse(Errno.E2BIG, "a region has more than 1024 areas", out fault);
        areas = [];
        for (var i = 0; i < (int)count; i++)
            areas.Add(MemoryMarshal.Read<VfioUserSparseArea>(capability[(SparseAreasSize + (i * SparseAreaSize))..]));
        return true;
    }
}
