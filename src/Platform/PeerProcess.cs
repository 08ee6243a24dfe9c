namespace Virtbus.Platform;

/// <summary>
/// The process that made a connection. Its number alone does not say who it is, since numbers are used again; this holds on to the process
/// itself (a pidfd), so that it can be told whether it still is the one. Safe from any thread.
/// </summary>
public sealed class PeerProcess : IDisposable
{
    private readonly FileDescriptor _descriptor;

    internal PeerProcess(int number, FileDescriptor descriptor)
    {
        Number = number;
        _descriptor = descriptor;
    }

    /// <summary>Its number. As long as <see cref="HasEnded"/> is false, no other process has it.</summary>
    public int Number { get; }

    /// <summary>Whether it has ended. Then its number may be another one's.</summary>
    public bool HasEnded => Polling.Wait(_descriptor, forWriting: false, cancel: null, 0);

    /// <summary>For messages: "process 123 (qemu)"; without the name when it has ended.</summary>
    public string Name => ProcessName.Describe(Number, Command);

    // What it calls itself, escaped; empty when it has ended. Looked at before that is asked: it was this process's then.
    private string Command => ProcessName.Of(Number) is var name && !HasEnded ? name : "";

    /// <summary>What the process that made a connection calls itself, escaped.</summary>
    /// <param name="stream">The connection.</param>
    /// <returns>Its name; empty when that is not known, or it has ended.</returns>
    public static string NameOf(UnixStream stream)
    {
        using var process = TryFind(stream);
        return process?.Command ?? "";
    }

    /// <summary>Finds who made a connection.</summary>
    /// <param name="stream">The connection.</param>
    /// <returns>The process; null when the kernel cannot or may not say (another container, an old kernel), or when it has ended already.</returns>
    public static PeerProcess? TryFind(UnixStream stream)
    {
        ArgumentNullException.ThrowIfNull(stream);
        var number = stream.PeerProcess;
        if (number <= 0 || !TryOpen(stream, number, out var descriptor))
            return null;
        var process = new PeerProcess(number, descriptor);
        if (!process.HasEnded)
            return process;
        process.Dispose();
        return null;
    }

    /// <summary>Lets go of the process.</summary>
    public void Dispose() => _descriptor.Dispose();

    private static unsafe bool TryOpen(UnixStream stream, int number, out FileDescriptor descriptor)
    {
        int opened;
        uint length = sizeof(int);
        // Linux 6.5 has it: the very process that connected, whatever its number is by now.
        // SAFETY: the length says how many bytes there are.
        if (Libc.getsockopt(stream.Descriptor, Libc.SOL_SOCKET, Libc.SO_PEERPIDFD, &opened, &length) < 0)
        {
            // Before that: who has the number now. It is the one that connected, unless that ended in the moments since. One of which the kernel
            // says that it has ended is not looked for by its number.
            descriptor = Libc.LastError == Errno.ENOPROTOOPT ? OpenByNumber(number) : new FileDescriptor(-1);
            return !descriptor.IsInvalid;
        }

        descriptor = new FileDescriptor(opened);
        return true;
    }

    // SAFETY: no pointer is passed.
    internal static unsafe FileDescriptor OpenByNumber(int number) => new((int)Libc.syscall(Libc.SYS_pidfd_open, number, 0, null, null, null));
}
