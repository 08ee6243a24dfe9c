using Virtbus.Memory;
using Virtbus.Pci;
using Virtbus.Platform;

namespace Virtbus.Remote.Pci;

/// <summary>Where a part of an access goes: the MSI-X table, its pending bits, mapped memory (null for none), or else the other end.</summary>
/// <param name="IsTable">The MSI-X table.</param>
/// <param name="IsPending">Its pending bits.</param>
/// <param name="Memory">Mapped memory.</param>
/// <param name="Start">First byte there.</param>
/// <param name="Length">Bytes.</param>
internal readonly record struct RemotePlace(bool IsTable, bool IsPending, HostMemory? Memory, ulong Start, int Length);

/// <summary>
/// Where accesses to a function's BARs go: to the MSI-X table and its pending bits, which are kept here; to memory that the other end lets this
/// process map; or to the other end. Nothing changes after it was made.
/// </summary>
internal sealed class RemoteBars : IDisposable
{
    private const ulong PageSize = 4096;

    private readonly IRemoteLink _link;
    private readonly RemoteConfig _config;
    private readonly MappingAccount _mappings;
    private readonly IReadOnlyList<PciBarArea>[] _areas = new IReadOnlyList<PciBarArea>[PciBar.Count];
    private readonly (ulong Offset, HostMemory Memory)[][] _mapped = new (ulong, HostMemory)[PciBar.Count][];
    private readonly (ulong Start, ulong End)[] _tables = new (ulong, ulong)[2];
    private readonly int[] _tableBars = [-1, -1];

    internal RemoteBars(IRemoteLink link, RemoteConfig config, MsixTable? msix)
    {
        _link = link;
        _config = config;
        // Who takes its memory away is as one that is gone.
        _mappings = new MappingAccount(() => link.Close(new Fault(Errno.ECONNRESET, "the memory of a BAR is gone")));
        Array.Fill(_areas, []);
        Array.Fill(_mapped, []);
        try
        {
            // Without a reserve it may go without mappings, and by messages.
            if (link.IsPeer)
                _mappings.TryReserve(out _);
            FindTables(msix);
            for (var bar = 0; bar < PciBar.Count; bar++)
                FindAreas(bar);
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    /// <summary>The parts of a BAR that a user of the function may map.</summary>
    internal IReadOnlyList<PciBarArea> AreasOf(int bar) => (uint)bar < PciBar.Count ? _areas[bar] : [];

    /// <summary>Where an access begins to go, and how much of it goes there. False when it leaves the BAR.</summary>
    /// <param name="bar">Which BAR.</param>
    /// <param name="offset">First byte in the BAR.</param>
    /// <param name="length">Bytes; at least one.</param>
    /// <param name="place">Where the first of them goes, with those behind it that go there too.</param>
    internal bool TryFind(int bar, ulong offset, int length, out RemotePlace place)
    {
        place = default;
        var size = (uint)bar < PciBar.Count ? _config.Bars[bar].Size : 0;
        if (offset > size || (ulong)length > size - offset)
            return false;
        // An access that lies in a table partly is cut at the table's edge.
        var end = offset + (ulong)length;
        for (var i = 0; i < 2; i++)
        {
            var (from, to) = _tables[i];
            if (_tableBars[i] != bar || offset >= to)
                continue;
            if (offset < from)
            {
                end = Math.Min(end, from);
                continue;
            }

            place = new RemotePlace(i == 0, i == 1, null, offset - from, (int)(Math.Min(end, to) - offset));
            return true;
        }

        var rest = end - offset;
        foreach (var (at, area) in _mapped[bar])
        {
            if (offset < at || offset - at > area.Size || rest > area.Size - (offset - at))
                continue;
            place = new RemotePlace(false, false, area, offset - at, (int)rest);
            return true;
        }

        place = new RemotePlace(false, false, null, offset, (int)rest);
        return true;
    }

    public void Dispose()
    {
        foreach (var (_, memory) in _mapped.SelectMany(list => list))
            memory.Dispose();
        _mappings.Dispose();
    }

    private void FindTables(MsixTable? msix)
    {
        if (msix is null)
            return;
        int[] registers = [PciMsix.PCI_MSIX_TABLE, PciMsix.PCI_MSIX_PBA];
        int[] lengths = [msix.TableSize, msix.PendingSize];
        for (var i = 0; i < 2; i++)
        {
            var place = _config.Long(_config.Msix + registers[i]);
            var bar = (int)(place & PciMsix.PCI_MSIX_BIR);
            if (bar >= PciBar.Rom)
                continue;
            _tableBars[i] = bar;
            var start = (ulong)(place & ~(uint)PciMsix.PCI_MSIX_BIR);
            _tables[i] = (start, start + (ulong)lengths[i]);
        }
    }

    private void FindAreas(int bar)
    {
        if (_config.Bars[bar].Kind == PciBarKind.None || !_link.TryGetRegion((uint)bar, out var info, out _))
            return;
        // What a peer offers and is no file in memory is not to be mapped at all, by a user of the function neither: who serves its pages may let
        // everybody wait who touches one. It goes by messages.
        var areas = info.Areas.Where(area => !_link.IsPeer || area.File.IsMemoryFile()).SelectMany(area => AroundTables(bar, area)).ToList();
        _areas[bar] = [.. areas.Select(area => new PciBarArea(area.Offset, area.Size, area.File, area.FileOffset) { IsPeerMemory = _link.IsPeer })];
        // Registers of the host are no memory, and each access of this side is one call.
        if (!_link.IsPeer)
            return;
        var mapped = new List<(ulong, HostMemory)>();
        foreach (var area in areas)
        {
            if (HostMemory.TryMap(_mappings, area.File, area.FileOffset, area.Size, DmaAccess.ReadWrite, out var memory, out _))
                mapped.Add((area.Offset, memory!));
        }

        _mapped[bar] = [.. mapped];
    }

    // What lies over the MSI-X table or its pending bits is not to be mapped past them; the rest of such an area is.
    private IEnumerable<VfioRegionArea> AroundTables(int bar, VfioRegionArea area)
    {
        List<(ulong From, ulong To)> parts = [(area.Offset, area.Offset + area.Size)];
        for (var i = 0; i < 2; i++)
        {
            if (_tableBars[i] != bar)
                continue;
            // A map has whole pages.
            var first = _tables[i].Start & ~(PageSize - 1);
            var last = (_tables[i].End + PageSize - 1) & ~(PageSize - 1);
            parts = [.. parts.SelectMany(part => new[] { (part.From, Math.Min(part.To, first)), (Math.Max(part.From, last), part.To) }).Where(part => part.Item1 < part.Item2)];
        }

        return parts.Select(part => area with { Offset = part.From, Size = part.To - part.From, FileOffset = area.FileOffset + (part.From - area.Offset) });
    }
}
