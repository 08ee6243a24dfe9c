using System.Buffers.Binary;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Pci;
using Virtbus.Platform;
using Virtbus.Virtio;

namespace Virtbus.Hardware.Adapter;

/// <summary>
/// The inside of one function, physical or virtual: registers, command queue, events, queue sets. Register accesses come from any thread,
/// take a short lock, and leave all work to the function's lane.
/// </summary>
/// <remarks>
/// Two locks. The latch guards what accesses write; nothing is called under it. The gate is held by the lane's thread while it does DMA and
/// raises interrupts for the function, and by who resets the function: once they have it, none of that is under way. A lane takes the gates
/// of its own functions only, so one that waits for a user holds up nobody else; only a lane holds two gates at a time.
/// The file is long: what the latch guards is written by accesses and read by the lane, and both stand here.
/// </remarks>
internal sealed class FunctionUnit : AdapterWork, IDisposable
{
    public const int EventSize = 32;
    public const int MaxCopy = 0x10000;
    public const int DoorbellBar = 2;
    private const int NotifyStride = 4;
    private const int EventPhaseOffset = 28;
    private const int CommandsPerTurn = 16;
    private const int EventVector = 0;
    private const int GatePatience = 10;

    private readonly Lock _latch = new();
    private readonly FunctionCommands _commands;
    private readonly ulong _ownAddress;
    private AdapterLane _lane;
    private DmaPort? _dma;
    private IDisposable? _watch;
    private FunctionRegisters _registers;
    private Dictionary<int, TransmitSignal>? _signals;
    private QueueSet?[]? _sets;
    private VirtioWindow?[]? _windows;
    private bool _interruptWanted;
    private bool _isReminding;
    private bool _hasUser;
    private long _generation;
    // Commands that virtual functions are at, of the enabling that the epoch counts.
    private uint _deferred;
    private uint _epoch;
    // What the physical function wants of a virtual one, in its order. Under the latch.
    private Queue<VirtualCommand>? _asked;

    internal FunctionUnit(
        AdapterEngine engine, AdapterLayout layout, IFunctionSlot slot, in FunctionLimits limits, int virtualIndex, ulong macAddress, VirtualFunctionTable? virtualFunctions)
    {
        Engine = engine;
        _lane = engine.Common;
        Layout = layout;
        Slot = slot;
        Limits = limits;
        VirtualIndex = virtualIndex;
        _ownAddress = MacAddress = macAddress;
        _commands = new FunctionCommands(this, virtualFunctions);
        engine.Add(this);
    }

    internal AdapterEngine Engine { get; }

    internal AdapterLayout Layout { get; }

    internal IFunctionSlot Slot { get; }

    internal FunctionLimits Limits { get; }

    /// <summary>The virtual function's number; -1 for the physical one.</summary>
    internal int VirtualIndex { get; }

    internal ulong MacAddress { get; private set; }

    internal Lock Gate { get; } = new();

    internal override AdapterLane Lane => Volatile.Read(ref _lane);

    internal override FaultSource? Faults => Slot.Faults;

    /// <summary>Whether it was disposed. Under the gate.</summary>
    internal bool IsGone { get; private set; }

    internal SuspendLevel Suspend { get; private set; }

    /// <summary>Changes with the function's state.</summary>
    internal ulong Generation => (ulong)Interlocked.Read(ref _generation);

    internal void NoteChange() => Interlocked.Increment(ref _generation);

    internal void ReadRegisters(ulong offset, Span<byte> destination)
    {
        if (offset >= AdapterLayout.WindowBase)
        {
            destination.Clear();
            if (TryGetWindow(offset, out var window, out var within))
                window.Read(within, destination);
            return;
        }
        // Any length: whole words are put together and cut.
        Span<byte> word = stackalloc byte[4];
        while (!destination.IsEmpty)
        {
            var (register, high) = Layout.At(offset / 4);
            var value = Read(register);
            BinaryPrimitives.WriteUInt32LittleEndian(word, (uint)(high ? value >> 32 : value));
            var part = word[(int)(offset % 4)..];
            part = part[..Math.Min(part.Length, destination.Length)];
            part.CopyTo(destination);
            destination = destination[part.Length..];
            offset += (ulong)part.Length;
        }
    }

