namespace Virtbus.Memory.Dma;

/// <summary>One range of an I/O address space. All but the fields that say otherwise is fixed.</summary>
internal sealed class IoMapping
{
    private IoMapping(IovaRange range, DmaAccess access)
    {
        Range = range;
        Access = access;
    }

    internal IovaRange Range { get; }

    internal ulong Start => Range.Start.Value;

    internal ulong Last => Range.Last;

    internal DmaAccess Access { get; }

    /// <summary>What lies behind, one reference of which belongs to the mapping; null for a peer's memory.</summary>
    internal HostMemory? Memory { get; private init; }

    /// <summary>Byte offset in <see cref="Memory"/>.</summary>
    internal ulong Offset { get; private init; }

    /// <summary>The peer's memory, when <see cref="Memory"/> is null.</summary>
    internal IRemoteMemory? Remote { get; private init; }

    /// <summary>Where <see cref="Remote"/> stands in the space's table of peers; under the space's lock.</summary>
    internal int RemoteIndex { get; set; } = -1;

    /// <summary>For blocks of which size (2^n bytes) it is entered in the <see cref="TranslationTable"/>; under the space's lock.</summary>
    internal int Shift { get; set; }

    /// <summary>How many pins hold it; under the space's lock.</summary>
    internal int Pins { get; set; }

    /// <summary>The next one of those that were removed together.</summary>
    internal IoMapping? Next { get; set; }

    internal static IoMapping ForHost(IovaRange range, HostMemory memory, ulong offset, DmaAccess access) =>
        new(range, access) { Memory = memory.Acquire(), Offset = offset };

    internal static IoMapping ForRemote(IovaRange range, IRemoteMemory remote, DmaAccess access) => new(range, access) { Remote = remote };
}
