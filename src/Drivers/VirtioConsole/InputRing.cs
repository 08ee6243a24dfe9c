using Virtbus.Buses.Virtio;
using Virtbus.Platform;
using Virtbus.Virtio.Rings;

namespace Virtbus.Drivers.VirtioConsole;

/// <summary>
/// The receive queue: a buffer is with the device, or its bytes wait for who reads them. It is given back when all of them are taken and not before, an empty
/// one too: a device that sends more than is read waits. Any thread.
/// </summary>
/// <param name="slots">The buffers.</param>
internal sealed class InputRing(ConsoleSlots slots)
{
    private readonly Lock _lock = new();
    // Those whose bytes wait, in the order in which they came: a circle.
    private readonly (int Slot, int Length)[] _full = new (int, int)[ConsoleSlots.Count];
    // Which slot a name stands for.
    private int[] _slotOf = [];
    private int _first;
    private int _count;
    private int _taken;
    private VirtioQueue? _queue;
    private bool _isOver;

    /// <summary>Whether this thread is in a call of it.</summary>
    internal bool IsHeld => _lock.IsHeldByCurrentThread;

    /// <summary>Gives the device all buffers whose bytes nobody waits for.</summary>
    internal void Attach(VirtioQueue queue)
    {
        lock (_lock)
        {
            _queue = queue;
            // A legacy queue has the device's size, which may be less or more.
            _slotOf = new int[queue.Size];
            for (var slot = 0; slot < ConsoleSlots.Count; slot++)
            {
                if (!IsFull(slot))
                    Offer(queue, slot);
            }

            queue.Kick();
        }
    }

    /// <summary>Lets go of the queue; what has come is kept.</summary>
    internal void Detach()
    {
        lock (_lock)
        {
            if (_queue is { } queue)
                Collect(queue);
            _queue = null;
        }
    }

    /// <summary>Lets go of the queue for good, and of what has come.</summary>
    internal void Close()
    {
        lock (_lock)
        {
            _queue = null;
            _count = 0;
            _isOver = true;
        }
    }

    internal void OnUsed(VirtioQueue queue)
    {
        lock (_lock)
        {
            if (_queue != queue)
                return;
            // No more than are out, as none is given back here.
            do
                Collect(queue);
            while (queue.RequestCalls(true));
        }
    }

    internal int Read(Span<byte> destination, out Fault fault)
    {
        lock (_lock)
        {
            fault = Fault.None;
            var done = 0;
            var isAnyFree = false;
            while (_count > 0)
            {
                var (slot, length) = _full[_first];
                var count = Math.Min(length - _taken, destination.Length - done);
                slots.Span(slot).Slice(_taken, count).CopyTo(destination[done..]);
                done += count;
                _taken += count;
                if (_taken < length)
                    break;
                _first = (_first + 1) % ConsoleSlots.Count;
                _count--;
                _taken = 0;
                isAnyFree = true;
                if (_queue is { } queue)
                    Offer(queue, slot);
            }

            if (isAnyFree)
                _queue?.Kick();
            if (done == 0 && _isOver)
                fault = new Fault(Errno.ENODEV, "the line has hung up");
            else if (done == 0 && _queue is { IsBroken: true })
                fault = new Fault(Errno.EIO, "the device failed, or is gone");
            return done;
        }
    }

    private bool IsFull(int slot)
    {
        for (var i = 0; i < _count; i++)
        {
            if (_full[(_first + i) % ConsoleSlots.Count].Slot == slot)
                return true;
        }

        return false;
    }

    private void Offer(VirtioQueue queue, int slot)
    {
        var name = queue.Add(new DriverBuffer(slots.Address(slot), ConsoleSlots.Size, true));
        if (name >= 0)
            _slotOf[name] = slot;
    }

    private void Collect(VirtioQueue queue)
    {
        while (queue.TryTake(out var name, out var written))
        {
            _full[(_first + _count) % ConsoleSlots.Count] = (_slotOf[name], (int)written);
            _count++;
        }
    }
}
