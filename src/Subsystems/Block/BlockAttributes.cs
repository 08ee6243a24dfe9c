using System.Globalization;
using Virtbus.Core;
using Virtbus.Platform;

namespace Virtbus.Subsystems.Block;

/// <summary>The attributes of a disk, with Linux's names and formats (Documentation/ABI/stable/sysfs-block).</summary>
internal static class BlockAttributes
{
    private const int SectorSize = 512;
    private const string WriteBack = "write back";
    private const string WriteThrough = "write through";

    internal static readonly AttributeGroup[] Groups =
    [
        new([.. EndpointAttributes.Of<BlockDevice>(d => d.Endpoint)]),
        new(
            new ObjectAttribute<BlockDevice>("alignment_offset", d => $"{(long)d.Info.AlignmentOffset * d.Info.BlockSize}"),
            new ObjectAttribute<BlockDevice>("cache_type", ModeOf, SetModeAsync, static d => d.Backend is ISwitchableCache { CanSwitch: true }),
            new ObjectAttribute<BlockDevice>("discard_alignment", _ => "0"),
            new ObjectAttribute<BlockDevice>("diskseq", d => $"{d.DiskSequence}"),
            new ObjectAttribute<BlockDevice>("hidden", _ => "0"),
            new ObjectAttribute<BlockDevice>("inflight", d => InFlight(d.ReadStatistics())),
            new ObjectAttribute<BlockDevice>("removable", d => d.Options.IsRemovable ? "1" : "0"),
            new ObjectAttribute<BlockDevice>("ro", d => d.Info.IsReadOnly ? "1" : "0"),
            new ObjectAttribute<BlockDevice>("serial", d => d.Info.Serial, visible: static d => d.Info.Serial.Length > 0),
            new ObjectAttribute<BlockDevice>("size", d => $"{d.Info.Capacity / SectorSize}"),
            new ObjectAttribute<BlockDevice>("stat", d => Stat(d.ReadStatistics())),
            // Not of Linux: who has it open, and whether alone.
            new ObjectAttribute<BlockDevice>("users", d => string.Join('\n', d.Users.Select(u => $"{u.Name} {(u.Use == BlockUse.Exclusive ? "exclusive" : "shared")}")))),
        new(
            "queue",
            new ObjectAttribute<BlockDevice>("discard_granularity", d => $"{(d.Info.MaxDiscard > 0 ? Math.Max(d.Info.DiscardAlignment, d.Info.BlockSize) : 0)}"),
            new ObjectAttribute<BlockDevice>("discard_max_bytes", d => $"{d.Info.MaxDiscard}"),
            new ObjectAttribute<BlockDevice>("fua", d => d.Options.HasForcedWrites && d.Info.HasWriteCache ? "1" : "0"),
            new ObjectAttribute<BlockDevice>("logical_block_size", d => $"{d.Info.BlockSize}"),
            new ObjectAttribute<BlockDevice>("max_hw_sectors_kb", d => $"{MostKilobytes(d)}"),
            new ObjectAttribute<BlockDevice>("max_sectors_kb", d => $"{MostKilobytes(d)}"),
            new ObjectAttribute<BlockDevice>("minimum_io_size", d => $"{Math.Max(d.Info.MinimumIoSize, PhysicalSize(d))}"),
            new ObjectAttribute<BlockDevice>("nr_requests", d => $"{d.Options.Requests}"),
            new ObjectAttribute<BlockDevice>("optimal_io_size", d => $"{d.Info.OptimalIoSize}"),
            new ObjectAttribute<BlockDevice>("physical_block_size", d => $"{PhysicalSize(d)}"),
            new ObjectAttribute<BlockDevice>("rotational", d => d.Info.IsRotational ? "1" : "0"),
            new ObjectAttribute<BlockDevice>("write_cache", ModeOf),
            new ObjectAttribute<BlockDevice>("write_zeroes_max_bytes", d => $"{d.Info.MaxWriteZeroes}")),
    ];

    private static string ModeOf(BlockDevice device) => device.Info.HasWriteCache ? WriteBack : WriteThrough;

    private static ValueTask SetModeAsync(BlockDevice device, string value, CancellationToken cancellationToken)
    {
        if (value is not (WriteBack or WriteThrough))
            throw new VirtbusException(Errno.EINVAL, $"'{value}' is no cache mode. Choose '{WriteBack}' or '{WriteThrough}'.");
        if (!((ISwitchableCache)device.Backend).TrySwitch(value == WriteBack, out var fault))
            throw new VirtbusException(fault.Errno, $"Disk '{device.Name}' keeps its cache mode: {fault.Message}.");
        return default;
    }

    private static int PhysicalSize(BlockDevice device) => device.Info.BlockSize << device.Info.PhysicalBlockExponent;

    // What any disk takes at once is bounded by the length of a list of runs, not by this.
    private static long MostKilobytes(BlockDevice device) => (device.Info.MaxTransfer == 0 ? int.MaxValue : device.Info.MaxTransfer) / 1024;

    // What does not read counts as a write here, as in Linux.
    private static string InFlight(BlockStatistics sum)
    {
        var writes = sum.InFlightOf(BlockStatistics.Writes) + sum.InFlightOf(BlockStatistics.Discards) + sum.InFlightOf(BlockStatistics.Flushes);
        return string.Create(CultureInfo.InvariantCulture, $"{sum.InFlightOf(BlockStatistics.Reads),8} {writes,8}");
    }

    // Seventeen fields, in Linux's widths: of reads, writes and discards how many, merged, sectors and milliseconds, and in flight, busy and all
    // milliseconds after the writes; of flushes how many and milliseconds. Nothing is merged here.
    private static string Stat(BlockStatistics sum)
    {
        long inFlight = 0, time = 0;
        for (var kind = 0; kind < BlockStatistics.Kinds; kind++)
        {
            inFlight += sum.InFlightOf(kind);
            time += sum.MillisecondsOf(kind);
        }

        return string.Create(
            CultureInfo.InvariantCulture,
            $"{Of(BlockStatistics.Reads)} {Of(BlockStatistics.Writes)} {inFlight,8} {sum.BusyMilliseconds,8} {time,8} {Of(BlockStatistics.Discards)} {sum.RequestsOf(BlockStatistics.Flushes),8} {sum.MillisecondsOf(BlockStatistics.Flushes),8}");

        string Of(int kind) => string.Create(
            CultureInfo.InvariantCulture, $"{sum.RequestsOf(kind),8} {0,8} {sum.SectorsOf(kind),8} {sum.MillisecondsOf(kind),8}");
    }
}
