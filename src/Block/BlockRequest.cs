using System.Text;
using Virtbus.Platform;

namespace Virtbus.Block;

/// <summary>
/// One request on its way through a back end. Made once for each place in flight and used again, so a request allocates nothing.
/// It is its owner's before it is submitted and after it is done, the channel's in between. Not safe for two threads at once.
/// </summary>
public sealed class BlockRequest
{
    private IoVectorList _runs;

    /// <summary>Makes one, for any number of uses.</summary>
    /// <param name="owner">What the owner finds by it when it comes back, a ring's buffer for one; the floor never looks at it.</param>
    public BlockRequest(object? owner = null) => Owner = owner;

    /// <summary>What the owner gave it to know it by.</summary>
    public object? Owner { get; }

    /// <summary>What is wanted.</summary>
    public BlockOperation Operation { get; set; }

    /// <summary>Byte offset in the back end, a multiple of its block size; nothing for a flush.</summary>
    public long Offset { get; set; }

    /// <summary>
    /// Bytes that it is about, a multiple of the block size; with <see cref="Offset"/> within the capacity. For a read, a write and an identity
    /// it is the sum of the runs.
    /// </summary>
    public long Length { get; set; }

    /// <summary>Whether a write is answered only when it is durable (force unit access), see <see cref="IBlockBackend"/>.</summary>
    public bool IsDurable { get; set; }

    /// <summary>Whether the room of what is made zeros by <see cref="BlockOperation.WriteZeroes"/> may be given back to the host.</summary>
    public bool MayUnmap { get; set; }

    /// <summary>Memory to fill or to store, in order.</summary>
    public ReadOnlySpan<IoVector> Runs => _runs.AsSpan();

    /// <summary>The same, at its fixed address.</summary>
    public IoVectorList RunList => _runs;

    /// <summary>How it ended, set by the channel: None when all bytes were moved.</summary>
    public Errno Result { get; set; }

    /// <summary>Says which memory it fills or stores.</summary>
    /// <param name="runs">
    /// The runs, in a pinned array. The array keeps its content, and the memory that it names stays mapped, until the request is done.
    /// </param>
    public void SetRuns(ReadOnlySpan<IoVector> runs) => _runs = IoVectorList.OfPinned(runs);

    /// <summary>Takes the runs away.</summary>
    public void ClearRuns() => _runs = default;

    /// <summary>Answers <see cref="BlockOperation.GetId"/>.</summary>
    internal void AnswerIdentity(string serial)
    {
        Span<byte> bytes = stackalloc byte[BlockInfo.MaxSerialSize];
        bytes.Clear();
        Encoding.ASCII.GetBytes(serial, bytes);
        foreach (var run in Runs)
        {
            var target = run.AsSpan();
            var count = Math.Min(target.Length, bytes.Length);
            bytes[..count].CopyTo(target);
            target[count..].Clear();
            bytes = bytes[count..];
        }

        Result = Errno.None;
    }
}
