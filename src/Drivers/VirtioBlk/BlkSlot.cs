using Virtbus.Memory;
using Virtbus.Platform;
using Virtbus.Virtio.Rings;

namespace Virtbus.Drivers.VirtioBlk;

/// <summary>A request as the device gets it: a piece of what a user asked for, with its place in the channel's memory. Its channel's, but for the time that it is out.</summary>
/// <param name="channel">The channel.</param>
/// <param name="index">Which of the channel's.</param>
/// <param name="header">Its header in the channel's memory.</param>
/// <param name="status">Its status there.</param>
internal sealed class BlkSlot(BlkChannel channel, int index, IoVector header, IoVector status)
{
    private readonly DriverBuffer[] _parts = new DriverBuffer[BlkLayout.MostParts];
    private int _count;

    internal BlkChannel Channel => channel;

    internal int Index => index;

    /// <summary>What the device reads of the request.</summary>
    internal Span<byte> Header => header.AsSpan();

    /// <summary>What the device writes when it is done.</summary>
    internal ref byte Status => ref status.AsSpan()[0];

    /// <summary>The number of what it is a piece of.</summary>
    internal int Of { get; set; }

    /// <summary>Where in the request's runs its data begins: run, bytes of it; how many bytes; none for a request without data.</summary>
    internal BlkPlace Place { get; set; }

    internal int Length { get; set; }

    /// <summary>Whether the device reads or writes a copy of the data, in the channel's memory.</summary>
    internal bool IsCopied { get; set; }

    /// <summary>The parts that the device gets.</summary>
    internal ReadOnlySpan<DriverBuffer> Parts => _parts.AsSpan(0, _count);

    /// <summary>When it went out, in ticks of the disk's clock.</summary>
    internal int Since { get; set; }

    internal BlkOutcome Outcome { get; set; }

    /// <summary>Why it failed.</summary>
    internal Errno Error { get; set; }

    /// <summary>Bytes that the device says it wrote.</summary>
    internal uint Written { get; set; }

    /// <summary>Leaves the first parts.</summary>
    internal void Keep(int parts) => _count = parts;

    internal void Add(Iova address, uint length, bool deviceWrites) => _parts[_count++] = new DriverBuffer(address, length, deviceWrites);
}
