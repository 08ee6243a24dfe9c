using System.Buffers.Binary;
using Virtbus.Buses.Virtio;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;
using Virtbus.Virtio.Rings;

namespace Virtbus.Drivers.VirtioNet;

/// <summary>The control queue: one command at a time, by the driver's probe and restore. A device that does not answer in time has its queue broken.</summary>
internal sealed class ControlRing : IDisposable
{
    internal const int Depth = 4;
    private const byte Pairs = 4;
    private const byte SetPairs = 0;
    private const byte Ok = 0;
    private const int AnswerOffset = 64;
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(5);

    private readonly Lock _lock = new();
    private readonly TimeProvider _time;
    private readonly DmaBuffer _memory;
    private VirtioQueue? _queue;
    private TaskCompletionSource<bool>? _answer;

    internal ControlRing(VirtioBusDevice device)
    {
        _time = device.Fabric!.Time;
        _memory = device.Allocate(AnswerOffset + 1);
    }

    internal void Attach(VirtioQueue queue)
    {
        lock (_lock)
            _queue = queue;
    }

    internal void Detach()
    {
        lock (_lock)
        {
            _queue = null;
            _answer?.TrySetResult(false);
        }
    }

    /// <summary>Says how many queue pairs are used.</summary>
    /// <returns>False when the device refuses, is gone, or does not answer.</returns>
    internal async ValueTask<bool> TrySetPairsAsync(int pairs, CancellationToken cancellationToken)
    {
        try
        {
            return await Send(pairs).WaitAsync(Patience, _time, cancellationToken);
        }
        catch (TimeoutException)
        {
            lock (_lock)
                _queue?.Break(new Fault(Errno.ETIMEDOUT, "the device does not answer a command"));
            return false;
        }
    }

    internal void Take(VirtioQueue queue)
    {
        lock (_lock)
        {
            if (_queue != queue)
                return;
            do
            {
                while (queue.TryTake(out _, out _))
                    _answer?.TrySetResult(_memory.Span[AnswerOffset] == Ok);
            }
            while (queue.RequestCalls(true));

            if (queue.IsBroken)
                _answer?.TrySetResult(false);
        }
    }

    public void Dispose() => _memory.Dispose();

    private Task<bool> Send(int pairs)
    {
        lock (_lock)
        {
            if (_queue is not { } queue)
                return Task.FromResult(false);
            var bytes = _memory.Span;
            (bytes[0], bytes[1]) = (Pairs, SetPairs);
            BinaryPrimitives.WriteUInt16LittleEndian(bytes[2..], (ushort)pairs);
            bytes[AnswerOffset] = byte.MaxValue;
            _answer = new TaskCompletionSource<bool>(TaskCreationOptions.RunContinuationsAsynchronously);
            if (queue.Add(new DriverBuffer(_memory.Address, 4, false), new DriverBuffer(new Iova(_memory.Address.Value + AnswerOffset), 1, true)) < 0)
                return Task.FromResult(false);
            queue.Kick();
            return _answer.Task;
        }
    }
}
