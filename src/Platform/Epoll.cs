using System.Runtime.CompilerServices;

namespace Virtbus.Platform;

/// <summary>
/// An epoll set: what one thread waits on. Add from any thread; one thread waits. Nothing is allocated by a wait.
/// </summary>
public sealed class Epoll : IDisposable
{
    private const int BatchSize = 8;
    private const long Second = 1_000_000_000;

    // Linux before 5.11, or a container that knows its calls by name, does not have it.
    private static volatile bool _hasPreciseWait = true;
    private readonly FileDescriptor _descriptor;

    /// <summary>Makes an empty set.</summary>
    /// <exception cref="VirtbusException">The process has no descriptor left.</exception>
    public Epoll()
    {
        var number = Libc.epoll_create1(Libc.EPOLL_CLOEXEC);
        _descriptor = number >= 0 ? new FileDescriptor(number) : throw HostError.Make("an epoll set", Libc.LastError);
    }

    /// <summary>The set itself, to wait on: it is readable as long as something of it is not told yet.</summary>
    public FileDescriptor Descriptor => _descriptor;

    /// <summary>Adds a descriptor to wait for its becoming readable.</summary>
    /// <param name="descriptor">The descriptor; it is taken out by itself when its last duplicate is closed.</param>
    /// <param name="bit">Which bit of <see cref="Wait(int)"/>'s answer stands for it, 0 to 31.</param>
    /// <param name="edge">
    /// Whether to report each new signal once (EPOLLET) and not as long as it stays readable: an eventfd then needs no read at all.
    /// </param>
    /// <exception cref="VirtbusException">The descriptor cannot be waited on (EPERM) or is in the set already (EEXIST).</exception>
    public void Add(FileDescriptor descriptor, int bit, bool edge)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan((uint)bit, 31u, nameof(bit));
        Add(descriptor, (ulong)bit, Libc.EPOLLIN | (edge ? Libc.EPOLLET : 0));
    }

    /// <summary>Adds a descriptor that other sets, of other threads, have too: of those that wait, one alone is woken (EPOLLEXCLUSIVE).</summary>
    /// <param name="descriptor">The descriptor, or another one of the same source.</param>
    /// <param name="bit">As for the other one.</param>
    /// <exception cref="VirtbusException">As for the other one.</exception>
    public void AddShared(FileDescriptor descriptor, int bit)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan((uint)bit, 31u, nameof(bit));
        Add(descriptor, (ulong)bit, Libc.EPOLLIN | Libc.EPOLLEXCLUSIVE);
    }

    /// <summary>Adds a descriptor to wait on, in a set that is asked by <see cref="Wait(Span{ulong}, int)"/> and so may be of any size.</summary>
    /// <param name="descriptor">The descriptor.</param>
    /// <param name="token">What the answer names it by.</param>
    /// <param name="edge">As for the other one.</param>
    /// <param name="onlyHangUp">Whether to report only that the other end is gone, and not that something can be read.</param>
    /// <exception cref="VirtbusException">As for the other one.</exception>
    public void Add(FileDescriptor descriptor, ulong token, bool edge, bool onlyHangUp = false) =>
        Add(descriptor, token, (onlyHangUp ? 0 : Libc.EPOLLIN) | (edge ? Libc.EPOLLET : 0));

    /// <summary>Takes a descriptor out. What the set does not hold is no error.</summary>
    /// <param name="descriptor">The descriptor.</param>
    public unsafe void Remove(FileDescriptor descriptor)
    {
        var unused = stackalloc byte[16];
        // SAFETY: the kernel does not look at the entry; kernels before 2.6.9 wanted it to be there.
        _ = Libc.epoll_ctl(_descriptor, Libc.EPOLL_CTL_DEL, descriptor, unused);
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

    /// <summary>Waits until a descriptor of the set is ready.</summary>
    /// <param name="tokens">Filled with the tokens of those that are; those that do not fit are told the next time.</param>
    /// <param name="milliseconds">How long at most; -1 for ever, 0 not at all.</param>
    /// <returns>How many tokens; 0 at the end of the time or when a signal came in between.</returns>
    public unsafe int Wait(Span<ulong> tokens, int milliseconds)
    {
        var events = stackalloc byte[BatchSize * 16];
        // SAFETY: the buffer holds BatchSize events of the larger of the two shapes.
        return Take(events, Libc.epoll_wait(_descriptor, events, Math.Min(BatchSize, tokens.Length), milliseconds), tokens);
    }

    /// <summary>As <see cref="Wait(Span{ulong}, int)"/>, as exactly as the host can; where it can't, in milliseconds and no shorter.</summary>
    /// <param name="tokens">As there.</param>
    /// <param name="nanoseconds">How long at most; above 0.</param>
    internal unsafe int WaitFor(Span<ulong> tokens, long nanoseconds)
    {
        if (!_hasPreciseWait)
            return Wait(tokens, (int)Math.Min(1 + (nanoseconds / 1_000_000), int.MaxValue));
        var events = stackalloc byte[BatchSize * 16];
        // struct __kernel_timespec.
        var timeout = stackalloc long[2] { nanoseconds / Second, nanoseconds % Second };
        // SAFETY: the buffer holds BatchSize events of the larger of the two shapes; the time and no signal mask are only read.
        var count = (int)Libc.epoll_pwait2(Libc.SYS_epoll_pwait2, _descriptor, events, Math.Min(BatchSize, tokens.Length), timeout, null, 0);
        if (count < 0 && Libc.LastError is Errno.ENOSYS or Errno.EPERM)
        {
            _hasPreciseWait = false;
            return WaitFor(tokens, nanoseconds);
        }

        return Take(events, count, tokens);
    }

    /// <summary>Closes the set.</summary>
    public void Dispose() => _descriptor.Dispose();

    /// <summary>As <see cref="Add(FileDescriptor, ulong, bool, bool)"/>, with the host's refusal as an answer.</summary>
    internal bool TryAdd(FileDescriptor descriptor, ulong token, bool edge, out Errno error) =>
        TryAdd(descriptor, token, Libc.EPOLLIN | (edge ? Libc.EPOLLET : 0), out error);

    private static unsafe int Take(byte* events, int count, Span<ulong> tokens)
    {
        for (var i = 0; i < count; i++)
            tokens[i] = Unsafe.ReadUnaligned<ulong>(events + (i * EpollLayout.Size) + EpollLayout.DataOffset);
        return Math.Max(count, 0);
    }

    private void Add(FileDescriptor descriptor, ulong token, uint events)
    {
        if (!TryAdd(descriptor, token, events, out var error))
            throw HostError.Make("waiting on a descriptor", error);
    }

    private unsafe bool TryAdd(FileDescriptor descriptor, ulong token, uint events, out Errno error)
    {
        var entry = stackalloc byte[16];
        // SAFETY: 16 bytes hold either shape of struct epoll_event; the kernel only reads them.
        Unsafe.WriteUnaligned(entry, events);
        Unsafe.WriteUnaligned(entry + EpollLayout.DataOffset, token);
        error = Libc.epoll_ctl(_descriptor, Libc.EPOLL_CTL_ADD, descriptor, entry) < 0 ? Libc.LastError : Errno.None;
        return error == Errno.None;
    }
}
