namespace Virtbus.Platform;

/// <summary>
/// The signals of a pass by one system call: between <see cref="Begin"/> and <see cref="End"/> what its thread signals by shared lines is
/// collected. From two on that is cheaper than one call each. Owned by one thread.
/// </summary>
/// <remarks>
/// A line is held from its signal to the end of the batch, and who exchanges its eventfd waits so long. So the stretch has signals in it and
/// nothing that waits, nor takes a lock whose holder may wait for a line: a pass does its work first, and raises its vectors then. What may wait all
/// the same calls <see cref="SubmitCurrent"/> before.
/// </remarks>
public sealed class SignalBatch
{
    [ThreadStatic]
    private static SignalBatch? s_current;

    private readonly SignalLine.Slot[] _slots = new SignalLine.Slot[KernelSignal.MostAtOnce];
    private readonly FileDescriptor[] _descriptors = new FileDescriptor[KernelSignal.MostAtOnce];
    private int _count;

    /// <summary>Begins to collect; on the thread that ends it.</summary>
    public void Begin()
    {
        if (KernelSignal.IsThere)
            s_current = this;
    }

    /// <summary>Signals what was collected.</summary>
    public void End()
    {
        s_current = null;
        Submit();
    }

    /// <summary>Takes the signal of a line, if the thread collects.</summary>
    internal static bool TryAdd(SignalLine.Slot slot, EventFd call)
    {
        if (s_current is not { } batch)
            return false;
        if (batch._count == batch._slots.Length)
            batch.Submit();
        // The signal stays in the line until it is told.
        Interlocked.Increment(ref slot.Inside);
        batch._slots[batch._count] = slot;
        batch._descriptors[batch._count++] = call.Descriptor;
        return true;
    }

    /// <summary>Tells what this thread has collected, for who is about to do what may wait: for a line to be empty, a lock, a peer.</summary>
    public static void SubmitCurrent() => s_current?.Submit();

    private void Submit()
    {
        var count = _count;
        if (count == 0)
            return;
        _count = 0;
        var told = count == 1 ? 0 : Tell(count);
        for (var i = 0; i < count; i++)
        {
            if (i >= told)
                Tell(_slots[i]);
            // In any case: who exchanges the eventfd waits for it.
            _slots[i].Leave();
        }
        // No line that went is kept.
        Array.Clear(_slots, 0, count);
        Array.Clear(_descriptors, 0, count);
    }

    // An eventfd that its owner closed too early is nobody's to wait on; the others of the batch, and the thread, have no part in that.
    private int Tell(int count)
    {
        try
        {
            return KernelSignal.Add(_descriptors.AsSpan(0, count));
        }
        catch (ObjectDisposedException)
        {
            return 0;
        }
    }

    private static void Tell(SignalLine.Slot slot)
    {
        try
        {
            slot.Call!.Signal();
        }
        catch (ObjectDisposedException)
        {
            // As above.
        }
    }
}
