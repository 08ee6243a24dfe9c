using Virtbus.Buses.Virtio;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;
using Virtbus.Virtio.Rings;

namespace Virtbus.Drivers.VirtioConsole;

/// <summary>
/// The transmit queue: bytes are copied into slots that the device reads, one after the other in a circle. While they are all with the device, who writes is
/// refused, and told when it has given some back. Any thread.
/// </summary>
/// <param name="memory">Where the slots are.</param>
/// <param name="offset">The first byte of them there.</param>
internal sealed class OutputRing(DmaBuffer memory, int offset)
{
    internal const int Depth = 32;
    internal const int Bytes = Depth * SlotSize;
    private const int SlotSize = 512;

    private readonly Lock _lock = new();
    // Bytes of a slot that is with the device; 0 for one that is free.
    private readonly int[] _lengths = new int[Depth];
    // Which slot a name stands for.
    private int[] _slots = [];
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
            _slots = new int[queue.Size];
            queue.RequestCalls(false);
            for (var i = 0; i < Depth; i++)
            {
                var slot = (_next + i) % Depth;
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
                var count = Math.Min(source.Length - done, SlotSize);
                if (_lengths[_next] == 0)
                {
                    source.Slice(done, count).CopyTo(memory.Span.Slice(offset + (_next * SlotSize), count));
                    if (TryPut(queue, _next, count))
                    {
                        _next = (_next + 1) % Depth;
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
        var name = queue.Add(new DriverBuffer(new Iova(memory.Address.Value + (ulong)(offset + (slot * SlotSize))), (uint)length, false));
        if (name < 0)
            return false;
        _slots[name] = slot;
        _lengths[slot] = length;
        return true;
    }

    private bool TryMakeRoom(VirtioQueue queue) => TakeBack(queue) || (queue.RequestCalls(true) && TakeBack(queue));

    private bool TakeBack(VirtioQueue queue)
    {
        var isAny = false;
        while (queue.TryTake(out var name, out _))
        {
            _lengths[_slots[name]] = 0;
            isAny = true;
        }

        return isAny;
    }
}
