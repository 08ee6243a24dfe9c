using System.Buffers.Binary;
using System.Diagnostics;
using Virtbus.Buses.Pci;
using Virtbus.Memory.Dma;
using Virtbus.Platform;

namespace Virtbus.Drivers.NicRings;

/// <summary>
/// The command queue and the event ring of a function. Commands come from any thread and wait for their answer; so none may come from an
/// interrupt's handler. They come one at a time, but for those that a virtual function has to do, whose user may keep it busy: others go on
/// beside them. Events are handed on in their order, on the thread that raises the interrupt.
/// </summary>
internal sealed class NicChannel : IDisposable
{
    /// <summary>Bytes of the scratch memory for a command's own data.</summary>
    public const int ScratchSize = 1024;

    /// <summary>Bytes of the memory for the data of a command that others go on beside.</summary>
    public const int AsideSize = 4096;

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
    // Commands of virtual functions at a time. The ring has room for more, so that the others always find a place.
    private const int MaxAside = 8;
    private static readonly TimeSpan Deadline = TimeSpan.FromSeconds(5);
    private static readonly TimeSpan AsideDeadline = TimeSpan.FromSeconds(60);

    private readonly PciDevice _device;
    private readonly NicRegisters _registers;
    private readonly PciVector _vector;
    private readonly Action<NicNotice> _notify;
    private readonly DmaBuffer _memory;
    private readonly Lock _events = new();
    // Guards the commands that wait for their answers, and is pulsed for each answer.
    private readonly object _answers = new();
    private readonly Call?[] _calls = new Call?[1 << CommandLog];
    private uint _producer;
    private uint _consumer;
    private int _aside;
    private bool _isStuck;
    private volatile bool _isEnded;

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
            ForgetCalls();
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

