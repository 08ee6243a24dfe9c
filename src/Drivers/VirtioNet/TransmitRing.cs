using Virtbus.Buses.Virtio;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;
using Virtbus.Virtio.Rings;

namespace Virtbus.Drivers.VirtioNet;

/// <summary>A transmit queue: frames are copied into buffers that the device reads, and those it has read are taken back at the next one. Any thread.</summary>
internal sealed class TransmitRing : IDisposable
{
    internal const int Depth = 256;
    private const int CacheLine = 64;

    private readonly Lock _lock = new();
    private readonly DmaBuffer _memory;
    private readonly int _headerSize;
    private readonly int _mostBytes;
    private readonly int _bufferSize;
    // Buffers that are free, a stack; and which one a name stands for.
    private readonly int[] _free = new int[Depth];
    private readonly int[] _buffers = new int[Depth];
    private int _freeCount;
    private VirtioQueue? _queue;

    internal TransmitRing(VirtioBusDevice device, int headerSize, int mostBytes)
    {
        _headerSize = headerSize;
        _mostBytes = mostBytes;
        _bufferSize = (headerSize + mostBytes + CacheLine - 1) & -CacheLine;
        _memory = device.Allocate(Depth * (ulong)_bufferSize);
    }

    internal void Attach(VirtioQueue queue)
    {
        lock (_lock)
        {
            _freeCount = Math.Min(Depth, queue.Size);
            for (var i = 0; i < _freeCount; i++)
                _free[i] = i;
            queue.RequestCalls(false);
            _queue = queue;
        }
    }

    internal void Detach()
    {
        lock (_lock)
            _queue = null;
    }

    internal bool TrySend(ReadOnlySpan<byte> frame, out Fault fault)
    {
        if (frame.Length > _mostBytes)
        {
            fault = new Fault(Errno.EMSGSIZE, "the frame is longer than the device takes");
            return false;
        }

        lock (_lock)
        {
            if (_queue is not { IsBroken: false } queue)
            {
                fault = new Fault(Errno.EIO, "the device is gone, asleep or broken");
                return false;
            }

            while (queue.TryTake(out var done, out _))
                _free[_freeCount++] = _buffers[done];
            fault = Put(queue, frame) ? Fault.None : new Fault(Errno.ENOBUFS, "the transmit queue is full");
            return fault == Fault.None;
        }
    }

    public void Dispose() => _memory.Dispose();

    private bool Put(VirtioQueue queue, ReadOnlySpan<byte> frame)
    {
        if (_freeCount == 0)
            return false;
        var buffer = _free[_freeCount - 1];
        var at = buffer * _bufferSize;
        // The header says nothing: the frame is whole. The device could have written to it.
        _memory.Span.Slice(at, _headerSize).Clear();
        frame.CopyTo(_memory.Span[(at + _headerSize)..]);
        var name = queue.Add(new DriverBuffer(new Iova(_memory.Address.Value + (ulong)at), (uint)(_headerSize + frame.Length), false));
        if (name < 0 || name >= _buffers.Length)
            return false;
        _freeCount--;
        _buffers[name] = buffer;
        queue.Kick();
        return true;
    }
}
