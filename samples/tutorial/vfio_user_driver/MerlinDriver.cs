using System.Buffers.Binary;
using Virtbus.Platform;

namespace VfioUserDriver;

/// <summary>The driver proper, by docs/adapter-registers.md: a command ring and an event ring in memory, doorbells, one interrupt vector.</summary>
internal sealed class MerlinDriver
{
    /// <summary>How much of the function's memory, from its begin, is for the two rings; whole pages.</summary>
    public const int MemoryNeeded = 0x2000;

    /// <summary>Arguments: from, to, bytes (1 to 65,536).</summary>
    public const ushort CopyCommand = 2;

    private const int EntriesLog = 6, Entries = 1 << EntriesLog;
    private const int CommandBytes = 64, EventBytes = 32, PhaseAt = 28;
    private const int CommandsAt = 0, EventsAt = CommandsAt + (Entries * CommandBytes);
    private const ushort CommandDone = 1;
    private const int EventVector = 0;
    private const uint Registers = 0, Doorbells = 2;
    private const ulong Control = 0x40, Status = 0x48, Error = 0x50, CommandBase = 0x80, CommandSize = 0x88, EventBase = 0xC0, EventSize = 0xC8;
    private const ulong CommandDoorbell = 0x00, EventDoorbell = 0x08;
    private const ulong Enable = 1, Reset = 2;
    private const ulong Enabled = 1;
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(10);

    private readonly UserFunction _function;
    private uint _commands;
    private uint _events;

    /// <exception cref="VirtbusException">ENODEV: the function is no virtual function of a merlin adapter.</exception>
    public MerlinDriver(UserFunction function)
    {
        _function = function;
        if (function.Identity is var identity and not 0x1002_5642)
            throw new VirtbusException(Errno.ENODEV, $"The function is a {(ushort)identity:x4}:{identity >> 16:x4}. Choose a 5642:1002, a virtual function of a merlin adapter.");
    }

    /// <summary>Resets the function and enables it with empty rings.</summary>
    public void Start()
    {
        Write(Control, Reset);
        Await(Control, Reset, 0);
        _function.Memory.Write(0, new byte[MemoryNeeded]);
        (_commands, _events) = (0, 0);
        Write(CommandBase, _function.AddressOf(CommandsAt));
        Write(CommandSize, EntriesLog);
        Write(EventBase, _function.AddressOf(EventsAt));
        Write(EventSize, EntriesLog);
        Write(Control, Enable);
        Await(Status, Enabled, Enabled);
    }

    /// <summary>Stops the function: it does no DMA any more.</summary>
    public void Stop()
    {
        Write(Control, 0);
        Await(Status, Enabled, 0);
    }

    /// <summary>Gives the function a command and waits for the answer.</summary>
    /// <exception cref="VirtbusException">What the function answered; ETIMEDOUT.</exception>
    public void Run(ushort opcode, params ReadOnlySpan<ulong> arguments)
    {
        Span<byte> command = stackalloc byte[CommandBytes];
        command.Clear();
        var tag = _commands + 1;
        BinaryPrimitives.WriteUInt16LittleEndian(command, opcode);
        BinaryPrimitives.WriteUInt32LittleEndian(command[4..], tag);
        for (var i = 0; i < arguments.Length; i++)
            BinaryPrimitives.WriteUInt64LittleEndian(command[(16 + (8 * i))..], arguments[i]);
        _function.Memory.Write((ulong)(CommandsAt + ((int)(_commands % Entries) * CommandBytes)), command);
        _commands = tag;
        _function.Write64(Doorbells, CommandDoorbell, _commands);

        // An event is in memory before its interrupt, and one interrupt may stand for many events.
        while (true)
        {
            _function.WaitForInterrupt(EventVector, Patience);
            while (TryTakeEvent(out var type, out var status, out var answered))
            {
                if (type != CommandDone || answered != tag)
                    continue;
                if (status != Errno.None)
                    throw new VirtbusException(status, $"The function refused command {opcode}: {status}. docs/adapter-registers.md has the reasons.");
                return;
            }
        }
    }

    private bool TryTakeEvent(out int type, out Errno status, out uint tag)
    {
        var at = (ulong)(EventsAt + ((int)(_events % Entries) * EventBytes));
        Span<byte> entry = stackalloc byte[EventBytes];
        (type, status, tag) = (0, Errno.None, 0);
        // The phase bit is written last, and turns with each pass over the ring.
        _function.Memory.Read(at + PhaseAt, entry[..1]);
        if ((entry[0] & 1) == ((_events >> EntriesLog) & 1))
            return false;
        Thread.MemoryBarrier();
        _function.Memory.Read(at, entry);
        type = BinaryPrimitives.ReadUInt16LittleEndian(entry);
        status = (Errno)BinaryPrimitives.ReadUInt16LittleEndian(entry[2..]);
        tag = BinaryPrimitives.ReadUInt32LittleEndian(entry[4..]);
        _events++;
        _function.Write64(Doorbells, EventDoorbell, _events);
        return true;
    }

    private void Write(ulong register, ulong value) => _function.Write64(Registers, register, value);

    private void Await(ulong register, ulong mask, ulong value)
    {
        if (!SpinWait.SpinUntil(() => (_function.Read64(Registers, register) & mask) == value, Patience))
            throw new VirtbusException(Errno.ETIMEDOUT, $"Register 0x{register:x} of the function does not become 0x{value:x}; its error register is {_function.Read64(Registers, Error)}.");
    }
}
