namespace Virtbus.Platform.IoUring;

/// <summary>How a request to a ring ended.</summary>
/// <param name="Token">What the request was named.</param>
/// <param name="Result">Bytes moved, 0 where there are none to move, or the negative errno.</param>
public readonly record struct IoRingCompletion(ulong Token, int Result)
{
    /// <summary>None, or the errno.</summary>
    public Errno Error => Result < 0 ? (Errno)(-Result) : Errno.None;
}
