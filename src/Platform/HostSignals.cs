namespace Virtbus.Platform;

/// <summary>Signals of the host that end a process unless it says otherwise, and that work for a peer can raise.</summary>
public static class HostSignals
{
    private static readonly bool _areIgnored = Ignore();

    /// <summary>
    /// Lets a write beyond the limit of a file's size (ulimit -f) fail with EFBIG and not end the process (SIGXFSZ). For the process, once;
    /// its children inherit it.
    /// </summary>
    /// <remarks>
    /// The others: SIGPIPE is the runtime's and ignored; SIGBUS has a handler of its own (<see cref="Mapping"/>); SIGHUP, SIGINT, SIGTERM and SIGQUIT take
    /// the fabric down in order; SIGXCPU is a limit that the operator set for the process as a whole. SIGIO and SIGURG come only to who asked for them
    /// on a descriptor, or from who may send any signal: Linux checks that for the owner that a peer names (F_SETOWN).
    /// </remarks>
    public static void IgnoreFileSizeLimit() => _ = _areIgnored;

    private static bool Ignore() => Libc.signal(Libc.SIGXFSZ, Libc.SIG_IGN) != -1;
}
