namespace Virtbus.Tests;

/// <summary>A call that waits, on a thread of its own, so that it is seen to wait.</summary>
internal static class Waiting
{
    /// <summary>Starts it; it waits when this returns, or is over.</summary>
    internal static Task<T> Start<T>(Func<T> call)
    {
        var over = new TaskCompletionSource<T>(TaskCreationOptions.RunContinuationsAsynchronously);
        var thread = new Thread(() =>
        {
            try
            {
                over.SetResult(call());
            }
            catch (Exception e)
            {
                // The test fails, and not the process.
                over.SetException(e);
            }
        }) { IsBackground = true };
        thread.Start();
        Deadline.Until(() => thread.ThreadState.HasFlag(ThreadState.WaitSleepJoin) || over.Task.IsCompleted, "the wait");
        return over.Task;
    }
}
