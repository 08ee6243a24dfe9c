namespace Virtbus.Platform;

/// <summary>
/// An eventfd: a counter in the kernel by which one side wakes another. No call on it but <see cref="Wait"/> and
/// <see cref="SignalByWrite"/> blocks, whatever the peer that shares it does. Safe from any thread.
/// </summary>
public sealed class EventFd : IDisposable
{
    // Then the peer can do to the counter and to the file's flags what it likes.
    private readonly bool _isPeers;

    /// <summary>Makes a new one, at zero.</summary>
    /// <exception cref="VirtbusException">The process has no descriptor left.</exception>
    public EventFd()
    {
        var number = Libc.eventfd(0, Libc.EFD_CLOEXEC | Libc.EFD_NONBLOCK);
        Descriptor = number >= 0 ? new FileDescriptor(number) : throw HostError.Make("an eventfd", Libc.LastError);
    }

    private EventFd(FileDescriptor descriptor, bool isPeers)
    {
        Descriptor = descriptor;
        _isPeers = isPeers;
    }

    /// <summary>The descriptor, to wait on or to hand to a peer. It belongs to this object.</summary>
    public FileDescriptor Descriptor { get; }

    /// <summary>Takes over a descriptor that a peer sent, if it is an eventfd.</summary>
    /// <param name="descriptor">The descriptor; on success it belongs to the answer, else it stays with the caller.</param>
    /// <param name="eventFd">The eventfd.</param>
    /// <param name="fault">EINVAL when it is another kind of file: a full pipe, for one, would block who writes it.</param>
    /// <returns>Whether it was taken over.</returns>
    public static bool TryAdopt(FileDescriptor descriptor, out EventFd? eventFd, out Fault fault)
    {
        eventFd = null;
        if (!descriptor.IsEventFd())
        {
            fault = new Fault(Errno.EINVAL, "the descriptor is no eventfd");
            return false;
        }

        // Its flags stay: they are the peer's too, which may wait in a read. Blocking or not, Signal and TryRead get by.
        eventFd = new EventFd(descriptor, isPeers: true);
        fault = Fault.None;
        return true;
    }

    /// <summary>
    /// Adds one to the counter and so wakes who waits on it. A counter at its limit is left as it is: the waiter has a signal pending anyway.
    /// On a host without Linux AIO, or without memory for it, it can block, when a peer that made its eventfd blocking fills it in the moment between
    /// the look for room and the write.
    /// </summary>
    public void Signal()
    {
        if (!_isPeers)
            SignalByWrite();
        else if (!KernelSignal.IsThere || !KernelSignal.TryAdd(Descriptor))
            SignalWhereThereIsRoom();
    }

    /// <summary>As <see cref="Signal"/>, where the kernel does not add. A counter without room has a signal pending already.</summary>
    internal void SignalWhereThereIsRoom()
    {
        if (Polling.Wait(Descriptor, forWriting: true, cancel: null, 0))
            SignalByWrite();
    }

    /// <summary>
    /// As <see cref="Signal"/>, for a third of its cost, but it waits while a peer has the eventfd both full and blocking. For a thread that works
    /// for that peer alone; who has to get on without it reads the eventfd (<see cref="TryRead"/>).
    /// </summary>
    public unsafe void SignalByWrite()
    {
        var one = 1UL;
        // SAFETY: the eight bytes are a local that outlives the call.
        _ = Libc.write(Descriptor, &one, sizeof(ulong));
    }

    /// <summary>Wakes who waits on an eventfd of this process.</summary>
    /// <param name="descriptor">The eventfd.</param>
    public static unsafe void Wake(FileDescriptor descriptor)
    {
        var one = 1UL;
        // SAFETY: as above.
        _ = Libc.write(descriptor, &one, sizeof(ulong));
    }

    /// <summary>Takes the counter's value and sets it to zero; never waits, whatever flags a peer set on the file (RWF_NOWAIT).</summary>
    /// <param name="count">How many signals came since the last read.</param>
    /// <returns>Whether there was one.</returns>
    public unsafe bool TryRead(out ulong count)
    {
        var value = 0UL;
        var vector = new IoVector((nint)(&value), sizeof(ulong));
        // SAFETY: the vector names a local of eight bytes that outlives the call. Offset -1 means "no position", as eventfds have none.
        var read = Libc.preadv2(Descriptor, &vector, 1, -1, Libc.RWF_NOWAIT);
        count = value;
        return read == sizeof(ulong);
    }

    /// <summary>Waits for a signal and takes it, and with it all that came before it.</summary>
    /// <param name="timeout">How long at most.</param>
    /// <returns>Whether there was one; false also when another reader took it.</returns>
    public bool Wait(TimeSpan timeout) =>
        Polling.Wait(Descriptor, forWriting: false, cancel: null, (int)timeout.TotalMilliseconds) && TryRead(out _);

    /// <summary>Makes a second handle on the same counter.</summary>
    /// <returns>The handle, owned by the caller.</returns>
    public EventFd Duplicate() => new(Descriptor.Duplicate(), _isPeers);

    /// <summary>Closes the descriptor.</summary>
    public void Dispose() => Descriptor.Dispose();
}
