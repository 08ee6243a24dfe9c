using Virtbus.Memory;

namespace Virtbus.Hardware.Adapter;

/// <summary>All that makes a queue set: where its rings are, and how far the adapter is in them.</summary>
/// <param name="Id">Its number.</param>
/// <param name="Vector">The MSI-X vector.</param>
/// <param name="TransmitLog">Log2 of the transmit ring's descriptors.</param>
/// <param name="ReceiveLog">Log2 of the receive ring's.</param>
/// <param name="TransmitRing">Where the transmit ring is.</param>
/// <param name="ReceiveRing">Where the receive ring is.</param>
/// <param name="IndexBlock">Where the index block is.</param>
internal readonly record struct QueueSetState(
    ushort Id, ushort Vector, byte TransmitLog, byte ReceiveLog, Iova TransmitRing, Iova ReceiveRing, Iova IndexBlock)
{
    public const int MinLog = 1;
    public const int MaxLog = 15;

    /// <summary>Descriptors taken from the transmit ring since it was made; wraps.</summary>
    public uint TransmitConsumer { get; init; }

    /// <summary>Buffers filled in the receive ring; wraps.</summary>
    public uint ReceiveConsumer { get; init; }

    /// <summary>Frames that found no buffer; wraps.</summary>
    public uint Dropped { get; init; }

    /// <summary>Why it stopped.</summary>
    public AdapterError Error { get; init; }

    public uint TransmitSize => 1u << TransmitLog;

    public uint ReceiveSize => 1u << ReceiveLog;

    /// <summary>Whether a function may have such a queue set; its memory is looked at only in use.</summary>
    public bool IsValid(in FunctionLimits limits) =>
        Id < limits.QueueSets && Vector < limits.Vectors
        && TransmitLog is >= MinLog and <= MaxLog && ReceiveLog is >= MinLog and <= MaxLog
        && Fits(TransmitRing, (ulong)TransmitSize * QueueSet.DescriptorSize, QueueSet.DescriptorSize)
        && Fits(ReceiveRing, (ulong)ReceiveSize * QueueSet.DescriptorSize, QueueSet.DescriptorSize)
        && Fits(IndexBlock, QueueSet.IndexBlockSize, QueueSet.IndexBlockSize)
        && Error <= AdapterError.Internal;

    public Iova At(Iova start, uint offset) => new(start.Value + offset);

    // Aligned, and not over the end of the address space.
    private static bool Fits(Iova start, ulong size, ulong alignment) => start.Value % alignment == 0 && start.Value <= ulong.MaxValue - (size - 1);
}