    internal void WriteRegisters(ulong offset, ReadOnlySpan<byte> source)
    {
        if (offset >= AdapterLayout.WindowBase)
        {
            if (TryGetWindow(offset, out var window, out var within))
                window.Write(within, source);
            return;
        }
        // Registers are written in whole aligned words; anything else is lost.
        if (offset % 4 != 0)
            return;
        for (; source.Length >= 4; source = source[4..], offset += 4)
        {
            var (register, high) = Layout.At(offset / 4);
            Write(register, high, BinaryPrimitives.ReadUInt32LittleEndian(source));
        }
    }

    internal void WriteDoorbells(ulong offset, ReadOnlySpan<byte> source)
    {
        if (offset >= AdapterLayout.WindowBase)
        {
            if (TryGetWindow(offset, out var window, out var within) && within % NotifyStride == 0)
                window.Notify(within / NotifyStride);
            return;
        }
        if (source.Length is not (4 or 8))
            return;
        var value = BinaryPrimitives.ReadUInt32LittleEndian(source);
        if (offset == (ulong)Layout.CommandDoorbell)
            Ring(ref _registers.CommandProducer, value);
        else if (offset == (ulong)Layout.EventDoorbell)
            Ring(ref _registers.EventConsumerRung, value);
        else if (TryGetTransmitDoorbell(offset, out var set))
            RingTransmit(set);
    }

    /// <summary>The doorbells that an eventfd can stand for: those whose value says nothing.</summary>
    internal IReadOnlyList<PciDoorbell> Doorbells
    {
        get
        {
            var doorbells = new List<PciDoorbell>();
            for (var i = 0; i < Limits.QueueSets; i++)
                doorbells.Add(new PciDoorbell(DoorbellBar, (ulong)(Layout.TransmitDoorbell + (i * Layout.TransmitStride)), 4));
            foreach (var window in Windows)
            {
                for (var i = 0; i < window.QueueCount; i++)
                    doorbells.Add(new PciDoorbell(DoorbellBar, (ulong)(AdapterLayout.WindowBase + (window.Index * AdapterLayout.WindowSize) + (i * NotifyStride)), 4));
            }
            return doorbells;
        }
    }

    /// <summary>Lets signals of an eventfd stand for writes to a doorbell.</summary>
    internal bool TryAttachDoorbell(in PciDoorbell doorbell, EventFd? signal, out Fault fault)
    {
        fault = Fault.None;
        if (doorbell is { Bar: DoorbellBar, Match: null })
        {
            if (doorbell.Offset < AdapterLayout.WindowBase && TryGetTransmitDoorbell(doorbell.Offset, out var set))
            {
                AttachTransmit(set, signal);
                return true;
            }
            if (TryGetWindow(doorbell.Offset, out var window, out var within) && within % NotifyStride == 0 && within / NotifyStride < window.QueueCount)
            {
                window.AttachNotify(within / NotifyStride, signal);
                return true;
            }
        }
        fault = new Fault(Errno.ENOENT, "the adapter has no doorbell of that place whose value says nothing");
        return false;
    }

    private bool TryGetTransmitDoorbell(ulong offset, out int set)
    {
        var distance = offset - (ulong)Layout.TransmitDoorbell;
        set = (int)(distance / (ulong)Layout.TransmitStride);
        return distance < (ulong)(Limits.QueueSets * Layout.TransmitStride) && distance % (ulong)Layout.TransmitStride == 0;
    }

    private void AttachTransmit(int set, EventFd? signal)
    {
        TransmitSignal? old;
        lock (_latch)
        {
            _signals ??= [];
            _signals.Remove(set, out old);
            if (signal is not null)
                _signals[set] = new TransmitSignal(this, set, signal.Duplicate());
        }
        old?.Dispose();
    }

