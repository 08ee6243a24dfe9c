using System.Buffers.Binary;
using System.Diagnostics;
using Virtbus.Buses.Pci;
using Virtbus.Memory.Dma;
using Virtbus.Platform;

namespace Virtbus.Drivers.Nic;

/// <summary>
/// The command queue and the event ring of a function. Commands come from any thread, one at a time, and wait for their answer; so none may
/// come from an interrupt's handler. Events are handed on in their order, on the thread that raises the interrupt.
/// </summary>
internal sealed class NicChannel : IDisposable
{
    /// <summary>Bytes of the scratch memory for a command's own data.</summary>
    public const int ScratchSize = 1024;

    private const int CommandLog = 4;
    private const int CommandSize = 64;
    private const int EventLog = 6;
    private const int EventSize = 32;
    private const int EventStart = CommandSize << CommandLog;
    private const int ScratchStart = EventStart + (EventSize << EventLog);
    private const int PhaseOffset = 28;
    private const ulong EnableBit = 1;
    private const ulong ResetBit = 2;
    private const ulong EnabledBit = 1;
    private const int Patience = 50;
    private static readonly TimeSpan Deadline = TimeSpan.FromSeconds(5);

    private readonly PciDevice _device;
    private readonly NicRegisters _registers;
    private readonly PciVector _vector;
    private readonly Action<NicNotice> _notify;
    private readonly DmaBuffer _memory;
    private readonly Lock _events = new();
    private readonly ManualResetEventSlim _done = new();
    private uint _producer;
    private uint _consumer;
    private NicNotice _answer;
    private int _answered;
    private bool _isStuck;

    internal NicChannel(PciDevice device, NicRegisters registers, PciVector vector, Action<NicNotice> notify)
    {
        _device = device;
        _registers = registers;
        _vector = vector;
        _notify = notify;
        if (!device.IommuGroup.TryAllocate(ScratchStart + ScratchSize, out var memory, out var fault))
            throw new VirtbusException(fault.Errno, $"Adapter {device.Name} got no memory for its commands: {fault.Message}.");
        _memory = memory!;
    }

    /// <summary>Held by who uses the scratch memory for a command; commands take it themselves.</summary>
    internal Lock Turn { get; } = new();

    /// <summary>The scratch memory. Under <see cref="Turn"/>.</summary>
    internal Span<byte> Scratch => _memory.Span.Slice(ScratchStart, ScratchSize);

    /// <summary>Where the function finds the scratch memory.</summary>
    internal ulong ScratchAddress => _memory.Address.Value + ScratchStart;

    /// <summary>Resets the function and enables it with empty rings.</summary>
    /// <exception cref="VirtbusException">EIO: it does not do so in time.</exception>
    internal void Start()
    {
        lock (Turn)
        {
            _registers.Write(NicRegister.Control, ResetBit);
            Await(NicRegister.Control, ResetBit, 0, "be reset");
            _memory.Span.Clear();
            (_producer, _consumer, _isStuck) = (0, 0, false);
            _registers.Write(NicRegister.CommandBase, _memory.Address.Value);
            _registers.Write(NicRegister.CommandSize, CommandLog);
            _registers.Write(NicRegister.EventBase, _memory.Address.Value + EventStart);
            _registers.Write(NicRegister.EventSize, EventLog);
            _vector.SetHandler(TakeEvents);
            _registers.Write(NicRegister.Control, EnableBit);
            Await(NicRegister.Status, EnabledBit, EnabledBit, "be enabled");
        }
    }

