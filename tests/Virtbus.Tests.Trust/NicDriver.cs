using System.Buffers.Binary;
using System.Diagnostics;
using Virtbus.Memory;
using Virtbus.Platform;
using Virtbus.Remote.Pci.VfioUser;
using static Virtbus.Tests.Trust.NicRegister;

namespace Virtbus.Tests.Trust;

/// <summary>
/// A guest's driver of a function of a merlin adapter: command and event ring, and queue sets, all in the guest's memory. It goes on when memory and
/// function are those of another machine.
/// </summary>
/// <param name="client">The function.</param>
/// <param name="memory">The guest's memory.</param>
/// <param name="memoryBase">Where the function finds the memory.</param>
/// <param name="at">Where in the memory the driver's part begins, a multiple of 64; it has <see cref="MemoryNeeded"/> bytes.</param>
internal sealed class NicDriver(VfioUserClient client, GuestMemory memory, Iova memoryBase, int at)
{
    public const int Sets = 2;
    public const int MemoryNeeded = SetsAt + (Sets * NicQueueSet.MemoryNeeded);
    public const int CommandDone = 1;
    private const int CommandBytes = 64, EventBytes = 32, PhaseAt = 28;
    private const int CommandLog = 5, EventLog = 6;
    private const int CommandsAt = 0;
    private const int EventsAt = CommandsAt + (CommandBytes << CommandLog);
    private const int SetsAt = EventsAt + (EventBytes << EventLog);
    private const ushort CopyOpcode = 2, CreateOpcode = 3, DestroyOpcode = 4;

    private readonly NicQueueSet?[] _sets = new NicQueueSet?[Sets];
    private uint _commands;
    private uint _answered;
    private uint _events;

    /// <summary>The function that is driven.</summary>
    public VfioUserClient Client { get; set; } = client;

    public GuestMemory Memory => memory;

    /// <summary>Events that are no answers to commands: link, queue errors. They are left to who looks.</summary>
    public List<(int Type, uint Tag, ulong Result)> News { get; } = [];

    /// <summary>The queue sets that were made.</summary>
    public NicQueueSet this[int set] => _sets[set] ?? throw new DeviceFailure("the queue set was not made");

    public Iova AddressOf(int offset) => new(memoryBase.Value + (ulong)(at + offset));

    /// <summary>Resets the function and enables it with empty rings.</summary>
    /// <param name="patience">How long each step may take.</param>
    public Fault Start(TimeSpan patience)
    {
        _commands = _answered = _events = 0;
        Array.Clear(_sets);
        News.Clear();
        memory.Write(at, new byte[SetsAt]);
        var fault = Write(Control, Reset);
        if (fault == Fault.None)
            fault = Await(Control, Reset, 0, patience);
        Span<(ulong Register, ulong Value)> rings =
        [
            (CommandBase, AddressOf(CommandsAt).Value), (CommandSize, CommandLog), (EventBase, AddressOf(EventsAt).Value), (EventSize, EventLog), (Control, Enable),
        ];
        foreach (var (register, value) in rings)
        {
            if (fault == Fault.None)
                fault = Write(register, value);
        }
        return fault == Fault.None ? Await(Status, Enabled | Stopped, Enabled, patience) : fault;
    }

    /// <summary>Makes a queue set.</summary>
    /// <param name="set">Its number, which is the next one.</param>
    /// <param name="vector">Its interrupt vector.</param>
    /// <param name="patience">How long that may take.</param>
    public Fault CreateSet(int set, int vector, TimeSpan patience)
    {
        var made = new NicQueueSet(this, set, SetsAt + (set * NicQueueSet.MemoryNeeded), vector);
        made.Clear();
        var fault = Execute(CreateOpcode, 0, [made.TransmitRing.Value, made.ReceiveRing.Value, made.IndexBlock.Value, made.Sizes], patience, out var number);
        if (fault == Fault.None && number != (uint)set)
            fault = new Fault(Errno.EPROTO, "the queue set has another number than the next one");
        if (fault == Fault.None)
            _sets[set] = made;
        return fault;
    }

    public Fault DestroySet(int set, TimeSpan patience)
    {
        _sets[set] = null;
        return Execute(DestroyOpcode, (uint)set, [], patience, out _);
    }

    /// <summary>Has the function copy memory.</summary>
    public Fault Copy(int from, int to, int count, TimeSpan patience) =>
        Execute(CopyOpcode, 0, [AddressOf(from).Value, AddressOf(to).Value, (ulong)count], patience, out _);

    /// <summary>Gives the function a command and waits for the answer.</summary>
    public Fault Execute(ushort opcode, uint index, ReadOnlySpan<ulong> arguments, TimeSpan patience, out ulong result)
    {
        result = 0;
        if (!TryPost(opcode, index, arguments))
            return new Fault(Errno.EAGAIN, "the command ring is full");
        var tag = _commands;
        var (answer, value) = (Fault.None, 0UL);
        if (!Patient.Await(Client, () => TryTakeAnswer(tag, out answer, out value), patience))
            return new Fault(Errno.ETIMEDOUT, "the command was not answered");
        result = value;
        return answer;
    }

