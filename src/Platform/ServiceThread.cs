namespace Virtbus.Platform;

/// <summary>
/// A thread of the service. Nothing that happens on it ends the process: what its work does not catch is told to <see cref="Unhandled"/>,
/// and the thread ends. That it could not be started is an answer, and no exception of the runtime.
/// </summary>
public sealed class ServiceThread
{
    private static long _untold;
    private readonly Thread _thread;

    private ServiceThread(Thread thread) => _thread = thread;

    /// <summary>Hears of what the work of a thread did not catch: the thread's name and the exception. On that thread; what it throws is dropped.</summary>
    public static Action<string, Exception>? Unhandled { get; set; }

    /// <summary>How many exceptions <see cref="Unhandled"/> could not be told of, since it threw itself.</summary>
    internal static long Untold => Interlocked.Read(ref _untold);

    /// <summary>Whether this is the calling thread.</summary>
    public bool IsCurrent => _thread == Thread.CurrentThread;

    /// <summary>For tests: names the threads that the host has no room for.</summary>
    internal static Predicate<string>? Refuses { get; set; }

    /// <summary>Starts a thread, in the background.</summary>
    /// <param name="name">Its name, for a debugger and for <see cref="Unhandled"/>.</param>
    /// <param name="work">What it does.</param>
    /// <param name="stackSize">Bytes of its stack; 0 for the usual.</param>
    /// <returns>The thread; null when the host has no room for another one (a limit of threads, or memory).</returns>
    public static ServiceThread? TryStart(string name, Action work, int stackSize = 0)
    {
        ArgumentNullException.ThrowIfNull(work);
        if (Refuses?.Invoke(name) == true)
            return null;
        try
        {
            var thread = new Thread(() => Guard(name, work), stackSize) { IsBackground = true, Name = name };
            thread.Start();
            return new ServiceThread(thread);
        }
        catch (Exception e) when (e is OutOfMemoryException or ThreadStartException)
        {
            return null;
        }
    }

    /// <summary>As <see cref="TryStart"/>, where a missing thread is an error of the host.</summary>
    /// <param name="name">Its name.</param>
    /// <param name="work">What it does.</param>
    /// <param name="stackSize">Bytes of its stack; 0 for the usual.</param>
    /// <returns>The thread.</returns>
    /// <exception cref="VirtbusException">EAGAIN: the host has no room for another thread.</exception>
    public static ServiceThread Start(string name, Action work, int stackSize = 0) =>
        TryStart(name, work, stackSize) ?? throw new VirtbusException(Errno.EAGAIN,
            $"The host has no room for thread '{name}'. Raise the limit of threads (ulimit -u, pids.max of the cgroup) or free memory.");

    /// <summary>Does work on the calling thread, whose end it must not be: for callbacks, pool work and timers.</summary>
    /// <param name="name">What it is, for <see cref="Unhandled"/>.</param>
    /// <param name="work">The work.</param>
    public static void Guard(string name, Action work)
    {
        ArgumentNullException.ThrowIfNull(work);
        try
        {
            work();
        }
        catch (Exception exception)
        {
            Report(name, exception);
        }
    }

    /// <summary>Waits until the thread has ended.</summary>
    public void Join() => _thread.Join();

    /// <summary>Tells <see cref="Unhandled"/> of an exception that somebody caught so that others go on. Any thread; throws nothing.</summary>
    /// <param name="name">What it is that failed.</param>
    /// <param name="exception">The exception.</param>
    public static void Report(string name, Exception exception)
    {
        try
        {
            Unhandled?.Invoke(name, exception);
        }
        catch (Exception)
        {
            // There is nobody left to tell.
            Interlocked.Increment(ref _untold);
        }
    }
}