    /// <summary>Executes a command and waits for the answer.</summary>
    /// <param name="opcode">The command.</param>
    /// <param name="index">What it is about.</param>
    /// <param name="arguments">At most six.</param>
    /// <param name="answer">Its results.</param>
    /// <param name="fault">What the function answered; ENODEV: it is gone; EIO: it did not answer.</param>
    internal bool TryExecute(NicOpcode opcode, uint index, ReadOnlySpan<ulong> arguments, out NicNotice answer, out Fault fault)
    {
        lock (Turn)
        {
            answer = default;
            if (_device.IsGone)
            {
                fault = new Fault(Errno.ENODEV, "the adapter is gone");
                return false;
            }
            if (_isStuck)
            {
                fault = new Fault(Errno.EIO, "the adapter did not answer a command before; reset it");
                return false;
            }
            var command = _memory.Span.Slice((int)(_producer & ((1u << CommandLog) - 1)) * CommandSize, CommandSize);
            command.Clear();
            BinaryPrimitives.WriteUInt16LittleEndian(command, (ushort)opcode);
            BinaryPrimitives.WriteUInt32LittleEndian(command[4..], _producer);
            BinaryPrimitives.WriteUInt32LittleEndian(command[8..], index);
            for (var i = 0; i < arguments.Length; i++)
                BinaryPrimitives.WriteUInt64LittleEndian(command[(16 + (8 * i))..], arguments[i]);
            _done.Reset();
            Volatile.Write(ref _answered, 0);
            _producer++;
            _registers.RingCommands(_producer);
            if (!WaitForAnswer(out fault))
                return false;
            answer = _answer;
            fault = answer.Status == Errno.None ? Fault.None : new Fault(answer.Status, "the adapter refused the command");
            return answer.Status == Errno.None;
        }
    }

    /// <summary>Resets the function, so that it does no DMA any more, and frees the memory.</summary>
    public void Dispose()
    {
        _registers.Write(NicRegister.Control, ResetBit);
        _vector.SetHandler(null);
        _memory.Dispose();
        _done.Dispose();
    }

    private bool WaitForAnswer(out Fault fault)
    {
        var since = Stopwatch.GetTimestamp();
        // Most commands are done before a sleep would have begun.
        var spin = default(SpinWait);
        while (Volatile.Read(ref _answered) == 0 && !spin.NextSpinWillYield)
            spin.SpinOnce();
        while (Volatile.Read(ref _answered) == 0)
        {
            if (_done.Wait(Patience))
                continue;
            if (_device.IsGone || _registers.Read(NicRegister.Status) == ulong.MaxValue)
            {
                fault = new Fault(Errno.ENODEV, "the adapter is gone");
                return false;
            }
            if (Stopwatch.GetElapsedTime(since) < Deadline)
                continue;
            _isStuck = true;
            fault = new Fault(Errno.EIO, "the adapter does not answer a command; reset it");
            return false;
        }
        fault = Fault.None;
        return true;
    }

    private void TakeEvents()
    {
        // One at a time: the vector may be unmasked by one thread while another raises it.
        lock (_events)
        {
            var before = _consumer;
            while (TryTakeEvent(out var notice))
            {
                if (notice.Type != NicNoticeType.CommandDone)
                    _notify(notice);
                else if (notice.Tag == Volatile.Read(ref _producer) - 1)
                {
                    _answer = notice;
                    Volatile.Write(ref _answered, 1);
                    _done.Set();
                }
            }
            if (_consumer != before)
                _registers.RingEvents(_consumer);
        }
    }

    private bool TryTakeEvent(out NicNotice notice)
    {
        notice = default;
        var at = EventStart + ((int)(_consumer & ((1u << EventLog) - 1)) * EventSize);
        var phase = Volatile.Read(ref _memory.Word((ulong)(at + PhaseOffset)));
        if ((phase & 1) != (~(_consumer >> EventLog) & 1))
            return false;
        var entry = _memory.Span.Slice(at, EventSize);
        notice = new NicNotice(
            (NicNoticeType)BinaryPrimitives.ReadUInt16LittleEndian(entry),
            (Errno)BinaryPrimitives.ReadUInt16LittleEndian(entry[2..]),
            BinaryPrimitives.ReadUInt32LittleEndian(entry[4..]),
            BinaryPrimitives.ReadUInt64LittleEndian(entry[8..]),
            BinaryPrimitives.ReadUInt64LittleEndian(entry[16..]));
        _consumer++;
        return true;
    }

    private void Await(NicRegister register, ulong mask, ulong wanted, string what)
    {
        var since = Stopwatch.GetTimestamp();
        var spin = default(SpinWait);
        while (true)
        {
            var value = _registers.Read(register);
            if (value == ulong.MaxValue || Stopwatch.GetElapsedTime(since) > Deadline)
                throw new VirtbusException(Errno.EIO, $"Adapter {_device.Name} would not {what} (register {register} is 0x{value:x}). Reset its slot.");
            if ((value & mask) == wanted)
                return;
            spin.SpinOnce(sleep1Threshold: -1);
        }
    }
}