    /// <summary>Gives the function a command.</summary>
    /// <returns>False when the ring is full.</returns>
    public bool TryPost(ushort opcode, uint index, ReadOnlySpan<ulong> arguments)
    {
        if (_commands - _answered == 1u << CommandLog)
            return false;
        Span<byte> bytes = stackalloc byte[CommandBytes];
        bytes.Clear();
        BinaryPrimitives.WriteUInt16LittleEndian(bytes, opcode);
        BinaryPrimitives.WriteUInt32LittleEndian(bytes[4..], _commands + 1);
        BinaryPrimitives.WriteUInt32LittleEndian(bytes[8..], index);
        for (var i = 0; i < arguments.Length; i++)
            BinaryPrimitives.WriteUInt64LittleEndian(bytes[(16 + (8 * i))..], arguments[i]);
        memory.Write(at + CommandsAt + ((int)(_commands & ((1u << CommandLog) - 1)) * CommandBytes), bytes);
        Thread.MemoryBarrier();
        _commands++;
        Ring(CommandDoorbell, _commands);
        return true;
    }

    /// <summary>Gives the function a copy to do, and waits for nothing.</summary>
    public void PostCopy(int from, int to, int count) => TryPost(CopyOpcode, 0, [AddressOf(from).Value, AddressOf(to).Value, (ulong)count]);

    /// <summary>Takes all events that are there.</summary>
    public void TakeEvents()
    {
        while (TryTakeEvent(out _, out _, out _, out _))
        {
            // Each was looked at.
        }
    }

    /// <summary>Whether commands wait for their answers.</summary>
    public bool IsBusy => _commands != _answered;

    public void Ring(ulong doorbell, uint value)
    {
        Span<byte> bytes = stackalloc byte[4];
        BinaryPrimitives.WriteUInt32LittleEndian(bytes, value);
        Client.TryWrite(DoorbellBar, doorbell, bytes, out _);
    }

    /// <summary>All registers.</summary>
    public byte[] ReadRegisters()
    {
        var bytes = new byte[Count];
        return Client.TryRead(RegisterBar, 0, bytes, out var fault) ? bytes : throw new DeviceFailure($"registers: {fault.Errno} {fault.Message}");
    }

    /// <summary>What lies at a place of the driver's part of the memory.</summary>
    public uint Read32(int offset) => memory.Read32(at + offset);

    public void Read(int offset, Span<byte> bytes) => memory.Read(at + offset, bytes);

    public void Write32(int offset, uint value) => memory.Write32(at + offset, value);

    public void Write(int offset, ReadOnlySpan<byte> bytes) => memory.Write(at + offset, bytes);

    private bool TryTakeAnswer(uint tag, out Fault fault, out ulong result)
    {
        while (TryTakeEvent(out var type, out var status, out var answered, out result))
        {
            if (type != CommandDone || answered != tag)
                continue;
            fault = status == 0 ? Fault.None : new Fault((Errno)status, "the command was refused");
            return true;
        }
        fault = Fault.None;
        return false;
    }

    private bool TryTakeEvent(out int type, out int status, out uint tag, out ulong result)
    {
        Span<byte> bytes = stackalloc byte[EventBytes];
        var place = at + EventsAt + ((int)(_events & ((1u << EventLog) - 1)) * EventBytes);
        (type, status, tag, result) = (0, 0, 0, 0);
        var phase = ~(_events >> EventLog) & 1;
        if ((memory.Read32(place + PhaseAt) & 1) != phase)
            return false;
        Thread.MemoryBarrier();
        memory.Read(place, bytes);
        type = BinaryPrimitives.ReadUInt16LittleEndian(bytes);
        status = BinaryPrimitives.ReadUInt16LittleEndian(bytes[2..]);
        tag = BinaryPrimitives.ReadUInt32LittleEndian(bytes[4..]);
        result = BinaryPrimitives.ReadUInt64LittleEndian(bytes[8..]);
        _events++;
        if (type == CommandDone)
            _answered++;
        else
            News.Add((type, tag, result));
        Ring(EventDoorbell, _events);
        return true;
    }

    private Fault Write(ulong register, ulong value)
    {
        Span<byte> bytes = stackalloc byte[8];
        BinaryPrimitives.WriteUInt64LittleEndian(bytes, value);
        return Client.TryWrite(RegisterBar, register, bytes, out var fault) ? Fault.None : fault;
    }

    private Fault Await(ulong register, ulong mask, ulong wanted, TimeSpan patience)
    {
        Span<byte> bytes = stackalloc byte[8];
        var begin = Stopwatch.GetTimestamp();
        while (true)
        {
            if (!Client.TryRead(RegisterBar, register, bytes, out var fault))
                return fault;
            if ((BinaryPrimitives.ReadUInt64LittleEndian(bytes) & mask) == wanted)
                return Fault.None;
            if (Stopwatch.GetElapsedTime(begin) > patience)
                return new Fault(Errno.ETIMEDOUT, "a register does not become what it has to");
        }
    }
}
