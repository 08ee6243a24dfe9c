using System.Runtime.CompilerServices;
using Virtbus.Platform;

namespace Virtbus.Memory.Dma;

/// <summary>
/// A short stay in what a port reaches: between <see cref="DmaPort.TryEnter"/> and <see cref="Leave"/> no memory that was looked up goes. To use it for
/// longer, it is noted in a <see cref="DmaUse"/> before the section ends.
/// </summary>
/// <remarks>
/// In it nothing waits, no callback is made, and the port itself is not read or written. One a thread at a time.
/// </remarks>
public readonly ref struct DmaSection
{
    private readonly IoAddressSpace _space;
    private readonly AccessSlot? _slot;

    internal DmaSection(IoAddressSpace space, AccessSlot slot)
    {
        _space = space;
        _slot = slot;
    }

    /// <summary>
    /// Finds the host memory behind an address. A buffer may cross from one range into the next; the answer then is shorter than asked for and
    /// the caller goes on behind it.
    /// </summary>
    /// <param name="address">First byte.</param>
    /// <param name="length">How many bytes are wanted, above 0.</param>
    /// <param name="access">What will be done with them.</param>
    /// <param name="hint">The caller's own memory of the look-up before; starts at 0.</param>
    /// <param name="run">The memory, 1 to <paramref name="length"/> bytes.</param>
    /// <returns>
    /// None; EFAULT: not mapped; EACCES: not for that access; EOPNOTSUPP: a peer's memory, which is read and written through the port, by messages.
    /// For those <paramref name="run"/> has no address and says how many bytes are the peer's.
    /// </returns>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public Errno Translate(Iova address, uint length, DmaAccess access, ref DmaHint hint, out IoVector run) =>
        _space.Translate(address.Value, length, access, ref hint, out run);

    /// <summary>Ends the stay; without effect for none.</summary>
    public void Leave() => _slot?.Leave();
}
