namespace Virtbus.Platform;

/// <summary>
/// The descriptors that peers sent by one socket file, or over one connection that was made here: how many there are, how many there may be,
/// and who closes them. Safe from any thread.
/// </summary>
/// <remarks>
/// A close may wait for ever: a TCP socket lingers, a file's server is asked (FUSE). What is known not to (an eventfd, memory) is closed at once;
/// the rest on a thread of this object, which exists while there is something to close. So a close that hangs holds up those of the same socket
/// file and nothing else, and the ones that wait count against that file's bound until they are through.
/// </remarks>
public sealed class PeerDescriptors
{
    /// <summary>The most descriptor numbers that are kept for the process itself: what a peer sends never gets one of the last.</summary>
    public const int Reserve = 256;

    private const int LeastShare = 64;
    private const int Shares = 4;

    private static readonly object AllGate = new();
    private static int _allOpen;
    private static int _allClosing;

    private readonly Lock _lock = new();
    private readonly Queue<int> _closing = new();
    private bool _hasCloser;
    private int _open;

    /// <summary>How many descriptors of peers are open in this process, those included that are being closed.</summary>
    public static int TotalOpen => Volatile.Read(ref _allOpen);

    /// <summary>How many of them are being closed, or wait for that.</summary>
    internal static int TotalClosing => Volatile.Read(ref _allClosing);

    /// <summary>The first descriptor number that no peer gets: the process's limit without the <see cref="Reserve"/>, or three quarters of a small limit.</summary>
    public static int Ceiling
    {
        get
        {
            var limit = Libc.GetDescriptorLimit();
            return limit - Math.Min(Reserve, limit / 4);
        }
    }

    /// <summary>Whether as many are open of this socket file or connection as may be, those included that are being closed.</summary>
    public bool IsFull
    {
        get
        {
            // The limit is asked for only where it can matter.
            var open = Open;
            return open >= LeastShare && open >= Most;
        }
    }

    /// <summary>How many may be open of one socket file or connection: a quarter of what all peers may have.</summary>
    internal static int Most => Math.Max(LeastShare, Ceiling / Shares);

    /// <summary>How many of this socket file or connection are open, those included that are being closed.</summary>
    internal int Open => Volatile.Read(ref _open);

    /// <summary>Waits until nothing is being closed any more.</summary>
    /// <param name="timeout">How long at most.</param>
    /// <returns>False at the end of that time.</returns>
    internal static bool WaitUntilClosed(TimeSpan timeout)
    {
        var end = Environment.TickCount64 + (long)timeout.TotalMilliseconds;
        lock (AllGate)
        {
            while (_allClosing > 0)
            {
                var left = end - Environment.TickCount64;
                if (left <= 0)
                    return false;
                Monitor.Wait(AllGate, (int)left);
            }

            return true;
        }
    }

    /// <summary>Whether a peer may get one more descriptor: neither the process is at its reserve nor this object at its bound.</summary>
    internal bool HasRoom(FileDescriptor probe)
    {
        if (IsFull)
            return false;
        // The kernel gives the lowest number that is free.
        var lowest = Libc.fcntl(probe, Libc.F_DUPFD_CLOEXEC, 0);
        if (lowest >= 0)
            _ = Libc.close(lowest);
        return lowest >= 0 && lowest < Ceiling;
    }

    /// <summary>Whether a connection waits at a listener and may be taken.</summary>
    /// <param name="listener">The socket that listens, whose connections these are of.</param>
    /// <param name="error">When it is not: EAGAIN when none waits; EMFILE when there is no room for one more descriptor.</param>
    internal bool MayAccept(FileDescriptor listener, out Errno error)
    {
        error = !Polling.Wait(listener, forWriting: false, cancel: null, 0) ? Errno.EAGAIN : HasRoom(listener) ? Errno.None : Errno.EMFILE;
        return error == Errno.None;
    }

    /// <summary>Whether a descriptor that came, and is counted, may stay.</summary>
    internal bool Admits(int number) => number < Ceiling && Open <= Most;

    /// <summary>Counts a descriptor in.</summary>
    internal void Add()
    {
        Interlocked.Increment(ref _open);
        Interlocked.Increment(ref _allOpen);
    }

    /// <summary>Closes a descriptor, at once where that cannot wait, and counts it out when it is closed.</summary>
    /// <param name="number">The descriptor.</param>
    /// <param name="atOnce">Whether it is known not to wait; else it is asked whether it is memory.</param>
    internal void Close(int number, bool atOnce)
    {
        // Memory files are the many. Their close asks nobody, and neither does the question: fcntl does not go to a file system for it.
        if (atOnce || Libc.fcntl_number(number, Libc.F_GET_SEALS, 0) >= 0)
        {
            _ = Libc.close(number);
            Remove();
            return;
        }

        lock (AllGate)
            _allClosing++;
        bool start;
        lock (_lock)
        {
            _closing.Enqueue(number);
            start = !_hasCloser;
            _hasCloser = true;
        }

        if (!start || ServiceThread.TryStart("closer", CloseAll, 256 << 10) is not null)
            return;
        // Tried again with the next one that comes.
        lock (_lock)
            _hasCloser = false;
    }

    private void CloseAll()
    {
        while (true)
        {
            int number;
            lock (_lock)
            {
                if (!_closing.TryDequeue(out number))
                {
                    _hasCloser = false;
                    return;
                }
            }

            _ = Libc.close(number);
            Remove();
            lock (AllGate)
            {
                if (--_allClosing == 0)
                    Monitor.PulseAll(AllGate);
            }
        }
    }

    private void Remove()
    {
        Interlocked.Decrement(ref _open);
        Interlocked.Decrement(ref _allOpen);
    }
}
