using Virtbus.Platform;

namespace Virtbus.Core;

/// <summary>
/// One transition at a time per device. A transition is an asynchronous lock that is handed over in order of arrival. Activities nest
/// (removing a parent removes its children), so a cycle of waits is possible when callbacks do what they should not; it is found
/// before the wait begins and answered with EDEADLK, so nothing hangs.
/// </summary>
/// <remarks>
/// What the core itself does below a transition (deleting children, unbinding consumers) must not fail halfway. It follows the tree and the
/// links downwards, which have no circle, so every cycle contains a wait that a callback asked for: that one is answered with EDEADLK.
/// </remarks>
internal sealed class Transitions(Fabric fabric)
{
    private static readonly AsyncLocal<TransitionFrame?> Current = new();

    // Who waits for what. Guarded by the fabric's gate.
    private readonly List<TransitionWaiter> _waiting = [];

    /// <summary>The innermost transition that the calling activity holds; null when it holds none.</summary>
    public static TransitionFrame? Ambient => TransitionFrame.Live(Current.Value);

    /// <summary>How many activities wait for a transition.</summary>
    public int Waiting
    {
        get
        {
            lock (fabric.Gate)
                return _waiting.Count;
        }
    }

    /// <summary>True when the calling activity is inside a transition of the device.</summary>
    public static bool Holds(Device device)
    {
        for (var frame = Ambient; frame is not null; frame = frame.Outer)
        {
            if (frame.Device == device)
                return true;
        }
        return false;
    }

    /// <summary>Runs a transition. Cancelled before its turn, it is not begun.</summary>
    /// <exception cref="VirtbusException">EDEADLK: the calling activity would wait for itself.</exception>
    public ValueTask<TResult> RunAsync<TArg, TResult>(
        Device device, TArg arg, Func<Device, TArg, ValueTask<TResult>> body, bool mustSucceed = false, CancellationToken cancellationToken = default)
    {
        TransitionFrame frame;
        TransitionWaiter? waiter;
        lock (fabric.Gate)
            frame = EnterInGate(device, mustSucceed, out waiter);
        return waiter is null ? RunHeldAsync(device, frame, arg, body) : RunInTurnAsync(waiter, arg, body, cancellationToken);
    }

    /// <summary>Waits for the transitions of a device that were asked for before; makes none. The caller is inside of none.</summary>
    public async ValueTask AwaitAsync(Device device, CancellationToken cancellationToken) =>
        await RunAsync(device, 0, static (_, _) => new ValueTask<int>(0), cancellationToken: cancellationToken);

    /// <summary>Takes the transition, or a place in its queue.</summary>
    /// <param name="device">The device.</param>
    /// <param name="mustSucceed">A step of the core's own below a held transition: another wait of the cycle is refused instead of this one.</param>
    /// <param name="waiter">Null when the transition is held at once; else to be awaited before <see cref="RunHeldAsync"/>.</param>
    public TransitionFrame EnterInGate(Device device, bool mustSucceed, out TransitionWaiter? waiter)
    {
        var frame = new TransitionFrame(device, Current.Value);
        waiter = null;
        if (device.Holder is null)
        {
            device.Holder = frame;
            return frame;
        }
        while (FindCycle(device, frame.Outer) is { } cycle)
        {
            if (!mustSucceed || cycle.Find(static w => !w.MustSucceed) is not { } victim)
                throw Deadlock(device);
            RemoveInGate(victim);
            victim.SetException(Deadlock(victim.Device));
        }
        waiter = new TransitionWaiter(device, frame, mustSucceed);
        (device.Extras.Waiters ??= []).Add(waiter);
        _waiting.Add(waiter);
        return frame;
    }

    /// <summary>Runs a transition that <see cref="EnterInGate"/> gave and that is held now.</summary>
    public async ValueTask<TResult> RunHeldAsync<TArg, TResult>(Device device, TransitionFrame frame, TArg arg, Func<Device, TArg, ValueTask<TResult>> body)
    {
        // Ends with this method: the caller's ambient state is its own again.
        Current.Value = frame;
        try
        {
            await fabric.Scheduler.InterleaveAsync();
            return await body(device, arg);
        }
        finally
        {
            Release(device, frame);
        }
    }

    private async ValueTask<TResult> RunInTurnAsync<TArg, TResult>(
        TransitionWaiter waiter, TArg arg, Func<Device, TArg, ValueTask<TResult>> body, CancellationToken cancellationToken)
    {
        // One whose turn has come by then goes on.
        await using (cancellationToken.UnsafeRegister(_ => Leave(waiter, cancellationToken), null))
            await waiter.Task;
        return await RunHeldAsync(waiter.Device, waiter.Frame, arg, body);
    }

    private bool RemoveInGate(TransitionWaiter waiter)
    {
        if (!_waiting.Remove(waiter))
            return false;
        waiter.Device.Waiters!.Remove(waiter);
        if (waiter.Device.Waiters.Count == 0)
            waiter.Device.Extras.Waiters = null;
        return true;
    }

    private void Leave(TransitionWaiter waiter, CancellationToken cancellationToken)
    {
        lock (fabric.Gate)
        {
            if (!RemoveInGate(waiter))
                return;
        }
        waiter.SetCanceled(cancellationToken);
    }

    private void Release(Device device, TransitionFrame frame)
    {
        TransitionWaiter? next = null;
        lock (fabric.Gate)
        {
            frame.End();
            device.Holder = null;
            if (device.Waiters is { } waiters)
            {
                next = waiters[0];
                waiters.RemoveAt(0);
                if (waiters.Count == 0)
                    device.Extras.Waiters = null;
                device.Holder = next.Frame;
                _waiting.Remove(next);
            }
        }
        next?.SetResult();
    }

    // Follows "held by an activity that waits for": a device that the waiting activity itself holds closes a cycle. The waits that lead
    // there are the answer; none of them when the activity holds the wanted device itself.
    private List<TransitionWaiter>? FindCycle(Device wanted, TransitionFrame? mine)
    {
        if (mine is null)
            return null;
        var reached = new Dictionary<Device, (TransitionWaiter? By, Device? From)> { [wanted] = default };
        var pending = new Queue<Device>();
        pending.Enqueue(wanted);
        while (pending.TryDequeue(out var device))
        {
            if (device.Holder is not { } holder)
                continue;
            if (mine.Contains(holder))
            {
                var cycle = new List<TransitionWaiter>();
                for (var step = reached[device]; step.By is not null; step = reached[step.From!])
                    cycle.Add(step.By);
                return cycle;
            }
            foreach (var waiter in _waiting)
            {
                if (waiter.Frame.Outer?.Contains(holder) == true && reached.TryAdd(waiter.Device, (waiter, device)))
                    pending.Enqueue(waiter.Device);
            }
        }
        return null;
    }

    private static VirtbusException Deadlock(Device device) => new(
        Errno.EDEADLK,
        $"Device {device.Name} is in the middle of a transition that waits for the caller. Do this after the callback has returned.");
}

/// <summary>A place in the queue for a transition.</summary>
internal sealed class TransitionWaiter(Device device, TransitionFrame frame, bool mustSucceed) : TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously)
{
    public Device Device { get; } = device;

    public TransitionFrame Frame { get; } = frame;

    public bool MustSucceed { get; } = mustSucceed;
}
