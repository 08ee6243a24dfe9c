namespace Virtbus.Memory.Dma;

/// <summary>What a caller of <see cref="DmaSection.Translate"/> remembers of the look-up before; starts as its default. Used by one thread at a time.</summary>
public struct DmaHint
{
    // The range that was found, good as long as nothing was unmapped in its space since.
    internal IoAddressSpace? Space;
    internal int Version;
    internal Translation Found;
    internal int Guess;
}
