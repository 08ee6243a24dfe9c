using Virtbus.Memory.Dma;
using Virtbus.Platform;

namespace Virtbus.Memory;

/// <summary>
/// The guest memory that a front end shared: regions, each with a guest address and an address in the front end's process.
/// One thread uses it. Devices see it through <see cref="AddressSpace"/>; without an IOMMU the guest address is the DMA address.
/// </summary>
public sealed class GuestMemory : IDisposable
{
    /// <summary>The most regions, the number that QEMU's own back ends take.</summary>
    public const int MaxRegions = 509;

    private readonly List<GuestRegion> _regions = [];
    private readonly MappingAccount _account;
    // A front end may number regions by its own virtual addresses, and their sizes need not be whole pages.
    private readonly IoAddressSpace _space = new(new IoAddressSpaceOptions { Granule = 1, MaxMaps = MaxRegions });

    /// <summary>Makes one without regions.</summary>
    /// <param name="lost">Called when the front end took a region's memory away under an access, as <see cref="MappingAccount"/> says.</param>
    /// <param name="budget">What pays for the mappings; the process's when left out.</param>
    public GuestMemory(Action? lost = null, MappingBudget? budget = null) => _account = new MappingAccount(lost, budget);

    /// <summary>The same regions as an address space, the same for good, for a function that reaches them by DMA.</summary>
    public IoAddressSpace AddressSpace => _space;

    /// <summary>The regions, in the order of their coming.</summary>
    public IReadOnlyList<GuestRegion> Regions => _regions;

    /// <summary>Reserves mappings, as <see cref="MappingAccount.TryReserve"/>.</summary>
    /// <param name="fault">ENOSPC: none are left.</param>
    /// <returns>Whether they are reserved.</returns>
    public bool TryReserve(out Fault fault) => _account.TryReserve(out fault);

    /// <summary>Adds a region.</summary>
    /// <param name="region">The region.</param>
    /// <param name="file">Its file; it stays the caller's and may be closed afterwards.</param>
    /// <param name="fault">ENOSPC when there are too many, or the budget is used up; EINVAL, EEXIST, EBADF, ENXIO, EACCES for a region that makes no sense.</param>
    /// <returns>Whether it was added.</returns>
    public bool TryAdd(in GuestRegion region, FileDescriptor file, out Fault fault)
    {
        if (_regions.Count == MaxRegions)
        {
            fault = new Fault(Errno.ENOSPC, "no memory slot is left");
            return false;
        }

        if (!TryMapFile(_regions, region, file, out var memory, out fault))
            return false;
        var mapped = _space.TryMap(new Iova(region.Start.Value), region.Size, memory!, 0, DmaAccess.ReadWrite, out fault);
        // The space holds a reference of its own from here on.
        memory!.Dispose();
        if (mapped)
            _regions.Add(region);
        return mapped;
    }

    /// <summary>Removes a region, matched by both addresses and its size.</summary>
    /// <param name="region">The region; its file offset does not matter.</param>
    /// <param name="fault">ENOENT when there is no such region; EBUSY when somebody holds it pinned.</param>
    /// <returns>Whether it was removed.</returns>
    public bool TryRemove(in GuestRegion region, out Fault fault)
    {
        var wanted = region;
        var at = _regions.FindIndex(other => other.Start == wanted.Start && other.Size == wanted.Size && other.User == wanted.User);
        if (at < 0)
        {
            fault = new Fault(Errno.ENOENT, "no such region is shared");
            return false;
        }

        if (!_space.TryUnmap(RangeOf(region), out _, out fault))
            return false;
        _regions.RemoveAt(at);
        return true;
    }

    /// <summary>Replaces all regions at once; on a fault nothing changes.</summary>
    /// <param name="regions">The new regions.</param>
    /// <param name="files">Their files, in the same order; they stay the caller's.</param>
    /// <param name="fault">As for <see cref="TryAdd(in GuestRegion, FileDescriptor, out Fault)"/>; EINVAL when the numbers differ.</param>
    /// <returns>Whether they were replaced.</returns>
    public bool TryReplace(ReadOnlySpan<GuestRegion> regions, IReadOnlyList<FileDescriptor> files, out Fault fault)
    {
        if (regions.Length != files.Count || regions.Length > MaxRegions)
        {
            fault = new Fault(Errno.EINVAL, "the number of regions is not that of descriptors");
            return false;
        }

        var list = new List<GuestRegion>(regions.Length);
        var maps = new List<(IovaRange Range, HostMemory Memory)>(regions.Length);
        fault = Fault.None;
        for (var i = 0; i < regions.Length; i++)
        {
            if (!TryMapFile(list, regions[i], files[i], out var memory, out fault))
                break;
            list.Add(regions[i]);
            maps.Add((RangeOf(regions[i]), memory!));
        }

        var replaced = fault.Errno == Errno.None && _space.TryReplaceAll(maps, DmaAccess.ReadWrite, out fault);
        foreach (var (_, memory) in maps)
            memory.Dispose();
        if (!replaced)
            return false;
        _regions.Clear();
        _regions.AddRange(list);
        return true;
    }

    /// <summary>Finds the guest address of a place that the front end names by its own address.</summary>
    /// <param name="address">The address in the front end's process.</param>
    /// <param name="guest">The guest address.</param>
    /// <returns>False when it lies in no region.</returns>
    public bool TryToGuest(UserAddress address, out GuestAddress guest)
    {
        foreach (var region in _regions)
        {
            var offset = address.Value - region.User.Value;
            if (offset >= region.Size)
                continue;
            guest = new GuestAddress(region.Start.Value + offset);
            return true;
        }

        guest = default;
        return false;
    }

    /// <summary>The regions as a device sees them.</summary>
    /// <returns>A map, with one reference that belongs to the caller.</returns>
    public IoMap Snapshot() => _space.Snapshot();

    /// <summary>Lets go of all regions.</summary>
    public void Dispose()
    {
        _regions.Clear();
        _space.Dispose();
        _account.Dispose();
    }

    private static IovaRange RangeOf(in GuestRegion region) => new(new Iova(region.Start.Value), region.Size);

    private bool TryMapFile(List<GuestRegion> others, in GuestRegion region, FileDescriptor file, out HostMemory? memory, out Fault fault)
    {
        memory = null;
        if (region.Size > ulong.MaxValue - region.User.Value || region.Size > ulong.MaxValue - region.Start.Value)
        {
            fault = new Fault(Errno.EINVAL, "the region wraps around the end of the address space");
            return false;
        }

        foreach (var other in others)
        {
            if (region.User.Value < other.User.Value + other.Size && other.User.Value < region.User.Value + region.Size)
            {
                fault = new Fault(Errno.EEXIST, "the region's user addresses overlap those of another region");
                return false;
            }
        }

        return HostMemory.TryMap(_account, file, region.FileOffset, region.Size, DmaAccess.ReadWrite, out memory, out fault);
    }
}
