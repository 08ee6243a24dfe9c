namespace Virtbus.Core;

/// <summary>What goes on in a fabric beside its callers. <see cref="Fabric"/> has the words of its calls.</summary>
internal sealed class WorkBeside
{
    private readonly Fabric _fabric;
    // What a device asks for has a turn, and so has what that starts; all else has none.
    private readonly Dictionary<Task, long> _work = [];
    private readonly AsyncLocal<long> _turn = new();
    private long _turns;

    internal WorkBeside(Fabric fabric) => _fabric = fabric;

    internal int Count
    {
        get
        {
            lock (_fabric.Gate)
                return _work.Count;
        }
    }

    internal void Start(string name, Func<Task> work, bool isNotice = false)
    {
        ArgumentNullException.ThrowIfNull(work);
        var started = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        var turn = _turn.Value;
        lock (_fabric.Gate)
        {
            if (isNotice && turn == 0)
                turn = ++_turns;
            _work.Add(started.Task, turn);
        }

        _ = _fabric.Scheduler.Start(async () =>
        {
            _turn.Value = turn;
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
        long last;
        lock (_fabric.Gate)
            last = _turns;
        while (true)
        {
            Task[] work;
            lock (_fabric.Gate)
                work = [.. _work.Where(w => w.Value <= last).Select(static w => w.Key)];
            if (work.Length == 0)
                return;
            // One by one: a combined task is completed on the thread pool, past the fabric's scheduler.
            foreach (var one in work)
                await one.WaitAsync(cancellationToken);
        }
    }
}
