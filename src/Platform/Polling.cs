namespace Virtbus.Platform;

/// <summary>Waiting for one of two descriptors, for threads that wait on few things and rarely (poll).</summary>
public static class Polling
{
    /// <summary>Waits until the first descriptor is ready or the second one is readable.</summary>
    /// <param name="first">What is waited for.</param>
    /// <param name="forWriting">Whether to wait for room to write to it, and not for something to read from it.</param>
    /// <param name="cancel">An eventfd that ends the wait; null when nothing does.</param>
    /// <param name="milliseconds">How long at most; -1 for ever.</param>
    /// <returns>True when the first is ready (an error or hang-up counts); false on cancel or at the end of the time.</returns>
    public static unsafe bool Wait(FileDescriptor first, bool forWriting, EventFd? cancel, int milliseconds = -1)
    {
        bool firstHeld = false, secondHeld = false;
        try
        {
            first.DangerousAddRef(ref firstHeld);
            cancel?.Descriptor.DangerousAddRef(ref secondHeld);
            var entries = stackalloc PollEntry[2];
            entries[0] = new PollEntry { Fd = first.Number, Events = forWriting ? Libc.POLLOUT : Libc.POLLIN };
            // The kernel passes over a negative number.
            entries[1] = new PollEntry { Fd = cancel?.Descriptor.Number ?? -1, Events = Libc.POLLIN };
            // SAFETY: two entries on this stack; both descriptors are held open by the references above.
            while (Libc.poll(entries, 2, milliseconds) < 0)
            {
                if (Libc.LastError != Errno.EINTR)
                    return false;
            }

            return entries[1].Returned == 0 && entries[0].Returned != 0;
        }
        finally
        {
            if (firstHeld)
                first.DangerousRelease();
            if (secondHeld)
                cancel!.Descriptor.DangerousRelease();
        }
    }

    /// <summary>Waits until a socket can be read or written, or an eventfd tells of something, and takes what that told.</summary>
    /// <param name="socket">The socket.</param>
    /// <param name="forReading">Whether to wait for something to read from it.</param>
    /// <param name="forWriting">Whether to wait for room to write to it.</param>
    /// <param name="signal">The eventfd, non-blocking; null for none.</param>
    /// <returns>False when the socket's other end is gone, so that nothing can be written to it, and no reading is waited for.</returns>
    public static unsafe bool WaitAny(FileDescriptor socket, bool forReading, bool forWriting, FileDescriptor? signal)
    {
        bool firstHeld = false, secondHeld = false;
        try
        {
            socket.DangerousAddRef(ref firstHeld);
            signal?.DangerousAddRef(ref secondHeld);
            var entries = stackalloc PollEntry[2];
            entries[0] = new PollEntry { Fd = socket.Number, Events = (short)((forReading ? Libc.POLLIN : 0) | (forWriting ? Libc.POLLOUT : 0)) };
            entries[1] = new PollEntry { Fd = signal?.Number ?? -1, Events = Libc.POLLIN };
            // SAFETY: two entries on this stack; both descriptors are held open by the references above.
            while (Libc.poll(entries, 2, -1) < 0)
            {
                if (Libc.LastError != Errno.EINTR)
                    return false;
            }

            ulong told;
            // SAFETY: an eventfd is read as eight bytes, for which there is room.
            if (entries[1].Returned != 0)
                _ = Libc.read(signal!, &told, sizeof(ulong));
            return forReading || (entries[0].Returned & (Libc.POLLHUP | Libc.POLLERR)) == 0;
        }
        finally
        {
            if (firstHeld)
                socket.DangerousRelease();
            if (secondHeld)
                signal!.DangerousRelease();
        }
    }

    /// <summary>Whether nobody is at the other end of a socket any more. Does not wait.</summary>
    /// <param name="socket">The socket. Of a TCP connection that the peer has closed it is only known once something was sent there.</param>
    /// <returns>True when it is gone or broken; what it sent before may be there still.</returns>
    public static unsafe bool HasHungUp(FileDescriptor socket)
    {
        var isHeld = false;
        try
        {
            socket.DangerousAddRef(ref isHeld);
            var entry = new PollEntry { Fd = socket.Number };
            // SAFETY: one entry on this stack; the descriptor is held open by the reference above.
            return Libc.poll(&entry, 1, 0) > 0;
        }
        finally
        {
            if (isHeld)
                socket.DangerousRelease();
        }
    }
}
