namespace Virtbus.Core;

/// <summary>What goes on in a fabric beside its callers. <see cref="Fabric"/> has the words of its calls.</summary>
internal sealed class WorkBeside
{
    private readonly Fabric _fabric;
    private readonly HashSet<Task> _work = [];

    internal WorkBeside(Fabric fabric) => _fabric = fabric;

    internal int Count
    {
        get
        {
            lock (_fabric.Gate)
                return _work.Count;
        }
    }

    internal void Start(string name, Func<Task> work)
    {
        ArgumentNullException.ThrowIfNull(work);
        var started = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        lock (_fabric.Gate)
            _work.Add(started.Task);
        _ = _fabric.Scheduler.Start(async () =>
        {
            try
            {
                await _fabric.Scheduler.InterleaveAsync();
                await work();
            }
            catch (Exception e)
            {
                FabricLog.WorkFailed(_fabric.Log, name, e);
            }
            finally
            {
                lock (_fabric.Gate)
                    _work.Remove(started.Task);
                started.SetResult();
            }
        });
    }

    internal async Task SettleAsync(CancellationToken cancellationToken)
    {
        while (true)
        {
            Task[] work;
            lock (_fabric.Gate)
                work = [.. _work];
            if (work.Length == 0)
                return;
            // One by one: a combined task is completed on the thread pool, past the fabric's scheduler.
            foreach (var one in work)
                await one.WaitAsync(cancellationToken);
        }
    }
}
