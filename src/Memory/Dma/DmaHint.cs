namespace Virtbus.Memory.Dma;

/// <summary>What a caller of <see cref="DmaSection.Translate"/> remembers of the look-ups before; starts as its default. Used by one thread at a time.</summary>
public struct DmaHint
{
    // The ranges that were found last, good as long as nothing was unmapped in their space since: a request and its data often lie in two.
    internal IoAddressSpace? Space;
    internal int Version;
    internal Translation Found;
    internal Translation Other;
    internal int Guess;
}
