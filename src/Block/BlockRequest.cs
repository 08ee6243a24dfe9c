using Virtbus.Memory.Rings;
using Virtbus.Platform;

namespace Virtbus.Block;

/// <summary>
/// One request on its way through a backend. Made once for each place in flight and used again, so a request allocates nothing.
/// It is the queue's before it is submitted and after it is done, the channel's in between.
/// </summary>
public sealed class BlockRequest
{
    internal BlockRequest(int capacity) => Chain = new DescriptorChain(capacity);

    /// <summary>What is wanted.</summary>
    public BlockOperation Operation { get; internal set; }

    /// <summary>Byte offset in the backend; with <see cref="Length"/> within its capacity and whole blocks.</summary>
    public long Offset { get; internal set; }

    /// <summary>Bytes to move: the sum of the runs.</summary>
    public uint Length { get; internal set; }

    /// <summary>Guest memory to fill or to store, in order; mapped until the request is done.</summary>
    public ReadOnlySpan<IoVector> Runs => Operation switch
    {
        BlockOperation.Read => Chain.Writable,
        BlockOperation.Write => Chain.Readable,
        _ => [],
    };

    /// <summary>How it ended, set by the channel: None when all bytes were moved.</summary>
    public Errno Result { get; set; }

    internal DescriptorChain Chain { get; }
}
