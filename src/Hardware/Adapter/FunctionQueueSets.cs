using Virtbus.Ethernet;
using Virtbus.Memory.Dma;
using Virtbus.Platform;

namespace Virtbus.Hardware.Adapter;

/// <summary>The queue sets of one function. Made, and all else but doorbells, on the lane's thread under the gate.</summary>
/// <param name="owner">What tells of a queue set that stopped.</param>
/// <param name="placement">Where the function is worked for.</param>
/// <param name="port">The way to memory and interrupts.</param>
/// <param name="registers">Whether the function stands still.</param>
/// <param name="bus">What is between the queue sets of all functions.</param>
/// <param name="limits">How many there can be, and with which vectors.</param>
internal sealed class FunctionQueueSets(
    AdapterWork owner, FunctionPlacement placement, IFunctionPort port, FunctionRegisterFile registers, EthernetSwitch bus, FunctionLimits limits)
{
    private QueueSet?[]? _sets;

    /// <summary>All of them, as they go into a state.</summary>
    internal IEnumerable<(QueueSetState State, bool IsErrorUntold)> States => Sets.Select(s => (s.State, s.IsErrorUntold));

    /// <summary>How many there are.</summary>
    internal int Count => Sets.Count();

    private IEnumerable<QueueSet> Sets => _sets?.OfType<QueueSet>() ?? [];

    /// <summary>The driver published frames. Any thread.</summary>
    internal void Ring(int index) => Volatile.Read(ref _sets)?[index]?.Schedule();

    internal Errno Create(in QueueSetState wanted, out ushort id)
    {
        id = 0;
        var free = Array.IndexOf(_sets ??= new QueueSet?[limits.QueueSets], null);
        if (free < 0)
            return Errno.ENOSPC;
        id = (ushort)free;
        var state = wanted with { Id = id };
        if (!state.IsValid(limits))
            return Errno.EINVAL;
        Add(state);
        return Errno.None;
    }

    internal Errno Destroy(uint id)
    {
        if (_sets is null || id >= (uint)_sets.Length || _sets[id] is not { } set)
            return Errno.ENOENT;
        // What it did so far is shown before it goes.
        set.Flush();
        bus.Leave(set.Port);
        _sets[id] = null;
        return Errno.None;
    }

    /// <summary>Adds one of a state that is valid.</summary>
    internal QueueSet Add(in QueueSetState state)
    {
        _sets ??= new QueueSet?[limits.QueueSets];
        var set = new QueueSet(owner, placement, port, registers, state);
        Volatile.Write(ref _sets[state.Id], set);
        placement.Lane.Switching.Join(set.Port);
        return set;
    }

    /// <summary>Takes all of them away.</summary>
    internal void Clear()
    {
        foreach (var set in Sets)
            bus.Leave(set.Port);
        _sets = null;
    }

    /// <summary>Shows the driver what they did so far.</summary>
    internal void Flush()
    {
        foreach (var set in Sets)
            set.Flush();
    }

    /// <summary>They stood still and go on.</summary>
    /// <param name="remind">Whether interrupts may have been lost meanwhile.</param>
    internal void Wake(bool remind)
    {
        foreach (var set in Sets)
        {
            if (remind)
                set.Remind();
            else
                set.Schedule();
        }
    }

    /// <summary>Tells of those that stopped.</summary>
    internal bool TryTell(FunctionEvents events, DmaPort dma, uint kept)
    {
        foreach (var set in _sets ?? [])
        {
            if (set is not { IsErrorUntold: true } || events.Room <= kept)
                continue;
            set.IsErrorUntold = false;
            if (!events.TryPost(dma, AdapterEventType.QueueError, Errno.None, set.State.Id, (ulong)set.Error, 0))
                return false;
        }
        return true;
    }
}
