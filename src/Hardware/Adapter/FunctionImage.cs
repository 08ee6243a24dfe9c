using System.Buffers.Binary;
using Virtbus.Memory;
using Virtbus.Platform;

namespace Virtbus.Hardware.Adapter;

/// <summary>
/// The state of a function as it goes from one machine to another, in sections (<see cref="StateWriter"/>): which kind of function it is, its
/// registers, and an entry for each queue set. docs/adapter-registers.md has the tables. What comes from a peer is read whole and checked before
/// any of it is used.
/// </summary>
internal sealed record FunctionImage(
    ushort DeviceId, ulong MacAddress, FunctionRegisters Registers, IReadOnlyList<(QueueSetState State, bool IsErrorUntold)> QueueSets)
{
    public const string IdentitySection = "adapter";
    public const string RegistersSection = "adapter-registers";
    public const string QueueSetsSection = "adapter-queue-sets";

    /// <summary>The most bytes that a state can have, what a later version may add included.</summary>
    public const int MaxSize = 2048;

    private const ushort Version = 1;
    private const int IdentitySize = 4;
    private const int RegistersSize = 96;
    private const int QueueSetSize = 48;
    // "VVFS": what this program wrote before there were sections.
    private const uint OldMagic = 0x53465656;
    private const ushort Enabled = 1;
    private const ushort LinkUntold = 2;
    private const ushort ErrorUntold = 1;

    public void Write(StateWriter writer)
    {
        Span<byte> identity = stackalloc byte[IdentitySize];
        identity.Clear();
        BinaryPrimitives.WriteUInt16LittleEndian(identity, DeviceId);
        writer.Add(IdentitySection, Version, identity);
        Span<byte> r = stackalloc byte[RegistersSize];
        WriteRegisters(r);
        writer.Add(RegistersSection, Version, r);
        var sets = new byte[QueueSets.Count * QueueSetSize];
        WriteQueueSets(sets);
        writer.Add(QueueSetsSection, Version, sets);
    }

    /// <summary>Finds the sections of a state in bytes from a peer.</summary>
    /// <param name="bytes">The bytes, already copied out of memory that others write.</param>
    /// <param name="reader">The sections.</param>
    /// <param name="fault">EINVAL: it is no state.</param>
    public static bool TryOpen(ReadOnlyMemory<byte> bytes, out StateReader reader, out Fault fault)
    {
        if (bytes.Length < 4 || BinaryPrimitives.ReadUInt32LittleEndian(bytes.Span) != OldMagic)
            return StateReader.TryRead(bytes, MaxSize, out reader, out fault);
        reader = null!;
        return Refuse("the state is of the form without sections, which older versions wrote and this one does not read", out fault);
    }

    /// <summary>Reads a state for a function of a make within its limits.</summary>
    /// <returns>False when it is not one of this make, or asks for what the function has not.</returns>
    public static bool TryRead(StateReader reader, ushort deviceId, in FunctionLimits limits, out FunctionImage image, out Fault fault)
    {
        image = null!;
        if (!reader.TryTake(IdentitySection, Version, IdentitySize, IdentitySize, out var identity, out fault)
            || !reader.TryTake(RegistersSection, Version, RegistersSize, RegistersSize, out var registersSection, out fault)
            || !reader.TryTake(QueueSetsSection, Version, 0, limits.QueueSets * QueueSetSize, out var setsSection, out fault)
            || !reader.TryFinish(out fault))
            return false;
        var kind = BinaryPrimitives.ReadUInt32LittleEndian(identity.Content.Span);
        if (kind != deviceId)
            return Refuse($"section '{IdentitySection}' says that the state is of a function {kind:x4}; this one is {deviceId:x4}", out fault);
        if (!TryReadRegisters(registersSection.Content.Span, out var registers, out var mac))
            return Refuse($"section '{RegistersSection}', version {registersSection.Version}, has a value that such a function never has", out fault);
        var sets = new List<(QueueSetState, bool)>();
        var last = -1;
        for (var r = setsSection.Content.Span; !r.IsEmpty; r = r[QueueSetSize..])
        {
            var state = r.Length < QueueSetSize ? default : ReadQueueSet(r);
            var flags = r.Length < QueueSetSize ? (ushort)0 : BinaryPrimitives.ReadUInt16LittleEndian(r[6..]);
            // In rising order, so none comes twice. Queue sets live only while the function is enabled.
            if (r.Length < QueueSetSize || state.Id <= last || !state.IsValid(limits) || flags > ErrorUntold || !registers.IsEnabled)
                return Refuse($"section '{QueueSetsSection}', version {setsSection.Version}, has a queue set that this function can't have", out fault);
            last = state.Id;
            sets.Add((state, flags == ErrorUntold));
        }
        image = new FunctionImage(deviceId, mac, registers, sets);
        return true;
    }

    private void WriteRegisters(Span<byte> r)
    {
        r.Clear();
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
    }

    private void WriteQueueSets(Span<byte> r)
    {
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
        return mac >> 48 == 0 && mac != 0 && (mac >> 40 & 1) == 0 && (flags & ~(Enabled | LinkUntold)) == 0 && error <= AdapterError.Internal
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

    private static bool Refuse(string why, out Fault fault)
    {
        fault = new Fault(Errno.EINVAL, why);
        return false;
    }
}
