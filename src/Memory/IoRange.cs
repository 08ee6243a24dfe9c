using Virtbus.Platform;

namespace Virtbus.Memory;

/// <summary>One run of DMA addresses and the memory behind it.</summary>
public readonly struct IoRange
{
    internal IoRange(Iova start, ulong size, HostMemory memory, ulong offset, DmaAccess access)
    {
        Start = start;
        Size = size;
        Memory = memory;
        HostAddress = memory.Address + (nint)offset;
        Access = access;
    }

    /// <summary>First address.</summary>
    public Iova Start { get; }

    /// <summary>Size in bytes, above 0; the end may be 2^64.</summary>
    public ulong Size { get; }

    /// <summary>What the device may do there.</summary>
    public DmaAccess Access { get; }

    /// <summary>The file of the memory, if it was kept (<see cref="HostMemory.File"/>), to hand to a peer; valid while the map is held.</summary>
    public FileDescriptor? File => Memory.File;

    /// <summary>Where in <see cref="File"/> the range begins.</summary>
    public ulong FileOffset => Memory.FileOffset + (ulong)(HostAddress - Memory.Address);

    internal HostMemory Memory { get; }

    internal nint HostAddress { get; }
}
