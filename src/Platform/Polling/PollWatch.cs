namespace Virtbus.Platform;

/// <summary>A descriptor in a poll thread's epoll set.</summary>
/// <param name="seat">Whom it wakes.</param>
/// <param name="signal">The bit that stands for it.</param>
/// <param name="descriptor">What is in the set: the source's, or a duplicate of it.</param>
/// <param name="token">What the set names it by.</param>
/// <param name="isOwn">Whether the descriptor is a duplicate of this object's own.</param>
internal sealed class PollWatch(PollSeat seat, ulong signal, FileDescriptor descriptor, ulong token, bool isOwn)
{
    internal PollSeat Seat => seat;

    internal ulong Signal => signal;

    internal FileDescriptor Descriptor => descriptor;

    internal ulong Token => token;

    internal bool IsOwn => isOwn;
}
