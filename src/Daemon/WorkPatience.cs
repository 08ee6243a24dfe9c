namespace Virtbus.Daemon;

/// <summary>
/// Waits for work of this process that should be short, and tells what hangs from what a busy host makes slow: what hangs does nothing, or works on and on;
/// what is slow works as much as it is let to.
/// </summary>
internal static class WorkPatience
{
    // Of the time that passes, what a process that waits for nothing but a processor gets at least, on a host with twenty times as much to do. So the
    // longest wait is this many times the limit.
    private const int LeastShare = 20;

    /// <summary>Waits as long as the process works for less than the limit, and is not idle for as long.</summary>
    /// <param name="task">The work.</param>
    /// <param name="limit">Of processor time, and of a time in which next to none of it is used.</param>
    /// <exception cref="TimeoutException">It hangs.</exception>
    internal static Task WaitAsync(Task task, TimeSpan limit) => WaitAsync(task, limit, static () => Environment.CpuUsage.TotalTime);

    /// <summary>As that.</summary>
    /// <param name="task">The work.</param>
    /// <param name="limit">As there.</param>
    /// <param name="worked">How much processor time was used up to now.</param>
    internal static async Task WaitAsync(Task task, TimeSpan limit, Func<TimeSpan> worked)
    {
        var start = worked();
        var before = start;
        while (true)
        {
            try
            {
                await task.WaitAsync(limit);
                return;
            }
            catch (TimeoutException) when (!task.IsFaulted)
            {
                var now = worked();
                if (!task.IsCompleted && (now - before < limit / LeastShare || now - start >= limit))
                    throw;
                before = now;
            }
        }
    }
}
