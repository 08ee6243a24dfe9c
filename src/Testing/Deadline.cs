using System.Diagnostics;

namespace Virtbus.Testing;

/// <summary>
/// Waits that end, and say what they waited for: a test that hangs tells nothing, and keeps those behind it from running. None of them sleeps:
/// they go on as soon as what they wait for has come.
/// </summary>
public static class Deadline
{
    /// <summary><see cref="Limit"/> in milliseconds.</summary>
    public const int Milliseconds = 60_000;

    /// <summary>How long at most: 60 s, which a machine with much to do needs at times. What comes is not waited for longer than it takes.</summary>
    public static TimeSpan Limit { get; } = TimeSpan.FromMilliseconds(Milliseconds);

    /// <summary>Waits until something is true.</summary>
    /// <param name="condition">Asked again and again, on the caller's thread.</param>
    /// <param name="what">What is waited for, for the error.</param>
    /// <exception cref="TimeoutException">It is not true in time.</exception>
    public static void Until(Func<bool> condition, string what)
    {
        ArgumentNullException.ThrowIfNull(condition);
        var start = Stopwatch.GetTimestamp();
        while (!condition())
        {
            if (Stopwatch.GetElapsedTime(start) > Limit)
                throw Late(what);
            Thread.Yield();
        }
    }

    /// <summary>As <see cref="Until"/>, with the caller's thread free for others meanwhile.</summary>
    /// <param name="condition">Asked again and again.</param>
    /// <param name="what">What is waited for, for the error.</param>
    /// <exception cref="TimeoutException">It is not true in time.</exception>
    public static async Task UntilAsync(Func<bool> condition, string what)
    {
        ArgumentNullException.ThrowIfNull(condition);
        var start = Stopwatch.GetTimestamp();
        while (!condition())
        {
            if (Stopwatch.GetElapsedTime(start) > Limit)
                throw Late(what);
            await Task.Yield();
        }
    }

    /// <summary>Waits until it is set.</summary>
    /// <param name="handle">What is waited for.</param>
    /// <param name="what">What it says when it is set.</param>
    /// <exception cref="TimeoutException">It is not set in time.</exception>
    public static void Comes(this WaitHandle handle, string what)
    {
        ArgumentNullException.ThrowIfNull(handle);
        if (!handle.WaitOne(Limit))
            throw Late(what);
    }

    /// <summary>Waits until it is set.</summary>
    /// <param name="signal">What is waited for.</param>
    /// <param name="what">What it says when it is set.</param>
    /// <exception cref="TimeoutException">It is not set in time.</exception>
    public static void Comes(this ManualResetEventSlim signal, string what)
    {
        ArgumentNullException.ThrowIfNull(signal);
        if (!signal.Wait(Limit))
            throw Late(what);
    }

    /// <summary>Waits for the end of a thread. It has to be one in the background, or the program waits for it all the same.</summary>
    /// <param name="thread">The thread.</param>
    /// <param name="what">What it does.</param>
    /// <exception cref="TimeoutException">It does not end in time.</exception>
    public static void Ends(this Thread thread, string what)
    {
        ArgumentNullException.ThrowIfNull(thread);
        if (!thread.Join(Limit))
            throw Late(what);
    }

    /// <summary>Waits for a task where nothing can be awaited.</summary>
    /// <param name="task">The task; what it throws is thrown here.</param>
    /// <param name="what">What it does.</param>
    /// <param name="log">What else may say why it does not end.</param>
    /// <exception cref="TimeoutException">It does not end in time.</exception>
#pragma warning disable VSTHRD002 // The thread is the test's, and nothing that the task needs runs on it.
    public static void Ends(this Task task, string what, Func<string>? log = null) => task.EndsAsync(what, log).GetAwaiter().GetResult();
#pragma warning restore VSTHRD002

    /// <summary>Waits for a task.</summary>
    /// <param name="task">The task; what it throws is thrown here.</param>
    /// <param name="what">What it does.</param>
    /// <param name="log">What else may say why it does not end.</param>
    /// <exception cref="TimeoutException">It does not end in time.</exception>
    public static async Task EndsAsync(this Task task, string what, Func<string>? log = null)
    {
        // By the first that ends, and not by an exception: the task may fail with a time-out of its own.
        using var over = new CancellationTokenSource();
        if (await Task.WhenAny(task, Task.Delay(Limit, over.Token)).ConfigureAwait(false) != task)
            throw Late(log is null ? what : $"{what} in\n{log()}");
        await over.CancelAsync().ConfigureAwait(false);
        await task.ConfigureAwait(false);
    }

    /// <summary>What never ends by itself: a peer that does not answer.</summary>
    /// <param name="cancellationToken">Ends it.</param>
    /// <exception cref="OperationCanceledException">It was ended; nothing else comes of it.</exception>
    public static async Task NeverAsync(CancellationToken cancellationToken)
    {
        var never = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        using var registration = cancellationToken.Register(() => never.TrySetCanceled(cancellationToken));
        await never.Task.ConfigureAwait(false);
    }

    /// <summary>The task, with the limit.</summary>
    /// <param name="task">The task.</param>
    /// <exception cref="TimeoutException">It does not end in time.</exception>
    public static Task In(this Task task)
    {
        ArgumentNullException.ThrowIfNull(task);
        return task.WaitAsync(Limit);
    }

    /// <summary>The task, with the limit.</summary>
    /// <typeparam name="T">Its result.</typeparam>
    /// <param name="task">The task.</param>
    /// <exception cref="TimeoutException">It does not end in time.</exception>
    public static Task<T> In<T>(this Task<T> task)
    {
        ArgumentNullException.ThrowIfNull(task);
        return task.WaitAsync(Limit);
    }

    /// <summary>The task, with the limit.</summary>
    /// <param name="task">The task.</param>
    /// <exception cref="TimeoutException">It does not end in time.</exception>
    public static Task In(this ValueTask task) => task.AsTask().WaitAsync(Limit);

    /// <summary>The task, with the limit.</summary>
    /// <typeparam name="T">Its result.</typeparam>
    /// <param name="task">The task.</param>
    /// <exception cref="TimeoutException">It does not end in time.</exception>
    public static Task<T> In<T>(this ValueTask<T> task) => task.AsTask().WaitAsync(Limit);

    private static TimeoutException Late(string what) => new($"Waited {Limit.TotalSeconds} s for {what}.");
}