    /// <summary>Memory for the data of a command that others go on beside.</summary>
    internal bool TryAllocate(out DmaBuffer? buffer, out Fault fault) => _device.IommuGroup.TryAllocate(AsideSize, out buffer, out fault);

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
            if (TryPost(opcode, index, arguments, isAside: false, out var call, out fault) && TryAwait(call!, out fault))
                return TryTake(call!, out answer, out fault);
            answer = default;
            return false;
        }
    }

    /// <summary>Executes a command that a virtual function has to do; others go on meanwhile.</summary>
    /// <param name="opcode">The command.</param>
    /// <param name="index">The virtual function.</param>
    /// <param name="arguments">At most six.</param>
    /// <param name="answer">Its results.</param>
    /// <param name="fault">As of <see cref="TryExecute"/>; ETIMEDOUT: the virtual function, or others before it, do not come to rest.</param>
    internal bool TryExecuteAside(NicOpcode opcode, uint index, ReadOnlySpan<ulong> arguments, out NicNotice answer, out Fault fault)
    {
        answer = default;
        if (!TryEnterAside(out fault))
            return false;
        Call? call;
        lock (Turn)
        {
            if (!TryPost(opcode, index, arguments, isAside: true, out call, out fault))
            {
                LeaveAside();
                return false;
            }
        }
        return TryAwait(call!, out fault) && TryTake(call!, out answer, out fault);
    }

    /// <summary>Resets the function, so that it does no DMA any more, and frees the memory.</summary>
    /// <remarks>Commands that wait end at once, and no command comes after it (ENODEV).</remarks>
    public void Dispose()
    {
        _isEnded = true;
        _registers.Write(NicRegister.Control, ResetBit);
        _vector.SetHandler(null);
        ForgetCalls();
        // Who writes a command has the turn.
        lock (Turn)
            _memory.Dispose();
    }

    // Under the turn.
    private bool TryPost(NicOpcode opcode, uint index, ReadOnlySpan<ulong> arguments, bool isAside, out Call? call, out Fault fault)
    {
        call = null;
        if (_device.IsGone || _isEnded)
            return Refuse(Errno.ENODEV, "the adapter is gone", out fault);
        if (_isStuck)
            return Refuse(Errno.EIO, "the adapter did not answer a command before; reset it", out fault);
        lock (_answers)
        {
            // The place is in the tag, the rest of which tells an answer from one that nobody waits for any more.
            var place = Array.IndexOf(_calls, null);
            _calls[place] = call = new Call((_producer << CommandLog) | (uint)place, isAside);
        }
        var command = _memory.Span.Slice((int)(_producer & ((1u << CommandLog) - 1)) * CommandSize, CommandSize);
        command.Clear();
        BinaryPrimitives.WriteUInt16LittleEndian(command, (ushort)opcode);
        BinaryPrimitives.WriteUInt32LittleEndian(command[4..], call.Tag);
        BinaryPrimitives.WriteUInt32LittleEndian(command[8..], index);
        for (var i = 0; i < arguments.Length; i++)
            BinaryPrimitives.WriteUInt64LittleEndian(command[(16 + (8 * i))..], arguments[i]);
        _producer++;
        _registers.RingCommands(_producer);
        fault = Fault.None;
        return true;
    }

    private bool TryAwait(Call call, out Fault fault)
    {
        var since = Stopwatch.GetTimestamp();
        // Most commands are done before a sleep would have begun.
        var spin = default(SpinWait);
        while (!call.IsDone && !spin.NextSpinWillYield)
            spin.SpinOnce();
        while (!WaitForAnswer(call))
        {
            if (_device.IsGone || _isEnded || _registers.Read(NicRegister.Status) == ulong.MaxValue)
                return Refuse(Errno.ENODEV, "the adapter is gone", out fault);
            if (Stopwatch.GetElapsedTime(since) < (call.IsAside ? AsideDeadline : Deadline))
                continue;
            if (call.IsAside)
                return Refuse(Errno.ETIMEDOUT, "the virtual function does not come to rest", out fault);
            _isStuck = true;
            return Refuse(Errno.EIO, "the adapter does not answer a command; reset it", out fault);
        }
        fault = Fault.None;
        return true;
    }

    private bool WaitForAnswer(Call call)
    {
        lock (_answers)
            return call.IsDone || (Monitor.Wait(_answers, Patience) && call.IsDone);
    }

    private static bool TryTake(Call call, out NicNotice answer, out Fault fault)
    {
        answer = call.Answer;
        fault = answer.Status == Errno.None ? Fault.None : new Fault(answer.Status, "the adapter refused the command");
        return answer.Status == Errno.None;
    }

    private bool TryEnterAside(out Fault fault)
    {
        var since = Stopwatch.GetTimestamp();
        lock (_answers)
        {
            while (_aside == MaxAside && !_device.IsGone && Stopwatch.GetElapsedTime(since) < AsideDeadline)
                Monitor.Wait(_answers, Patience);
            fault = _aside < MaxAside ? Fault.None : new Fault(Errno.ETIMEDOUT, "other virtual functions do not come to rest");
            if (_aside < MaxAside)
                _aside++;
            return fault == Fault.None;
        }
    }

    private void LeaveAside()
    {
        lock (_answers)
        {
            _aside--;
            Monitor.PulseAll(_answers);
        }
    }

    // One that was given up keeps its place until the answer comes: the function has it still.
    private void TakeAnswer(in NicNotice notice)
    {
        lock (_answers)
        {
            var place = notice.Tag & ((1u << CommandLog) - 1);
            if (_calls[place] is not { } call || call.Tag != notice.Tag)
                return;
            _calls[place] = null;
            if (call.IsAside)
                _aside--;
            call.End(notice);
            Monitor.PulseAll(_answers);
        }
    }

    // The function is reset: nothing of before is answered.
    private void ForgetCalls()
    {
        lock (_answers)
        {
            for (var place = 0u; place < _calls.Length; place++)
            {
                if (_calls[place] is { } call)
                    TakeAnswer(new NicNotice(NicNoticeType.CommandDone, Errno.EIO, call.Tag, 0, 0));
            }
        }
    }

    private static bool Refuse(Errno errno, string why, out Fault fault)
    {
        fault = new Fault(errno, why);
        return false;
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
                else
                    TakeAnswer(notice);
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

    private sealed class Call(uint tag, bool isAside)
    {
        private volatile bool _isDone;

        public uint Tag => tag;

        public bool IsAside => isAside;

        public bool IsDone => _isDone;

        public NicNotice Answer { get; private set; }

        public void End(in NicNotice answer)
        {
            Answer = answer;
            _isDone = true;
        }
    }
}
