using System.Diagnostics;
using Virtbus.Buses.Virtio;
using Virtbus.Memory.Dma;
using Virtbus.Subsystems.HwRandom;
using Virtbus.Virtio.Rings;

namespace Virtbus.Drivers.VirtioRng;

/// <summary>One source: a buffer that is with the device, or whose bytes wait for who reads them. What was read is asked for anew.</summary>
/// <param name="name">Its name.</param>
/// <param name="buffer">The buffer; it is this object's.</param>
internal sealed class VirtioRandom(string name, DmaBuffer buffer) : IHwRandomOps, IDisposable
{
    internal const int BufferSize = 64;

    private readonly Lock _lock = new();
    private readonly ManualResetEventSlim _ready = new();
    private VirtioQueue? _queue;
    private int _next;
    private int _left;
    private bool _isAsked;

    public string Name => name;

    /// <summary>Makes the queue, has the device run, and gives it the buffer: nobody who reads asks it for bytes before it runs.</summary>
    internal void Start(VirtioBusDevice device)
    {
        var queue = device.CreateQueues(new VirtioQueueSpec("input", OnUsed, MaxSize: 2))[0];
        device.Ready();
        lock (_lock)
        {
            _queue = queue;
            Ask();
        }
    }

    /// <summary>Lets go of the queue; who waits for bytes gets none.</summary>
    internal void Stop()
    {
        lock (_lock)
        {
            _queue = null;
            _left = 0;
            _isAsked = false;
            _ready.Set();
        }
    }

    public int Read(Span<byte> destination, TimeSpan wait)
    {
        if (destination.IsEmpty)
            return 0;
        var start = Stopwatch.GetTimestamp();
        while (true)
        {
            lock (_lock)
            {
                if (_left > 0)
                    return Take(destination);
                if (_queue is not { IsBroken: false })
                    return 0;
                // The device gave the buffer back with nothing in it, or another reader has had it all.
                Ask();
            }

            var left = wait - Stopwatch.GetElapsedTime(start);
            if (!_ready.Wait(wait == Timeout.InfiniteTimeSpan ? wait : left > TimeSpan.Zero ? left : TimeSpan.Zero))
                return 0;
        }
    }

    public void Dispose()
    {
        Stop();
        buffer.Dispose();
    }

    private int Take(Span<byte> destination)
    {
        var count = Math.Min(_left, destination.Length);
        var bytes = buffer.Span.Slice(_next, count);
        bytes.CopyTo(destination);
        // Nobody else is to have the same.
        bytes.Clear();
        _next += count;
        _left -= count;
        if (_left == 0)
            Ask();
        return count;
    }

    private void Ask()
    {
        if (_isAsked || _queue is not { IsBroken: false } queue)
            return;
        _isAsked = true;
        _ready.Reset();
        queue.Add(new DriverBuffer(buffer.Address, BufferSize, true));
        queue.Kick();
    }

    private void OnUsed(VirtioQueue queue)
    {
        lock (_lock)
        {
            if (_queue != queue)
                return;
            do
            {
                while (queue.TryTake(out _, out var written))
                {
                    _next = 0;
                    _left = (int)written;
                    _isAsked = false;
                }
            }
            while (queue.RequestCalls(true));

            if (!_isAsked || queue.IsBroken)
                _ready.Set();
        }
    }
}