    /// <summary>Takes all eventfds off.</summary>
    internal void DetachAll()
    {
        Dictionary<int, TransmitSignal>? all;
        lock (_latch)
        {
            all = _signals;
            _signals = null;
        }
        foreach (var signal in all?.Values ?? Enumerable.Empty<TransmitSignal>())
            signal.Dispose();
    }

    /// <summary>The function is in a slot: who owns its DMA decides from now on which lane works for it.</summary>
    internal void Plugged(DmaPort dma)
    {
        lock (Gate)
            _dma = dma;
        _watch = dma.Group.Observe(null, ChooseLane);
        ChooseLane();
    }

    /// <summary>The function is out of its slot.</summary>
    internal void Unplugged()
    {
        _watch?.Dispose();
        lock (Gate)
        {
            _dma = null;
            ResetHeld();
        }
        ChooseLane();
        DetachAll();
    }

    /// <summary>Takes the gate for a lane; never waits while another lane has it.</summary>
    /// <returns>False when another lane works for the function by now.</returns>
    internal bool TryEnter(AdapterLane lane)
    {
        while (Lane == lane)
        {
            // Else it is one who resets the function, and perhaps gives it to a lane that holds the gate for long.
            if (!Gate.TryEnter(GatePatience))
                continue;
            if (Lane == lane)
                return true;
            Gate.Exit();
        }
        return false;
    }

    /// <summary>All is as after power-on. When the call returns, no DMA and no interrupt is under way.</summary>
    internal void Reset()
    {
        lock (Gate)
            ResetHeld();
    }

    /// <summary>The physical function wants something of this virtual one. Any thread.</summary>
    internal void Ask(VirtualCommand command)
    {
        lock (_latch)
            (_asked ??= new Queue<VirtualCommand>()).Enqueue(command);
        Schedule();
    }

    /// <summary>A virtual function has done a command. Any thread.</summary>
    internal void Done(VirtualCommand command) => _commands.Done(command);

    /// <summary>Tells the driver what happened in a virtio window. Any thread.</summary>
    internal void TellVirtio() => Schedule();

    /// <summary>Tells the driver that the link changed.</summary>
    internal void TellLink()
    {
        Volatile.Write(ref _registers.IsLinkUntold, true);
        Schedule();
    }

    public void Dispose()
    {
        Engine.Remove(this);
        lock (Gate)
            IsGone = true;
        Unplugged();
    }

    internal override bool Run(AdapterLane lane)
    {
        // What others sent before the function is to stand still reaches it.
        if (Volatile.Read(ref _asked) is { Count: > 0 })
            lane.Switching.TakeInbound();
        // It goes to the lane whose it is now.
        if (!TryEnter(lane))
            return true;
        try
        {
            while (TryTakeAsked(out var command))
                command.Execute();
            return RunHeld();
        }
        finally
        {
            Gate.Exit();
        }
    }

    /// <summary>Stops the function; it says so in its registers and by its interrupt.</summary>
    internal override void Break(AdapterLane lane)
    {
        if (!TryEnter(lane))
            return;
        try
        {
            _registers.Error = AdapterError.Internal;
            NoteChange();
            Slot.RaiseVector(EventVector);
        }
        finally
        {
            Gate.Exit();
        }
    }

    // What follows is called on the lane's thread, under the gate.

    /// <summary>Has a virtual function do a command; the answer comes when it has.</summary>
    internal void Defer(VirtualCommand command)
    {
        _deferred++;
        command.Begin(_epoch);
    }

    internal Errno CreateQueueSet(in QueueSetState wanted, out ushort id)
    {
        id = 0;
        _sets ??= new QueueSet?[Limits.QueueSets];
        var free = Array.IndexOf(_sets, null);
        if (free < 0)
            return Errno.ENOSPC;
        id = (ushort)free;
        var state = wanted with { Id = id };
        if (!state.IsValid(Limits))
            return Errno.EINVAL;
        AddQueueSet(state);
        return Errno.None;
    }

    internal Errno DestroyQueueSet(uint id)
    {
        if (_sets is null || id >= (uint)_sets.Length || _sets[id] is not { } set)
            return Errno.ENOENT;
        // What it did so far is shown before it goes.
        set.Flush();
        Engine.Switch.Leave(set.Port);
        _sets[id] = null;
        return Errno.None;
    }

