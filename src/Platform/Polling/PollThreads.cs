namespace Virtbus.Platform;

/// <summary>
/// A pool of poll threads, by default one a core: all that is idle most of the time, however much it is, is served by these few. A thread is
/// started when it gets its first client. Safe from any thread.
/// </summary>
public sealed class PollThreads : IDisposable
{
    private static readonly Lock SharedLock = new();
    private static PollThreads? _shared;
    [ThreadStatic]
    private static PollThreads? _here;
    private readonly Lock _lock = new();
    private readonly string _name;
    private readonly PollThread?[] _threads;
    private bool _isDisposed;

    /// <summary>Makes a pool without a thread.</summary>
    /// <param name="count">How many threads at most; 0 for one a core.</param>
    /// <param name="name">What they are called, with a number behind it.</param>
    public PollThreads(int count = 0, string name = "poll")
    {
        ArgumentOutOfRangeException.ThrowIfNegative(count);
        _name = name;
        _threads = new PollThread?[count == 0 ? Environment.ProcessorCount : count];
    }

    private PollThreads(PollThread stepped)
    {
        _name = stepped.Name;
        _threads = [stepped];
    }

    /// <summary>The pool of the process.</summary>
    public static PollThreads Shared
    {
        get
        {
            if (_here is { } here)
                return here;
            if (Volatile.Read(ref _shared) is { } pool)
                return pool;
            lock (SharedLock)
                return _shared ??= new PollThreads(SharedCount);
        }
    }

    /// <summary>How many threads <see cref="Shared"/> has at most; 0 for one a core. To be set before its first use.</summary>
    public static int SharedCount { get; set; }

    /// <summary>
    /// For simulations: a pool that takes the place of <see cref="Shared"/> on the calling thread, null to end that. Whoever starts queues there gives them
    /// their turns (<see cref="PollThread.Step"/>).
    /// </summary>
    internal static PollThreads? Here
    {
        get => _here;
        set => _here = value;
    }

    /// <summary>How many threads the pool has at most.</summary>
    public int Count => _threads.Length;

    /// <summary>One of the pool's threads, started when it was not yet.</summary>
    /// <param name="index">Which, below <see cref="Count"/>.</param>
    /// <exception cref="VirtbusException">EAGAIN: the host has no room for another thread; or it has no descriptor left.</exception>
    public PollThread this[int index]
    {
        get
        {
            lock (_lock)
            {
                ObjectDisposedException.ThrowIf(_isDisposed, this);
                return _threads[index] ??= PollThread.Start($"{_name} {index}", isOwn: false);
            }
        }
    }

    /// <summary>Makes a pool that has no thread: its clients have a turn when <see cref="PollThread.Step"/> of its one member is called, and not by themselves.</summary>
    /// <param name="name">What it is called.</param>
    internal static PollThreads MakeStepped(string name) => new(PollThread.MakeStepped(name));

    /// <summary>
    /// Begins to serve a client. Its first turn comes at once, without a signal, and perhaps before this returns; sources that are ready by
    /// then are told as well.
    /// </summary>
    /// <param name="name">What the client is called: for the fault sink, and for a thread of its own.</param>
    /// <param name="work">What to do.</param>
    /// <param name="sources">What wakes it besides <see cref="PollClient.Kick"/>.</param>
    /// <param name="options">How it wants to be served.</param>
    /// <returns>The handle, by which its owner detaches it.</returns>
    /// <exception cref="VirtbusException">
    /// EAGAIN: the host has no room for a thread; EMFILE, ENOMEM, ENOSPC: it has no descriptor or takes no more of them into an epoll set; EPERM:
    /// a source is a kind of file that cannot be waited on.
    /// </exception>
    public PollClient Attach(string name, IPollWork work, ReadOnlySpan<PollSource> sources, in PollOptions options = default)
    {
        ArgumentNullException.ThrowIfNull(work);
        if (_threads[0] is { IsStepped: true } stepped)
            return PollClient.Attach(name, work, sources, options with { Spins = false }, stepped, ownsThread: false);
        if (!options.OwnThread)
            return PollClient.Attach(name, work, sources, options, options.Thread ?? Choose(), ownsThread: false);
        var thread = PollThread.Start(name, isOwn: true);
        try
        {
            return PollClient.Attach(name, work, sources, options, thread, ownsThread: true);
        }
        catch
        {
            thread.End();
            throw;
        }
    }

    /// <summary>Ends the threads. Clients that are still attached are worked on no more.</summary>
    public void Dispose()
    {
        lock (_lock)
        {
            if (_isDisposed)
                return;
            _isDisposed = true;
            foreach (var thread in _threads)
                thread?.End();
        }
    }

    // The one with the fewest clients. Where the host has no room for a thread more, those that run take what comes.
    private PollThread Choose()
    {
        lock (_lock)
        {
            ObjectDisposedException.ThrowIf(_isDisposed, this);
            PollThread? best = null;
            for (var i = 0; i < _threads.Length; i++)
            {
                if (_threads[i] is { } thread)
                {
                    if (best is null || thread.Clients < best.Clients)
                        best = thread;
                }
                else if (best is null || best.Clients > 0)
                {
                    try
                    {
                        return _threads[i] = PollThread.Start($"{_name} {i}", isOwn: false);
                    }
                    catch (VirtbusException) when (best is not null)
                    {
                        break;
                    }
                }
            }

            return best!;
        }
    }
}
