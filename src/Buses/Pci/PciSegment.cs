using Virtbus.Core;

namespace Virtbus.Buses.Pci;

/// <summary>One bus of the tree: the root bus of a host bridge, or the bus behind a bridge. Guarded by the bus's topology lock.</summary>
internal sealed class PciSegment(PciHostBridge host, PciSlot? bridge, int number, int subordinate)
{
    // What a window gets at least, and what a bridge's registers can express.
    private static readonly ulong[] MinSizes = [0x1000, 0x20_0000, 0x20_0000];
    private static readonly ulong[] Granules = [0x1000, 0x10_0000, 0x10_0000];

    public PciHostBridge Host { get; } = host;

    public PciSlot? BridgeSlot { get; } = bridge;

    public int Number { get; } = number;

    /// <summary>The highest bus number that is routed here.</summary>
    public int Subordinate { get; set; } = subordinate;

    public PciSegment? Above => BridgeSlot?.Segment;

    /// <summary>What devices on this bus hang below; null while the bridge has no device.</summary>
    public Device? Parent => BridgeSlot is null ? Host : BridgeSlot.Device;

    public SortedDictionary<int, PciSlot> Slots { get; } = [];

    public AddressWindow?[] Windows { get; } = new AddressWindow?[3];

    /// <summary>Sees to it that a window can take what a function needs.</summary>
    /// <param name="kind">Which window.</param>
    /// <param name="size">Bytes, all BARs together.</param>
    /// <param name="alignment">The largest alignment among them.</param>
    public void Provide(WindowKind kind, ulong size, ulong alignment)
    {
        if (Above is null)
            return;
        ref var window = ref Windows[(int)kind];
        if (window is not null && (!window.IsEmpty || window.Last - window.Start >= size - 1))
            return;
        Withdraw(kind);
        var granule = Granules[(int)kind];
        var wanted = (Math.Max(size, MinSizes[(int)kind]) + granule - 1) & ~(granule - 1);
        alignment = Math.Max(alignment, granule);
        Above.Provide(kind, wanted, alignment);
        if (Above.Windows[(int)kind]?.TryAllocate(wanted, alignment, out var start) == true)
            window = new AddressWindow(start, start + (wanted - 1));
    }

    /// <summary>Gives empty windows back.</summary>
    public void Withdraw()
    {
        if (Above is null)
            return;
        for (var kind = WindowKind.Io; kind <= WindowKind.Prefetchable; kind++)
            Withdraw(kind);
        Above.Withdraw();
    }

    private void Withdraw(WindowKind kind)
    {
        ref var window = ref Windows[(int)kind];
        if (window is not { IsEmpty: true })
            return;
        Above!.Windows[(int)kind]?.Free(window.Start);
        window = null;
    }

    /// <summary>Whether a bus number leads here; numbers behind the last one are taken when they are free.</summary>
    /// <param name="number">The bus number.</param>
    public bool TryReach(int number)
    {
        if (number <= Subordinate)
            return Host.Owners[number] == this;
        if (number > 255)
            return false;
        for (var n = Subordinate + 1; n <= number; n++)
        {
            if (!Above!.CanGive(n))
                return false;
        }
        for (var n = Subordinate + 1; n <= number; n++)
            Host.Owners[n] = this;
        Subordinate = number;
        return true;
    }

    /// <summary>Takes bus numbers for a bridge on this bus.</summary>
    /// <param name="count">How many, one after the other.</param>
    /// <param name="first">The lowest of them.</param>
    public bool TryTakeNumbers(int count, out int first)
    {
        for (first = Number + 1; first + count <= 256; first++)
        {
            var free = 0;
            while (free < count && CanGive(first + free) && !Host.HasVirtualFunctions(first + free))
                free++;
            if (free == count)
                return true;
            if (Above is not null && first > Subordinate)
                return false;
            first += free;
        }
        return false;
    }

    private bool CanGive(int number) => Above is null ? Host.Owners[number] is null : TryReach(number);
}
