using Virtbus.Platform;

namespace Virtbus.Core;

/// <summary>
/// One transition at a time per device. A transition is an asynchronous lock that is handed over in order of arrival. Activities nest
/// (removing a parent removes its children), so a cycle of waits is possible when callbacks do what they should not; it is found
/// before the wait begins and answered with EDEADLK, so nothing hangs.
/// </summary>
internal sealed class Transitions(Fabric fabric)
{
    private static readonly AsyncLocal<TransitionFrame?> Current = new();

    // Who waits for what. Guarded by the fabric's gate.
    private readonly List<(TransitionFrame? Waiter, Device Wants)> _waiting = [];

    /// <summary>True when the calling activity is inside a transition of the device.</summary>
    public static bool Holds(Device device)
    {
        for (var frame = Current.Value; frame is not null; frame = frame.Outer)
        {
            if (frame.Device == device)
                return true;
        }
        return false;
    }

    /// <summary>Runs a transition.</summary>
    /// <exception cref="VirtbusException">EDEADLK: the calling activity would wait for itself.</exception>
    public async ValueTask<TResult> RunAsync<TArg, TResult>(Device device, TArg arg, Func<Device, TArg, ValueTask<TResult>> body)
    {
        var outer = Current.Value;
        var frame = new TransitionFrame(device, outer);
        if (Acquire(device, frame) is { } waiter)
        {
            try
            {
                await waiter.Task;
            }
            finally
            {
                lock (fabric.Gate)
                    _waiting.Remove((outer, device));
            }
        }
        Current.Value = frame;
        try
        {
            await fabric.Scheduler.InterleaveAsync();
            return await body(device, arg);
        }
        finally
        {
            Current.Value = outer;
            Release(device);
        }
    }

    private TransitionWaiter? Acquire(Device device, TransitionFrame frame)
    {
        lock (fabric.Gate)
        {
            if (device.Holder is null)
            {
                device.Holder = frame;
                return null;
            }
            if (WouldDeadlock(device, frame.Outer))
            {
                throw new VirtbusException(
                    Errno.EDEADLK,
                    $"Device {device.Name} is in the middle of a transition that waits for the caller. Do this after the callback has returned.");
            }
            var waiter = new TransitionWaiter(frame);
            (device.Waiters ??= new()).Enqueue(waiter);
            _waiting.Add((frame.Outer, device));
            return waiter;
        }
    }

    private void Release(Device device)
    {
        TransitionWaiter? next = null;
        lock (fabric.Gate)
        {
            device.Holder = null;
            if (device.Waiters is { } waiters)
            {
                next = waiters.Dequeue();
                device.Holder = next.Frame;
                if (waiters.Count == 0)
                    device.Waiters = null;
            }
        }
        next?.SetResult();
    }

    // Follows "held by an activity that waits for": a device that the waiting activity itself holds closes a cycle.
    private bool WouldDeadlock(Device wanted, TransitionFrame? mine)
    {
        if (mine is null)
            return false;
        var pending = new Stack<Device>();
        var seen = new HashSet<Device>();
        pending.Push(wanted);
        while (pending.TryPop(out var device))
        {
            if (!seen.Add(device) || device.Holder is not { } holder)
                continue;
            if (mine.Contains(holder))
                return true;
            foreach (var (waiter, wants) in _waiting)
            {
                if (waiter is not null && waiter.Contains(holder))
                    pending.Push(wants);
            }
        }
        return false;
    }
}

/// <summary>A place in the queue for a transition.</summary>
internal sealed class TransitionWaiter(TransitionFrame frame) : TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously)
{
    public TransitionFrame Frame { get; } = frame;
}
