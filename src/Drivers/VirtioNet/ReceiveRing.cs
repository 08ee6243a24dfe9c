using System.Buffers.Binary;
using Virtbus.Buses.Virtio;
using Virtbus.Ethernet;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;
using Virtbus.Subsystems.Net;
using Virtbus.Virtio.Rings;

namespace Virtbus.Drivers.VirtioNet;

/// <summary>
/// A receive queue: all its buffers are with the device but for those whose frame is being handed on. Runs on the thread that interrupts, or on one that polls.
/// The device is not trusted: what it says of a frame is looked at in a copy, by the subsystem, and what makes no sense is counted.
/// </summary>
internal sealed class ReceiveRing : IThreadPoolWorkItem, IDisposable
{
    internal const int Depth = 256;
    // Behind so many queues full the thread that interrupts is given back, which may have an answer to a command behind them; a thread of the pool goes on.
    private const int MostTurns = 16;
    // Of mergeable buffers, of which a frame takes as many as it needs (5.1.6.3.1).
    private const int MergeableSize = 2048;
    private const int CacheLine = 64;
    private const int BuffersOffset = 10;
    private const int MostHeader = 12;
    private const int Pull = 32;

    private readonly Lock _lock = new();
    private readonly DmaBuffer _memory;
    private readonly int _number;
    private readonly int _headerSize;
    private readonly bool _isMergeable;
    // Of the flags those that count: without the feature a checksum that is left open is seen as an error.
    private readonly FrameFlags _flags;
    private readonly int _bufferSize;
    // A frame is copied out once, so that the device changes nothing of what was looked at.
    private readonly byte[] _frame;
    // Which buffer a name stands for.
    private readonly int[] _buffers = new int[Depth];
    // What the device has used and is to be looked at, taken together so that the lines of it that the device has come over together.
    private readonly (int Buffer, int Written)[] _pulled = new (int, int)[Pull];
    private int _nextPulled;
    private int _pulledCount;
    // How many wait for the lock to change something, while the device may hand frames back without end.
    private int _waiting;
    private VirtioQueue? _queue;
    private NetDevice? _receiver;
    private bool _isPolled;

    /// <summary>Allocates its buffers.</summary>
    /// <param name="device">The device.</param>
    /// <param name="number">Its number among the receive queues.</param>
    /// <param name="headerSize">Bytes of a frame's header.</param>
    /// <param name="isMergeable">Whether a frame may lie in several buffers.</param>
    /// <param name="mostBytes">Bytes of the longest frame.</param>
    /// <param name="takes">What the device may leave.</param>
    internal ReceiveRing(VirtioBusDevice device, int number, int headerSize, bool isMergeable, int mostBytes, OffloadKinds takes)
    {
        _number = number;
        _flags = FrameFlags.NeedsChecksum | ((takes & OffloadKinds.Checksum) != OffloadKinds.None ? FrameFlags.DataValid : FrameFlags.None);
        _headerSize = headerSize;
        _isMergeable = isMergeable;
        _bufferSize = isMergeable ? MergeableSize : (headerSize + mostBytes + CacheLine - 1) & -CacheLine;
        _frame = new byte[mostBytes];
        _memory = device.Allocate(Depth * (ulong)_bufferSize);
    }

    internal void Attach(VirtioQueue queue)
    {
        lock (_lock)
            _queue = queue;
    }

    internal void Detach()
    {
        Interlocked.Increment(ref _waiting);
        lock (_lock)
        {
            Interlocked.Decrement(ref _waiting);
            _queue = null;
        }
    }

    /// <summary>Sets who gets the frames; when it returns, nobody else does.</summary>
    internal void SetReceiver(NetDevice? receiver)
    {
        Interlocked.Increment(ref _waiting);
        lock (_lock)
        {
            Interlocked.Decrement(ref _waiting);
            _receiver = receiver;
        }
    }

    /// <summary>Gives the device all buffers.</summary>
    internal void Fill()
    {
        lock (_lock)
        {
            if (_queue is not { } queue)
                return;
            // A legacy queue has the device's size, which may be less or more.
            for (var i = 0; i < Math.Min(Depth, queue.Size); i++)
                Offer(queue, i);
            if (_isPolled)
                queue.RequestCalls(false);
            queue.Kick();
        }
    }

    /// <summary>The device interrupted.</summary>
    internal void Take(VirtioQueue queue)
    {
        var turns = MostTurns;
        while (!TryTakeAll(queue, ref turns) && !_lock.IsHeldByCurrentThread)
        {
            if (turns == 0)
            {
                ThreadPool.UnsafeQueueUserWorkItem(this, preferLocal: false);
                return;
            }

            var spinner = default(SpinWait);
            while (Volatile.Read(ref _waiting) > 0)
                spinner.SpinOnce();
        }
    }

    void IThreadPoolWorkItem.Execute()
    {
        if (Volatile.Read(ref _queue) is { } queue)
            Take(queue);
    }

