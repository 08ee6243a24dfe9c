using Virtbus.Buses.Virtio;
using Virtbus.Platform;
using Virtbus.Virtio.Rings;

namespace Virtbus.Drivers.VirtioConsole;

/// <summary>
/// The transmit queue: bytes are copied into slots that the device reads, one after the other in a circle. While they are all with the device, who writes is
/// refused, and told when it has given some back. Any thread.
/// </summary>
/// <param name="slots">The slots.</param>
internal sealed class OutputRing(ConsoleSlots slots)
{
    private readonly Lock _lock = new();
    // Bytes of a slot that is with the device; 0 for one that is free.
    private readonly int[] _lengths = new int[ConsoleSlots.Count];
    // Which slot a name stands for.
    private int[] _slotOf = [];
    private int _next;
    private VirtioQueue? _queue;
    private bool _isOver;

    /// <summary>Whether this thread is in a call of it.</summary>
    internal bool IsHeld => _lock.IsHeldByCurrentThread;

    /// <summary>Gives the device what the queue before had and did not give back, in its order.</summary>
    internal void Attach(VirtioQueue queue)
    {
        lock (_lock)
        {
            _queue = queue;
            // A legacy queue has the device's size, which may be less or more.
            _slotOf = new int[queue.Size];
            queue.RequestCalls(false);
            for (var i = 0; i < ConsoleSlots.Count; i++)
            {
                var slot = (_next + i) % ConsoleSlots.Count;
                // A queue that is shorter than it was loses the rest.
                if (_lengths[slot] > 0 && !TryPut(queue, slot, _lengths[slot]))
                    _lengths[slot] = 0;
            }

            queue.Kick();
        }
    }

    /// <summary>Lets go of the queue; what the device has is kept for the next one.</summary>
    internal void Detach()
    {
        lock (_lock)
        {
            if (_queue is { } queue)
                TakeBack(queue);
            _queue = null;
        }
    }

    /// <summary>Lets go of the queue for good.</summary>
    internal void Close()
    {
        lock (_lock)
        {
            _queue = null;
            _isOver = true;
        }
    }

    internal void OnUsed(VirtioQueue queue)
    {
        lock (_lock)
        {
            // Who is told takes back what he needs, and asks again when he is refused again.
            if (_queue == queue)
                queue.RequestCalls(false);
        }
    }

    internal int Write(ReadOnlySpan<byte> source, out Fault fault)
    {
        lock (_lock)
        {
            fault = _isOver ? new Fault(Errno.ENODEV, "the line has hung up") : Fault.None;
            if (_queue is not { } queue)
                return 0;
            var done = 0;
            while (done < source.Length)
            {
                var count = Math.Min(source.Length - done, ConsoleSlots.Size);
                if (_lengths[_next] == 0)
                {
                    source.Slice(done, count).CopyTo(slots.Span(_next));
                    if (TryPut(queue, _next, count))
                    {
                        _next = (_next + 1) % ConsoleSlots.Count;
                        done += count;
                        continue;
                    }
                }

                if (!TryMakeRoom(queue))
                    break;
            }

            queue.Kick();
            if (done < source.Length && queue.IsBroken)
                fault = new Fault(Errno.EIO, "the device failed, or is gone");
            return done;
        }
    }

    private bool TryPut(VirtioQueue queue, int slot, int length)
    {
        var name = queue.Add(new DriverBuffer(slots.Address(slot), (uint)length, false));
        if (name < 0)
            return false;
        _slotOf[name] = slot;
        _lengths[slot] = length;
        return true;
    }

    private bool TryMakeRoom(VirtioQueue queue) => TakeBack(queue) || (queue.RequestCalls(true) && TakeBack(queue));

    private bool TakeBack(VirtioQueue queue)
    {
        var isAny = false;
        while (queue.TryTake(out var name, out _))
        {
            _lengths[_slotOf[name]] = 0;
            isAny = true;
        }

        return isAny;
    }
}
