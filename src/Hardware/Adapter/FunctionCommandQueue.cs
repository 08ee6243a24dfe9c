using System.Collections.Concurrent;
using Virtbus.Memory.Dma;

namespace Virtbus.Hardware.Adapter;

/// <summary>
/// The command ring of one function: takes commands in their order, has them executed and answers each by an event. On the lane's thread, under
/// the gate, but for <see cref="Done"/>.
/// </summary>
/// <param name="registers">Where the ring is, and how far both sides are in it.</param>
/// <param name="events">Where answers go.</param>
/// <param name="commands">Executes them.</param>
/// <param name="changes">What else the function has to tell.</param>
internal sealed class FunctionCommandQueue(FunctionRegisterFile registers, FunctionEvents events, FunctionCommands commands, IFunctionChanges changes)
{
    private const int CommandsPerTurn = 16;
    // Those that other functions have done.
    private readonly ConcurrentQueue<DeferredCommand> _done = new();
    // Commands that other functions are at, of the enabling that the epoch counts.
    private uint _deferred;
    private uint _epoch;

    /// <summary>How many answers will come for which room is kept.</summary>
    internal uint Deferred => _deferred;

    /// <summary>Another function did a command. Any thread; the function's turn has to be asked for.</summary>
    internal void Done(DeferredCommand command) => _done.Enqueue(command);

    /// <summary>Whoever gave the commands that are under way is gone: their answers are of before, and passed over.</summary>
    internal void Forget()
    {
        _epoch++;
        _deferred = 0;
    }

    /// <summary>Answers what other functions have done.</summary>
    /// <returns>False when the function stopped.</returns>
    internal bool AnswerDeferred(DmaPort dma)
    {
        while (_done.TryDequeue(out var command))
        {
            if (command.Epoch != _epoch)
                continue;
            _deferred--;
            var status = command.Finish(dma, out var first);
            if (!events.TryPost(dma, AdapterEventType.CommandDone, status, command.Tag, first, 0))
                return false;
        }
        return true;
    }

    /// <summary>Executes some commands.</summary>
    /// <returns>Whether there may be more.</returns>
    internal bool Run(DmaPort dma)
    {
        ref var values = ref registers.Values;
        Span<byte> bytes = stackalloc byte[AdapterCommand.Size];
        for (var n = 0; n < CommandsPerTurn; n++)
        {
            var waiting = Volatile.Read(ref values.CommandProducer) - values.CommandConsumer;
            // A command is taken only when its answer has room, beside those of the deferred ones; the driver's event doorbell goes on here.
            if (waiting == 0 || events.Room <= _deferred)
                return false;
            if (waiting > values.Commands.Count)
                return events.Fail(AdapterError.BadIndex);
            if (!dma.TryRead(values.Commands.At(values.CommandConsumer, AdapterCommand.Size), bytes))
                return events.Fail(AdapterError.DmaFault);
            values.CommandConsumer++;
            var command = new AdapterCommand(bytes);
            var isDone = commands.TryExecute(command, dma, out var status, out var first, out var second, out var deferred);
            if (!isDone)
            {
                _deferred++;
                deferred!.Begin(_epoch);
            }
            // What the command caused is told before its answer.
            if (!changes.TryTell(dma, isDone ? _deferred + 1 : _deferred))
                return false;
            if (isDone && !events.TryPost(dma, AdapterEventType.CommandDone, status, command.Tag, first, second))
                return false;
        }
        return true;
    }
}