    /// <summary>How many virtqueues its windows have.</summary>
    internal int WindowQueues => Windows.Sum(w => w.QueueCount);

    /// <summary>Gives a virtio device a window.</summary>
    internal Errno AddWindow(VirtioDevice device, DmaPort dma, out int index)
    {
        _windows ??= new VirtioWindow?[Limits.Windows];
        index = Array.IndexOf(_windows, null);
        if (index < 0)
            return Errno.ENOSPC;
        // Two with one PASID would be told of each other's memory.
        if (Windows.Any(w => w.Pasid == dma.Pasid))
            return Errno.EBUSY;
        Volatile.Write(ref _windows[index], new VirtioWindow(this, index, device, dma));
        return Errno.None;
    }

    /// <summary>Takes a virtio device out that its driver has reset.</summary>
    internal Errno RemoveWindow(uint index)
    {
        if (_windows is null || index >= (uint)_windows.Length || _windows[index] is not { } window)
            return Errno.ENOENT;
        // Its queues would have to be waited for, and with them all functions.
        if (window.IsInUse)
            return Errno.EBUSY;
        Volatile.Write(ref _windows[index], null);
        window.Dispose();
        return Errno.None;
    }

    /// <summary>Whether there is a virtio device in it; its state is none that could be moved.</summary>
    internal bool HasWindows => Windows.Any();

    internal void SetSuspend(SuspendLevel level)
    {
        if (level == SuspendLevel.Stopped)
        {
            foreach (var set in Sets)
                set.Flush();
        }
        var wakes = level < Suspend;
        Suspend = level;
        NoteChange();
        if (!wakes)
            return;
        Schedule();
        foreach (var set in Sets)
        {
            if (_isReminding)
                set.Remind();
            else
                set.Schedule();
        }
        if (_isReminding && _registers.IsEnabled)
            Slot.RaiseVector(EventVector);
        _isReminding = false;
    }

    /// <summary>The whole state of a function that stands still.</summary>
    internal FunctionImage Capture()
    {
        lock (_latch)
            return new FunctionImage(Layout.VirtualDeviceId, MacAddress, _registers, [.. Sets.Select(s => (s.State, s.IsErrorUntold))]);
    }

    /// <summary>Takes a state over; the function stands still until it is resumed.</summary>
    internal void Restore(FunctionImage image)
    {
        ResetHeld();
        Suspend = SuspendLevel.Stopped;
        MacAddress = image.MacAddress;
        lock (_latch)
            _registers = image.Registers;
        foreach (var (state, untold) in image.QueueSets)
            AddQueueSet(state).IsErrorUntold = untold;
        _isReminding = true;
    }

    private IEnumerable<VirtioWindow> Windows => Volatile.Read(ref _windows)?.OfType<VirtioWindow>() ?? [];

    private bool TryGetWindow(ulong offset, out VirtioWindow window, out int within)
    {
        var at = offset - AdapterLayout.WindowBase;
        within = (int)(at % AdapterLayout.WindowSize);
        var windows = Volatile.Read(ref _windows);
        window = (windows is not null && at / AdapterLayout.WindowSize < (ulong)windows.Length ? Volatile.Read(ref windows[at / AdapterLayout.WindowSize]) : null)!;
        return window is not null;
    }

    private IEnumerable<QueueSet> Sets => _sets?.OfType<QueueSet>() ?? [];

    private ulong Read(AdapterRegister register)
    {
        lock (_latch)
        {
            return register switch
            {
                AdapterRegister.Identity => Layout.Identity,
                AdapterRegister.Control => _registers.Control,
                AdapterRegister.Status => Status,
                AdapterRegister.Error => (ulong)_registers.Error,
                AdapterRegister.Parts => Limits.PartsWord,
                AdapterRegister.Queues => Limits.QueuesWord,
                AdapterRegister.Windows => Limits.WindowsWord(VirtualIndex),
                AdapterRegister.MacAddress => MacAddress,
                AdapterRegister.CommandBase => _registers.CommandBase,
                AdapterRegister.CommandSize => _registers.CommandSize,
                AdapterRegister.CommandProducer => _registers.CommandProducer,
                AdapterRegister.CommandConsumer => _registers.CommandConsumer,
                AdapterRegister.EventBase => _registers.EventBase,
                AdapterRegister.EventSize => _registers.EventSize,
                AdapterRegister.EventProducer => _registers.EventProducer,
                AdapterRegister.EventConsumer => _registers.EventConsumerRung,
                _ => 0,
            };
        }
    }