    // False when there may be more, and somebody waits for the lock, who has it first; or no turns are left to the thread.
    private bool TryTakeAll(VirtioQueue queue, ref int turns)
    {
        lock (_lock)
        {
            // An interrupt that was on its way says nothing to who polls.
            if (_queue != queue || _isPolled)
                return true;
            do
            {
                while (turns > 0 && Volatile.Read(ref _waiting) == 0 && TakeSome(queue))
                    turns--;
                if (turns == 0 || Volatile.Read(ref _waiting) > 0)
                    return false;
            }
            while (queue.RequestCalls(true));
            return true;
        }
    }

    /// <summary>Has it polled from here on, or told of again.</summary>
    internal void SetPolled(bool polled)
    {
        VirtioQueue? queue;
        Interlocked.Increment(ref _waiting);
        lock (_lock)
        {
            Interlocked.Decrement(ref _waiting);
            _isPolled = polled;
            queue = _queue;
            if (polled)
                queue?.RequestCalls(false);
        }

        if (!polled && queue is not null)
            Take(queue);
    }

    /// <summary>Takes what has come, up to a queue full.</summary>
    internal bool Poll()
    {
        lock (_lock)
            return _queue is { } queue && TakeSome(queue);
    }

    public void Dispose() => _memory.Dispose();

    private bool TakeSome(VirtioQueue queue)
    {
        var isAny = false;
        // All that were pulled, and not more than a queue full.
        for (var pulls = 0; pulls < Depth / Pull && TryPull(queue); pulls++)
        {
            isAny = true;
            while (_nextPulled < _pulledCount && TryTake(queue, out var buffer, out var written))
                Receive(queue, buffer, written);
            queue.Show();
        }

        if (!isAny)
            return false;
        queue.Kick();
        _receiver?.EndReceive(_number);
        return true;
    }

    private void Receive(VirtioQueue queue, int buffer, int written)
    {
        if (TryCollect(queue, buffer, written, out var length, out var offload))
            _receiver?.Receive(_number, new EthernetFrame(_frame.AsSpan(0, length), offload));
        else
            _receiver?.CountReceiveError(_number, isLength: true);
    }

    private Span<byte> Bytes(int buffer, int length) => _memory.Span.Slice(buffer * _bufferSize, length);

    private void Offer(VirtioQueue queue, int buffer)
    {
        var name = queue.Add(new DriverBuffer(new Iova(_memory.Address.Value + ((ulong)buffer * (ulong)_bufferSize)), (uint)_bufferSize, true));
        if (name < 0)
            return;
        // Names are below the queue's size, which may be above ours.
        if (name < _buffers.Length)
            _buffers[name] = buffer;
        else
            queue.Break(new Fault(Errno.EPROTO, "the ring gives a name that no buffer has"));
    }

    private bool TryTake(VirtioQueue queue, out int buffer, out int written)
    {
        (buffer, written) = (-1, 0);
        if (_nextPulled == _pulledCount && !TryPull(queue))
            return false;
        (buffer, written) = _pulled[_nextPulled++];
        return true;
    }

    // When the queue breaks its callback comes here once more, and leaves nothing of what was pulled behind it.
    private bool TryPull(VirtioQueue queue)
    {
        (_nextPulled, _pulledCount) = (0, 0);
        while (_pulledCount < Pull && queue.TryTake(out var name, out var bytes))
        {
            var buffer = _buffers[name];
            var at = (ulong)buffer * (ulong)_bufferSize;
            _memory.Memory.Prefetch(at);
            _memory.Memory.Prefetch(at + CacheLine);
            // Not more than the buffer has.
            _pulled[_pulledCount++] = (buffer, (int)bytes);
        }

        return _pulledCount > 0;
    }

    // Puts a frame together and gives its buffers back.
    private bool TryCollect(VirtioQueue queue, int buffer, int written, out int length, out FrameOffload offload)
    {
        length = 0;
        offload = default;
        var buffers = 1;
        var isGood = written >= _headerSize;
        if (isGood)
        {
            Span<byte> header = stackalloc byte[MostHeader];
            Bytes(buffer, _headerSize).CopyTo(header);
            if (_isMergeable)
                buffers = BinaryPrimitives.ReadUInt16LittleEndian(header[BuffersOffset..]);
            // Most have nothing in it: no flag, and no type of segments.
            if (BinaryPrimitives.ReadUInt16LittleEndian(header) != 0)
            {
                offload = FrameOffload.Read(header);
                offload = offload with { Flags = offload.Flags & _flags };
            }

            isGood = Append(buffer, _headerSize, written, ref length);
        }

        Offer(queue, buffer);
        if (buffers == 0 || buffers > queue.Size)
        {
            queue.Break(new Fault(Errno.EPROTO, "the device says that a frame has no buffer, or more than there are"));
            return false;
        }

        while (--buffers > 0)
        {
            // They come together (5.1.6.4).
            if (!TryTake(queue, out buffer, out written))
            {
                queue.Break(new Fault(Errno.EPROTO, "the device did not hand the buffers of a frame back together"));
                return false;
            }

            isGood = Append(buffer, 0, written, ref length) && isGood;
            Offer(queue, buffer);
        }

        return isGood;
    }

    private bool Append(int buffer, int from, int to, ref int length)
    {
        if (length + to - from > _frame.Length)
            return false;
        Bytes(buffer, to)[from..].CopyTo(_frame.AsSpan(length));
        length += to - from;
        return true;
    }
}
