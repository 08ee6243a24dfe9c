namespace Virtbus.Block;

/// <summary>
/// What a disk is: size, units, what it is good at, what it can do. Lengths are in bytes. One is a picture of the moment; a disk whose size
/// changes gives another one.
/// </summary>
public sealed record BlockInfo
{
    /// <summary>The most bytes of a serial.</summary>
    public const int MaxSerialSize = 20;

    /// <summary>Size, a multiple of <see cref="BlockSize"/>.</summary>
    public required long Capacity { get; init; }

    /// <summary>The unit that requests come in (the logical block): a power of two from 512 to 65536.</summary>
    public int BlockSize { get; init; } = BlockGeometry.SectorSize;

    /// <summary>How many times <see cref="BlockSize"/> has to be doubled for the unit that is written without reading first (the physical block).</summary>
    public int PhysicalBlockExponent { get; init; }

    /// <summary>Where the first physical block begins, in logical blocks.</summary>
    public int AlignmentOffset { get; init; }

    /// <summary>The smallest request that is no waste; 0 when the back end has no opinion.</summary>
    public int MinimumIoSize { get; init; }

    /// <summary>The request size for long transfers; 0 when the back end has no opinion.</summary>
    public int OptimalIoSize { get; init; }

    /// <summary>The most that one discard is about; 0 when the back end does none.</summary>
    public long MaxDiscard { get; init; }

    /// <summary>What offset and length of a discard are multiples of where it is to have an effect.</summary>
    public int DiscardAlignment { get; init; }

    /// <summary>The most that one request makes zeros; 0 when the back end does not.</summary>
    public long MaxWriteZeroes { get; init; }

    /// <summary>Whether zeros are never made by writing them: what cannot be done without is an error at once.</summary>
    public bool HasFastZeroes { get; init; }

    /// <summary>The most bytes of one read or write; 0 when any length goes.</summary>
    public int MaxTransfer { get; init; }

    /// <summary>Whether a medium turns, so that the order of requests matters.</summary>
    public bool IsRotational { get; init; }

    /// <summary>Whether it takes no writes.</summary>
    public bool IsReadOnly { get; init; }

    /// <summary>Whether a write can be answered before it is durable, so that a flush does something.</summary>
    public bool HasWriteCache { get; init; }

    /// <summary>The back end's own serial, at most <see cref="MaxSerialSize"/> ASCII characters; empty when it has none.</summary>
    public string Serial { get; init; } = "";

    /// <summary>Whether a range lies within the disk and is of whole blocks.</summary>
    /// <param name="offset">Its first byte.</param>
    /// <param name="length">Its length in bytes.</param>
    public bool Holds(long offset, long length) =>
        offset >= 0 && length >= 0 && offset <= Capacity && length <= Capacity - offset && ((offset | length) & (BlockSize - 1)) == 0;
}