    private uint Status =>
        (_registers.IsEnabled ? AdapterStatus.Enabled : 0)
        | (Engine.IsLinkUp ? AdapterStatus.LinkUp : 0)
        | (_registers.Error != AdapterError.None ? AdapterStatus.Error : 0)
        | (Suspend != SuspendLevel.None ? AdapterStatus.Suspended : 0);

    private void Write(AdapterRegister register, bool high, uint value)
    {
        lock (_latch)
        {
            // A reset is under way: what is written meanwhile would be lost by it or not, so it always is.
            if ((_registers.Control & AdapterControl.Reset) != 0)
                return;
            switch (register)
            {
                case AdapterRegister.CommandBase:
                    Merge(ref _registers.CommandBase, high, value);
                    break;
                case AdapterRegister.EventBase:
                    Merge(ref _registers.EventBase, high, value);
                    break;
                case AdapterRegister.CommandSize when !high:
                    _registers.CommandSize = value;
                    break;
                case AdapterRegister.EventSize when !high:
                    _registers.EventSize = value;
                    break;
                case AdapterRegister.Control when !high:
                    WriteControl(value & (AdapterControl.Enable | AdapterControl.Reset));
                    break;
                default:
                    return;
            }
        }
        NoteChange();
        if (register == AdapterRegister.Control)
            Schedule();
    }

    private void WriteControl(uint value)
    {
        // What is rung from here on counts for the rings that are enabled now.
        if ((value & ~_registers.Control & AdapterControl.Enable) != 0)
            _registers.CommandProducer = _registers.EventConsumerRung = 0;
        _registers.Control = value;
    }

    private static void Merge(ref ulong register, bool high, uint value) =>
        register = high ? (register & uint.MaxValue) | ((ulong)value << 32) : (register & ~(ulong)uint.MaxValue) | value;

    private void Ring(ref uint doorbell, uint value)
    {
        Volatile.Write(ref doorbell, value);
        NoteChange();
        Schedule();
    }

    private void RingTransmit(int index) => Volatile.Read(ref _sets)?[index]?.Schedule();

    private QueueSet AddQueueSet(in QueueSetState state)
    {
        _sets ??= new QueueSet?[Limits.QueueSets];
        var set = new QueueSet(this, state);
        Volatile.Write(ref _sets[state.Id], set);
        Lane.Switching.Join(set.Port);
        return set;
    }

    private bool TryTakeAsked(out VirtualCommand command)
    {
        command = null!;
        lock (_latch)
            return _asked?.TryDequeue(out command!) == true;
    }

    private bool RunHeld()
    {
        if (Suspend == SuspendLevel.Stopped)
            return false;
        ApplyControl();
        // What is no bus master stands still until the next doorbell.
        using var use = Slot.UseDma();
        if (!_registers.IsEnabled || _registers.Error != AdapterError.None || use.Dma is not { } dma)
            return false;
        NoteChange();
        var more = AcceptEventConsumer() && AnswerDeferred(dma) && TellChanges(dma, _deferred) && RunCommands(dma);
        // Last, because the handler may change everything.
        if (_interruptWanted)
        {
            _interruptWanted = false;
            Slot.RaiseVector(EventVector);
        }
        return more;
    }

