using System.Runtime.CompilerServices;

namespace Virtbus.Platform;

/// <summary>
/// An epoll set: what one thread waits on. Add from any thread; one thread waits. Nothing is allocated by a wait.
/// </summary>
public sealed class Epoll : IDisposable
{
    private const int BatchSize = 8;
    private readonly FileDescriptor _descriptor;

    /// <summary>Makes an empty set.</summary>
    /// <exception cref="VirtbusException">The process has no descriptor left.</exception>
    public Epoll()
    {
        var number = Libc.epoll_create1(Libc.EPOLL_CLOEXEC);
        _descriptor = number >= 0 ? new FileDescriptor(number) : throw HostError.Make("an epoll set", Libc.LastError);
    }

    /// <summary>Adds a descriptor to wait for its becoming readable.</summary>
    /// <param name="descriptor">The descriptor; it is taken out by itself when its last duplicate is closed.</param>
    /// <param name="bit">Which bit of <see cref="Wait"/>'s answer stands for it, 0 to 31.</param>
    /// <param name="edge">
    /// Whether to report each new signal once (EPOLLET) and not as long as it stays readable: an eventfd then needs no read at all.
    /// </param>
    /// <exception cref="VirtbusException">The descriptor cannot be waited on (EPERM) or is in the set already (EEXIST).</exception>
    public unsafe void Add(FileDescriptor descriptor, int bit, bool edge)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan((uint)bit, 31u, nameof(bit));
        var entry = stackalloc byte[16];
        // SAFETY: 16 bytes hold either shape of struct epoll_event; the kernel only reads them.
        Unsafe.WriteUnaligned(entry, Libc.EPOLLIN | (edge ? Libc.EPOLLET : 0));
        Unsafe.WriteUnaligned(entry + EpollLayout.DataOffset, (ulong)bit);
        if (Libc.epoll_ctl(_descriptor, Libc.EPOLL_CTL_ADD, descriptor, entry) < 0)
            throw HostError.Make("waiting on a descriptor", Libc.LastError);
    }

    /// <summary>Waits until a descriptor of the set is readable.</summary>
    /// <param name="milliseconds">How long at most; -1 for ever, 0 not at all.</param>
    /// <returns>One bit for each descriptor that is; 0 at the end of the time or when a signal came in between.</returns>
    public unsafe uint Wait(int milliseconds)
    {
        var events = stackalloc byte[BatchSize * 16];
        // SAFETY: the buffer holds BatchSize events of the larger of the two shapes.
        var count = Libc.epoll_wait(_descriptor, events, BatchSize, milliseconds);
        var ready = 0u;
        for (var i = 0; i < count; i++)
            ready |= 1u << (int)Unsafe.ReadUnaligned<ulong>(events + (i * EpollLayout.Size) + EpollLayout.DataOffset);
        return ready;
    }

    /// <summary>Closes the set.</summary>
    public void Dispose() => _descriptor.Dispose();
}
