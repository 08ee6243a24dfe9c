namespace Virtbus.Memory.Dma;

/// <summary>What a look-up finds: the range around an address and where it leads. 32 bytes, two of them in a cache line.</summary>
internal struct Translation
{
    /// <summary>First address of the range.</summary>
    internal ulong Start;

    /// <summary>Bytes; 0 when the slot holds no range. Written last when a range comes, first when it goes.</summary>
    internal ulong Size;

    /// <summary>Host address of the range's first byte; of no meaning for a peer's memory.</summary>
    internal nint Target;

    /// <summary>What is allowed. Not none in a slot that is, or was, in use: a search goes on behind it.</summary>
    internal DmaAccess Access;

    /// <summary>Number of the peer, or -1 for memory of the host.</summary>
    internal int Remote;
}