    // What a user set up ends with its ownership, and nothing of it is done by the lane that was its own, nor by the one that all share.
    private void ChooseLane()
    {
        AdapterLane old;
        lock (Gate)
        {
            old = Lane;
            var user = _dma is { Group.OwnerKind: DmaOwnerKind.User } ? _dma : null;
            if (user is not null == _hasUser)
                return;
            _hasUser = user is not null;
            ResetHeld();
            // One that came with the state of a user elsewhere goes with that user.
            MacAddress = _ownAddress;
            var next = user is null ? Engine.Common : Engine.OpenLane(user.Name);
            lock (_latch)
                Volatile.Write(ref _lane, next);
        }
        DetachAll();
        Engine.CloseLane(old);
    }

    private void ResetHeld()
    {
        RemoveQueueSets();
        VirtioWindow[] windows = [.. Windows];
        Volatile.Write(ref _windows, null);
        foreach (var window in windows)
            window.Dispose();
        Suspend = SuspendLevel.None;
        _interruptWanted = false;
        _isReminding = false;
        ForgetDeferred();
        lock (_latch)
            _registers = default;
        NoteChange();
    }

    // Their answers are of before, and passed over.
    private void ForgetDeferred()
    {
        _epoch++;
        _deferred = 0;
    }

    private void RemoveQueueSets()
    {
        foreach (var set in Sets)
            Engine.Switch.Leave(set.Port);
        _sets = null;
    }

    private void ApplyControl()
    {
        var control = Volatile.Read(ref _registers.Control);
        if ((control & AdapterControl.Reset) != 0)
        {
            ResetHeld();
            return;
        }
        var enable = (control & AdapterControl.Enable) != 0;
        if (enable == (_registers.IsEnabled || _registers.Error == AdapterError.BadRing))
            return;
        lock (_latch)
        {
            _registers.Error = AdapterError.None;
            _registers.CommandConsumer = _registers.EventProducer = _registers.EventConsumer = 0;
            _registers.IsLinkUntold = false;
            _registers.IsEnabled = enable
                && FunctionRing.TryMake(_registers.CommandBase, _registers.CommandSize, AdapterCommand.Size, out _registers.Commands)
                && FunctionRing.TryMake(_registers.EventBase, _registers.EventSize, EventSize, out _registers.Events);
            if (enable && !_registers.IsEnabled)
                _registers.Error = AdapterError.BadRing;
        }
        ForgetDeferred();
        if (!enable)
            RemoveQueueSets();
        NoteChange();
    }

    private bool AcceptEventConsumer()
    {
        var rung = Volatile.Read(ref _registers.EventConsumerRung);
        if (rung - _registers.EventConsumer > _registers.EventProducer - _registers.EventConsumer)
            return FailHeld(AdapterError.BadIndex);
        _registers.EventConsumer = rung;
        return true;
    }

    private uint EventRoom => _registers.Events.Count - (_registers.EventProducer - _registers.EventConsumer);

    // What has no room now, or only that which is kept for an answer, is told when the driver has taken events.
    private bool TellChanges(DmaPort dma, uint kept)
    {
        if (_registers.IsLinkUntold && EventRoom > kept)
        {
            Volatile.Write(ref _registers.IsLinkUntold, false);
            if (!TryPost(dma, AdapterEventType.Link, Errno.None, 0, Engine.IsLinkUp ? 1u : 0, 0))
                return false;
        }
        foreach (var set in _sets ?? [])
        {
            if (set is not { IsErrorUntold: true } || EventRoom <= kept)
                continue;
            set.IsErrorUntold = false;
            if (!TryPost(dma, AdapterEventType.QueueError, Errno.None, set.State.Id, (ulong)set.Error, 0))
                return false;
        }
        return _windows is null || TellWindows(dma, _windows, kept);
    }

    private bool TellWindows(DmaPort dma, VirtioWindow?[] windows, uint kept)
    {
        foreach (var window in windows)
        {
            if (window is null)
                continue;
            while (EventRoom > kept && window.TryTakeFault(out var queue, out var errno))
            {
                if (!TryPost(dma, AdapterEventType.VirtioError, errno, (uint)window.Index, (ulong)queue, 0))
                    return false;
            }
            if (EventRoom > kept && window.TakeConfigChange() && !TryPost(dma, AdapterEventType.VirtioConfig, Errno.None, (uint)window.Index, 0, 0))
                return false;
        }
        return true;
    }

