using Virtbus.Memory;
using Virtbus.Platform;
using Virtbus.Virtio.Rings;

namespace Virtbus.Transports.VhostUser;

/// <summary>What the front end said of one ring. It is kept here, and not only in the device, because a device reset forgets it.</summary>
internal sealed class VhostUserRing : IDisposable
{
    internal int Size { get; set; }

    internal (UserAddress Descriptors, UserAddress Available, UserAddress Used)? Addresses { get; set; }

    /// <summary>Where the next start of the ring begins.</summary>
    internal QueueState Begin { get; private set; }

    /// <summary>
    /// Where the ring goes on, as GET_VRING_BASE answers it. A reset leaves it: QEMU 7.2 pauses by SET_STATUS 0 and asks afterwards, to
    /// go on from there later.
    /// </summary>
    internal QueueState Next { get; private set; }

    internal EventFd? Kick { get; set; }

    internal EventFd? Call { get; set; }

    internal EventFd? Error { get; set; }

    /// <summary>Whether SET_VRING_KICK came, with a descriptor or without one.</summary>
    internal bool IsStarted { get; set; }

    internal bool IsEnabled { get; set; }

    /// <summary>Where the device was told that the ring is; null while the device does not run it.</summary>
    internal (Iova Descriptors, Iova Available, Iova Used)? Applied { get; set; }

    internal bool IsRunnable => Size > 0 && Addresses is not null && IsStarted && IsEnabled;

    /// <summary>The front end said where the ring begins, or the ring stopped there and goes on from there.</summary>
    internal void SetBase(QueueState state)
    {
        Begin = state;
        Next = state;
    }

    /// <summary>
    /// Forgets the set-up of a ring that is stopped, as a device reset does. Eventfds for calls and errors stay: QEMU sends them once. A start
    /// without a new base begins at 0.
    /// </summary>
    internal void Reset()
    {
        Size = 0;
        Addresses = null;
        Begin = default;
        IsStarted = false;
        IsEnabled = false;
        Applied = null;
    }

    public void Dispose()
    {
        Kick?.Dispose();
        Call?.Dispose();
        Error?.Dispose();
    }
}
