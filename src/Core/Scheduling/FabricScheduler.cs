namespace Virtbus.Core;

/// <summary>
/// Where control-plane work runs. The core never starts a thread or a timer of its own: work that goes on beside its caller
/// (asynchronous probes, deferred probes, module loads) is handed to this scheduler, and every await in the core resumes on the
/// scheduler that its work was started on. So a test can run a whole fabric on one thread (<see cref="SeededScheduler"/>).
/// </summary>
public class FabricScheduler
{
    /// <summary>The scheduler of a running program: the thread pool, no added interleaving.</summary>
    public static FabricScheduler ThreadPool { get; } = new(TaskScheduler.Default);

    /// <summary>Makes a scheduler on top of a task scheduler.</summary>
    /// <param name="tasks">Runs the work.</param>
    protected FabricScheduler(TaskScheduler tasks) => Tasks = tasks;

    /// <summary>Runs the work that is handed over.</summary>
    public TaskScheduler Tasks { get; }

    /// <summary>
    /// A point at which another activity may run first. The core calls it between the steps of a transition, never under a lock.
    /// Completes at once unless a simulation explores interleavings.
    /// </summary>
    public virtual ValueTask InterleaveAsync() => ValueTask.CompletedTask;

    /// <summary>Starts work beside the caller. The returned task ends with the work; errors are in it.</summary>
    /// <param name="work">The work; runs without the caller's ambient state.</param>
    public Task Start(Func<Task> work)
    {
        ArgumentNullException.ThrowIfNull(work);
        // The ambient transition of the caller must not flow: the started work holds no lock of it.
        var flow = ExecutionContext.IsFlowSuppressed() ? default(AsyncFlowControl?) : ExecutionContext.SuppressFlow();
        try
        {
            return Task.Factory.StartNew(work, CancellationToken.None, TaskCreationOptions.DenyChildAttach, Tasks).Unwrap();
        }
        finally
        {
            flow?.Undo();
        }
    }
}
