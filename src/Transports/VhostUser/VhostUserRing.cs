using Virtbus.Memory;
using Virtbus.Platform;

namespace Virtbus.Transports.VhostUser;

/// <summary>What the front end said of one ring. It is kept here, and not only in the device, because a device reset forgets it.</summary>
internal sealed class VhostUserRing : IDisposable
{
    internal int Size { get; set; }

    internal (UserAddress Descriptors, UserAddress Available, UserAddress Used)? Addresses { get; set; }

    internal ushort Base { get; set; }

    internal EventFd? Kick { get; set; }

    internal EventFd? Call { get; set; }

    internal EventFd? Error { get; set; }

    /// <summary>Whether SET_VRING_KICK came, with a descriptor or without one.</summary>
    internal bool IsStarted { get; set; }

    internal bool IsEnabled { get; set; }

    /// <summary>Where the device was told that the ring is; null while the device does not run it.</summary>
    internal (Iova Descriptors, Iova Available, Iova Used)? Applied { get; set; }

    internal bool IsRunnable => Size > 0 && Addresses is not null && IsStarted && IsEnabled;

    /// <summary>Forgets the set-up, as a device reset does. Eventfds for calls and errors stay: QEMU sends them once.</summary>
    internal void Reset()
    {
        Size = 0;
        Addresses = null;
        Base = 0;
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
