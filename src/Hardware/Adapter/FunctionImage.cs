using System.Buffers.Binary;
using Virtbus.Memory;

namespace Virtbus.Hardware.Adapter;

/// <summary>
/// The state of a virtual function as it goes from one machine to another: a header, the registers, and an entry for each queue set.
/// Little endian; docs/adapter-registers.md has the table. What comes from a peer is read whole and checked before any of it is used.
/// </summary>
internal sealed record FunctionImage(
    ushort DeviceId, ulong MacAddress, FunctionRegisters Registers, IReadOnlyList<(QueueSetState State, bool IsErrorUntold)> QueueSets)
{
    public const uint Magic = 0x53465656;
    public const ushort Version = 1;
    public const int HeaderSize = 16;
    public const int RegistersSize = 96;
    public const int QueueSetSize = 48;
    public const int MaxSize = HeaderSize + RegistersSize + (FunctionTable.MaxQueueSets * QueueSetSize);

    private const ushort Enabled = 1;
    private const ushort LinkUntold = 2;
    private const ushort ErrorUntold = 1;

    public int Size => HeaderSize + RegistersSize + (QueueSets.Count * QueueSetSize);

    public void Write(Span<byte> to)
    {
        to.Clear();
        BinaryPrimitives.WriteUInt32LittleEndian(to, Magic);
        BinaryPrimitives.WriteUInt16LittleEndian(to[4..], Version);
        BinaryPrimitives.WriteUInt16LittleEndian(to[6..], DeviceId);
        BinaryPrimitives.WriteUInt32LittleEndian(to[8..], (uint)Size);
        BinaryPrimitives.WriteUInt32LittleEndian(to[12..], (uint)QueueSets.Count);
        var r = to[HeaderSize..];
        BinaryPrimitives.WriteUInt64LittleEndian(r, MacAddress);
        BinaryPrimitives.WriteUInt64LittleEndian(r[8..], Registers.CommandBase);
        BinaryPrimitives.WriteUInt64LittleEndian(r[16..], Registers.EventBase);
        BinaryPrimitives.WriteUInt32LittleEndian(r[24..], Registers.CommandSize);
        BinaryPrimitives.WriteUInt32LittleEndian(r[28..], Registers.EventSize);
        BinaryPrimitives.WriteUInt32LittleEndian(r[32..], Registers.Control);
        BinaryPrimitives.WriteUInt32LittleEndian(r[36..], Registers.CommandProducer);
        BinaryPrimitives.WriteUInt32LittleEndian(r[40..], Registers.EventConsumerRung);
        BinaryPrimitives.WriteUInt16LittleEndian(r[44..], (ushort)((Registers.IsEnabled ? Enabled : 0) | (Registers.IsLinkUntold ? LinkUntold : 0)));
        BinaryPrimitives.WriteUInt16LittleEndian(r[46..], (ushort)Registers.Error);
        BinaryPrimitives.WriteUInt64LittleEndian(r[48..], Registers.Commands.Base.Value);
        BinaryPrimitives.WriteUInt64LittleEndian(r[56..], Registers.Events.Base.Value);
        BinaryPrimitives.WriteUInt32LittleEndian(r[64..], Registers.Commands.Log);
        BinaryPrimitives.WriteUInt32LittleEndian(r[68..], Registers.Events.Log);
        BinaryPrimitives.WriteUInt32LittleEndian(r[72..], Registers.CommandConsumer);
        BinaryPrimitives.WriteUInt32LittleEndian(r[76..], Registers.EventProducer);
        BinaryPrimitives.WriteUInt32LittleEndian(r[80..], Registers.EventConsumer);
        r = r[RegistersSize..];
        foreach (var (state, untold) in QueueSets)
        {
            BinaryPrimitives.WriteUInt16LittleEndian(r, state.Id);
            BinaryPrimitives.WriteUInt16LittleEndian(r[2..], state.Vector);
            r[4] = state.TransmitLog;
            r[5] = state.ReceiveLog;
            BinaryPrimitives.WriteUInt16LittleEndian(r[6..], untold ? ErrorUntold : (ushort)0);
            BinaryPrimitives.WriteUInt64LittleEndian(r[8..], state.TransmitRing.Value);
            BinaryPrimitives.WriteUInt64LittleEndian(r[16..], state.ReceiveRing.Value);
            BinaryPrimitives.WriteUInt64LittleEndian(r[24..], state.IndexBlock.Value);
            BinaryPrimitives.WriteUInt32LittleEndian(r[32..], state.TransmitConsumer);
            BinaryPrimitives.WriteUInt32LittleEndian(r[36..], state.ReceiveConsumer);
            BinaryPrimitives.WriteUInt32LittleEndian(r[40..], state.Dropped);
            BinaryPrimitives.WriteUInt32LittleEndian(r[44..], (uint)state.Error);
            r = r[QueueSetSize..];
        }
    }

    /// <summary>Reads a state for a function of a make within its limits.</summary>
    /// <returns>False when it is not one, or not one of this make and version, or asks for what the function has not.</returns>
    public static bool TryRead(ReadOnlySpan<byte> from, ushort deviceId, in FunctionLimits limits, out FunctionImage image)
    {
        image = null!;
        if (from.Length < HeaderSize + RegistersSize
            || BinaryPrimitives.ReadUInt32LittleEndian(from) != Magic
            || BinaryPrimitives.ReadUInt16LittleEndian(from[4..]) != Version
            || BinaryPrimitives.ReadUInt16LittleEndian(from[6..]) != deviceId
            || BinaryPrimitives.ReadUInt32LittleEndian(from[8..]) != (uint)from.Length)
            return false;
        var count = BinaryPrimitives.ReadUInt32LittleEndian(from[12..]);
        if (count > (uint)limits.QueueSets || from.Length != HeaderSize + RegistersSize + ((int)count * QueueSetSize))
            return false;
        if (!TryReadRegisters(from[HeaderSize..], out var registers, out var mac))
            return false;
        var sets = new List<(QueueSetState, bool)>();
        var last = -1;
        for (var r = from[(HeaderSize + RegistersSize)..]; !r.IsEmpty; r = r[QueueSetSize..])
        {
            var state = ReadQueueSet(r);
            var flags = BinaryPrimitives.ReadUInt16LittleEndian(r[6..]);
            // In rising order, so none comes twice. Queue sets live only while the function is enabled.
            if (state.Id <= last || !state.IsValid(limits) || flags > ErrorUntold || !registers.IsEnabled)
                return false;
            last = state.Id;
            sets.Add((state, flags == ErrorUntold));
        }
        image = new FunctionImage(deviceId, mac, registers, sets);
        return true;
    }

    private static bool TryReadRegisters(ReadOnlySpan<byte> r, out FunctionRegisters registers, out ulong mac)
    {
        mac = BinaryPrimitives.ReadUInt64LittleEndian(r);
        var flags = BinaryPrimitives.ReadUInt16LittleEndian(r[44..]);
        var error = (AdapterError)BinaryPrimitives.ReadUInt16LittleEndian(r[46..]);
        registers = new FunctionRegisters
        {
            CommandBase = BinaryPrimitives.ReadUInt64LittleEndian(r[8..]),
            EventBase = BinaryPrimitives.ReadUInt64LittleEndian(r[16..]),
            CommandSize = BinaryPrimitives.ReadUInt32LittleEndian(r[24..]),
            EventSize = BinaryPrimitives.ReadUInt32LittleEndian(r[28..]),
            Control = BinaryPrimitives.ReadUInt32LittleEndian(r[32..]),
            CommandProducer = BinaryPrimitives.ReadUInt32LittleEndian(r[36..]),
            EventConsumerRung = BinaryPrimitives.ReadUInt32LittleEndian(r[40..]),
            IsEnabled = (flags & Enabled) != 0,
            IsLinkUntold = (flags & LinkUntold) != 0,
            Error = error,
            CommandConsumer = BinaryPrimitives.ReadUInt32LittleEndian(r[72..]),
            EventProducer = BinaryPrimitives.ReadUInt32LittleEndian(r[76..]),
            EventConsumer = BinaryPrimitives.ReadUInt32LittleEndian(r[80..]),
        };
        var commands = (Base: BinaryPrimitives.ReadUInt64LittleEndian(r[48..]), Log: BinaryPrimitives.ReadUInt32LittleEndian(r[64..]));
        var events = (Base: BinaryPrimitives.ReadUInt64LittleEndian(r[56..]), Log: BinaryPrimitives.ReadUInt32LittleEndian(r[68..]));
        // A function that was never enabled has no rings; the default says so.
        var hasRings = FunctionRing.TryMake(commands.Base, commands.Log, AdapterCommand.Size, out registers.Commands)
            & FunctionRing.TryMake(events.Base, events.Log, FunctionEvents.EventSize, out registers.Events);
        return mac >> 48 == 0 && (flags & ~(Enabled | LinkUntold)) == 0 && error <= AdapterError.Internal
            && (registers.Control & ~(AdapterControl.Enable | AdapterControl.Reset)) == 0
            && (hasRings || !registers.IsEnabled)
            && (!registers.IsEnabled || registers.EventProducer - registers.EventConsumer <= registers.Events.Count);
    }

    private static QueueSetState ReadQueueSet(ReadOnlySpan<byte> r) => new(
        BinaryPrimitives.ReadUInt16LittleEndian(r),
        BinaryPrimitives.ReadUInt16LittleEndian(r[2..]),
        r[4],
        r[5],
        new Iova(BinaryPrimitives.ReadUInt64LittleEndian(r[8..])),
        new Iova(BinaryPrimitives.ReadUInt64LittleEndian(r[16..])),
        new Iova(BinaryPrimitives.ReadUInt64LittleEndian(r[24..])))
    {
        TransmitConsumer = BinaryPrimitives.ReadUInt32LittleEndian(r[32..]),
        ReceiveConsumer = BinaryPrimitives.ReadUInt32LittleEndian(r[36..]),
        Dropped = BinaryPrimitives.ReadUInt32LittleEndian(r[40..]),
        Error = (AdapterError)BinaryPrimitives.ReadUInt32LittleEndian(r[44..]),
    };
}
