using System.Buffers.Binary;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;

namespace Virtbus.Hardware.Adapter;

/// <summary>The event ring of one function: what it tells its driver. On the lane's thread, under the gate.</summary>
/// <param name="registers">Where the ring is, and how far both sides are in it.</param>
internal sealed class FunctionEvents(FunctionRegisterFile registers)
{
    public const int EventSize = 32;
    private const int PhaseOffset = 28;
    private bool _isInterruptWanted;

    /// <summary>How many events can be written before the driver takes some.</summary>
    internal uint Room => registers.Values.Events.Count - (registers.Values.EventProducer - registers.Values.EventConsumer);

    /// <summary>Takes over how many events the driver has taken.</summary>
    /// <returns>False when it took more than there were; the function stops.</returns>
    internal bool AcceptConsumer()
    {
        ref var values = ref registers.Values;
        var rung = Volatile.Read(ref values.EventConsumerRung);
        if (rung - values.EventConsumer > values.EventProducer - values.EventConsumer)
            return Fail(AdapterError.BadIndex);
        values.EventConsumer = rung;
        return true;
    }

    /// <summary>Writes an event; there has to be room.</summary>
    /// <returns>False when the ring can't be reached; the function stops.</returns>
    internal bool TryPost(DmaPort dma, AdapterEventType type, Errno status, uint tag, ulong first, ulong second)
    {
        ref var values = ref registers.Values;
        Span<byte> entry = stackalloc byte[EventSize];
        entry.Clear();
        BinaryPrimitives.WriteUInt16LittleEndian(entry, (ushort)type);
        BinaryPrimitives.WriteUInt16LittleEndian(entry[2..], (ushort)status);
        BinaryPrimitives.WriteUInt32LittleEndian(entry[4..], tag);
        BinaryPrimitives.WriteUInt64LittleEndian(entry[8..], first);
        BinaryPrimitives.WriteUInt64LittleEndian(entry[16..], second);
        // 1 in the first pass over the ring, 0 in the second, and so on.
        BinaryPrimitives.WriteUInt32LittleEndian(entry[PhaseOffset..], ~(values.EventProducer >> values.Events.Log) & 1);
        var at = values.Events.At(values.EventProducer, EventSize);
        if (!dma.TryWrite(at, entry[..PhaseOffset]))
            return Fail(AdapterError.DmaFault);
        // The phase comes last: a driver that sees it sees the rest.
        Thread.MemoryBarrier();
        if (!dma.TryWrite(new Iova(at.Value + PhaseOffset), entry[PhaseOffset..]))
            return Fail(AdapterError.DmaFault);
        values.EventProducer++;
        _isInterruptWanted = true;
        return true;
    }

    /// <summary>Stops the function; its driver finds out why by the interrupt and the error register.</summary>
    /// <returns>False.</returns>
    internal bool Fail(AdapterError error)
    {
        registers.Values.Error = error;
        _isInterruptWanted = true;
        return false;
    }

    /// <summary>Whether the interrupt is to be raised now, for all that was written since the last time.</summary>
    internal bool TakeInterrupt()
    {
        var wanted = _isInterruptWanted;
        _isInterruptWanted = false;
        return wanted;
    }
}