    private bool AnswerDeferred(DmaPort dma)
    {
        while (_commands.TryTakeDone(out var command))
        {
            if (command.Epoch != _epoch)
                continue;
            _deferred--;
            var status = command.Finish(dma, out var first);
            if (!TryPost(dma, AdapterEventType.CommandDone, status, command.Tag, first, 0))
                return false;
        }
        return true;
    }

    private bool RunCommands(DmaPort dma)
    {
        Span<byte> bytes = stackalloc byte[AdapterCommand.Size];
        for (var n = 0; n < CommandsPerTurn; n++)
        {
            var waiting = Volatile.Read(ref _registers.CommandProducer) - _registers.CommandConsumer;
            // A command is taken only when its answer has room, beside those of the deferred ones; the driver's event doorbell goes on here.
            if (waiting == 0 || EventRoom <= _deferred)
                return false;
            if (waiting > _registers.Commands.Count)
                return FailHeld(AdapterError.BadIndex);
            if (!dma.TryRead(_registers.Commands.At(_registers.CommandConsumer, AdapterCommand.Size), bytes))
                return FailHeld(AdapterError.DmaFault);
            _registers.CommandConsumer++;
            var command = new AdapterCommand(bytes);
            var isDone = _commands.TryExecute(command, dma, out var status, out var first, out var second);
            // What the command caused is told before its answer.
            if (!TellChanges(dma, isDone ? _deferred + 1 : _deferred))
                return false;
            if (isDone && !TryPost(dma, AdapterEventType.CommandDone, status, command.Tag, first, second))
                return false;
        }
        return true;
    }

    private bool TryPost(DmaPort dma, AdapterEventType type, Errno status, uint tag, ulong first, ulong second)
    {
        Span<byte> entry = stackalloc byte[EventSize];
        entry.Clear();
        BinaryPrimitives.WriteUInt16LittleEndian(entry, (ushort)type);
        BinaryPrimitives.WriteUInt16LittleEndian(entry[2..], (ushort)status);
        BinaryPrimitives.WriteUInt32LittleEndian(entry[4..], tag);
        BinaryPrimitives.WriteUInt64LittleEndian(entry[8..], first);
        BinaryPrimitives.WriteUInt64LittleEndian(entry[16..], second);
        // 1 in the first pass over the ring, 0 in the second, and so on.
        BinaryPrimitives.WriteUInt32LittleEndian(entry[EventPhaseOffset..], ~(_registers.EventProducer >> _registers.Events.Log) & 1);
        var at = _registers.Events.At(_registers.EventProducer, EventSize);
        if (!dma.TryWrite(at, entry[..EventPhaseOffset]))
            return FailHeld(AdapterError.DmaFault);
        // The phase comes last: a driver that sees it sees the rest.
        Thread.MemoryBarrier();
        if (!dma.TryWrite(new Iova(at.Value + EventPhaseOffset), entry[EventPhaseOffset..]))
            return FailHeld(AdapterError.DmaFault);
        _registers.EventProducer++;
        _interruptWanted = true;
        return true;
    }

    private bool FailHeld(AdapterError error)
    {
        _registers.Error = error;
        _interruptWanted = true;
        return false;
    }

    /// <summary>An eventfd whose signals stand for writes to a queue set's doorbell.</summary>
    private sealed class TransmitSignal : AdapterWork, IDisposable
    {
        private readonly FunctionUnit _unit;
        private readonly AdapterLane _lane;
        private readonly int _set;
        private readonly EventFd _signal;
        private readonly PollClient? _listener;

        internal TransmitSignal(FunctionUnit unit, int set, EventFd signal)
        {
            _unit = unit;
            _set = set;
            _signal = signal;
            _lane = unit.Lane;
            _listener = _lane.Listen(signal, this);
        }

        internal override AdapterLane Lane => _lane;

        internal override bool Run(AdapterLane lane)
        {
            _unit.RingTransmit(_set);
            return false;
        }

        public void Dispose()
        {
            AdapterLane.Unlisten(_listener);
            _signal.Dispose();
        }
    }
}
