namespace Virtbus.Models.VirtioNet;

/// <summary>
/// Which queue pair a received frame goes to (VIRTIO 1.3, 5.1.6.5.5 to 5.1.6.5.7): by the driver's table, or to the pair that sent last in that flow. It never
/// changes.
/// </summary>
/// <param name="Pairs">How many pairs are in use.</param>
internal sealed record FlowSteering(int Pairs)
{
    /// <summary>The hash of a frame; null for none.</summary>
    internal FlowHash? Hash { get; init; }

    /// <summary>The pair for each hash, a power of two of them; null where the device finds the pair.</summary>
    internal ushort[]? Table { get; init; }

    /// <summary>The pair for frames without a hash, where there is a table.</summary>
    internal ushort Unclassified { get; init; }

    /// <summary>The pair by the table.</summary>
    internal int PairOf(FlowHash.Value hash) => hash.Report == 0 ? Unclassified : Table![hash.Hash & (uint)(Table.Length - 1)];
}
