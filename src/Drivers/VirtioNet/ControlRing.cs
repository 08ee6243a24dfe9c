using Virtbus.Buses.Virtio;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;
using Virtbus.Virtio.Rings;

namespace Virtbus.Drivers.VirtioNet;

/// <summary>The control queue: one command at a time, any thread. A device that does not answer in time has its queue broken.</summary>
internal sealed class ControlRing : IDisposable
{
    internal const int Depth = 4;
    private const byte Ok = 0;
    private const int DataOffset = 2;
    private const int AnswerOffset = 64;
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(5);

    private readonly Lock _lock = new();
    private readonly SemaphoreSlim _turn = new(1, 1);
    private readonly TimeProvider _time;
    private readonly DmaBuffer _memory;
    private VirtioQueue? _queue;
    private TaskCompletionSource<bool>? _answer;

    internal ControlRing(VirtioBusDevice device)
    {
        _time = device.Fabric!.Time;
        _memory = device.Allocate(AnswerOffset + 1);
    }

    /// <summary>Ends all waits while a probe goes on; none else.</summary>
    internal CancellationToken Probing { get; set; }

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

    /// <summary>Gives the device a command.</summary>
    /// <param name="command">The command.</param>
    /// <param name="data">What belongs to it, a few bytes.</param>
    /// <returns>False when the device refuses, is gone, or does not answer.</returns>
    /// <exception cref="OperationCanceledException">The probe that it belongs to is given up, and the queue with it.</exception>
    internal async ValueTask<bool> TryCommandAsync(NetCommand command, byte[] data)
    {
        var cancellationToken = Probing;
        await _turn.WaitAsync(cancellationToken);
        try
        {
            return await Send(command, data).WaitAsync(Patience, _time, cancellationToken);
        }
        catch (Exception e) when (e is TimeoutException or OperationCanceledException)
        {
            // The memory is the device's as long as it has not answered.
            lock (_lock)
                _queue?.Break(new Fault(Errno.ETIMEDOUT, "the device does not answer a command"));
            if (e is OperationCanceledException)
                throw;
            return false;
        }
        finally
        {
            _turn.Release();
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

    private Task<bool> Send(NetCommand command, byte[] data)
    {
        lock (_lock)
        {
            if (_queue is not { } queue)
                return Task.FromResult(false);
            var bytes = _memory.Span;
            (bytes[0], bytes[1]) = (command.Class, command.Number);
            data.CopyTo(bytes[DataOffset..]);
            bytes[AnswerOffset] = byte.MaxValue;
            _answer = new TaskCompletionSource<bool>(TaskCreationOptions.RunContinuationsAsynchronously);
            var added = queue.Add(
                new DriverBuffer(_memory.Address, (uint)(DataOffset + data.Length), false),
                new DriverBuffer(new Iova(_memory.Address.Value + AnswerOffset), 1, true));
            if (added < 0)
                return Task.FromResult(false);
            queue.Kick();
            return _answer.Task;
        }
    }
}
