namespace Virtbus.Platform;

/// <summary>A descriptor by which a client of a poll thread is woken.</summary>
/// <param name="Descriptor">The descriptor, to become readable; it stays its owner's, and open until the client is detached.</param>
/// <param name="Bit">Which bit of <see cref="IPollWork.Work"/>'s signals stands for it, 0 to 63.</param>
/// <param name="IsEdge">
/// Whether each new signal wakes once (an eventfd then needs no read at all), or the client is woken as long as the descriptor stays readable.
/// </param>
public readonly record struct PollSource(FileDescriptor Descriptor, int Bit, bool IsEdge);
