using Virtbus.Memory.Dma;
using Virtbus.Platform;

namespace Virtbus.Hardware.Adapter;

/// <summary>
/// The inside of one function, whatever port it has to the world: what puts its rooms together and works through them. <see cref="Registers"/> and
/// <see cref="Doorbells"/> are what its driver sees, the command and event queue what it talks by, <see cref="Sets"/> and <see cref="Windows"/>
/// what it has made, <see cref="Placement"/> whose thread does the work. Register accesses come from any thread and leave all work to that.
/// </summary>
internal sealed class FunctionUnit : AdapterWork, IFunctionChanges, IMovableState, IDisposable
{
    private const int EventVector = 0;

    private readonly FunctionEvents _events;
    private readonly FunctionCommandQueue _commands;
    private readonly ulong _ownAddress;
    private bool _isReminding;
    // What the physical function wants of this one, in its order. Under its own lock, which an idle function does not have.
    private Queue<DeferredCommand>? _asked;

    internal FunctionUnit(
        AdapterEngine engine, AdapterLayout layout, IFunctionPort port, in FunctionLimits limits, ulong macAddress, FunctionTable? commanded)
    {
        Engine = engine;
        Layout = layout;
        Port = port;
        Limits = limits;
        _ownAddress = macAddress;
        Registers = new FunctionRegisterFile(layout, limits, limits.WindowsWord(port.Identity.Id), macAddress, () => engine.IsLinkUp);
        Placement = new FunctionPlacement(engine, ResetHeld, () => Doorbells!.DetachAll());
        Sets = new FunctionQueueSets(this, Placement, port, Registers, engine.Switch, limits);
        Windows = new FunctionWindows(this, port, limits);
        Doorbells = new FunctionDoorbells(this, layout, Placement, Registers, Sets, Windows, limits.QueueSets, port.Registers.Doorbells);
        _events = new FunctionEvents(Registers);
        _commands = new FunctionCommandQueue(Registers, _events, new FunctionCommands(this, commanded), this);
        engine.Add(this);
    }

    internal AdapterEngine Engine { get; }

    internal AdapterLayout Layout { get; }

    internal IFunctionPort Port { get; }

    internal FunctionLimits Limits { get; }

    internal FunctionRegisterFile Registers { get; }

    internal FunctionDoorbells Doorbells { get; }

    internal FunctionQueueSets Sets { get; }

    internal FunctionWindows Windows { get; }

    internal FunctionPlacement Placement { get; }

    internal override AdapterLane Lane => Placement.Lane;

    internal override FaultSource? Faults => Port.Faults;

    /// <summary>Whether it was disposed. Under the gate.</summary>
    internal bool IsGone { get; private set; }

    /// <summary>A read within its part of the BARs by which it is reached.</summary>
    internal void ReadBar(int bar, ulong offset, Span<byte> destination)
    {
        offset -= Port.Registers.Registers;
        if (bar != FunctionRegisterPlace.RegisterBar)
            destination.Clear();
        else if (offset >= AdapterLayout.WindowBase)
            Windows.Read(offset, destination);
        else
            Registers.Read(offset, destination);
    }

    /// <summary>A write within its part of the BARs by which it is reached.</summary>
    internal void WriteBar(int bar, ulong offset, ReadOnlySpan<byte> source)
    {
        if (bar == FunctionRegisterPlace.DoorbellBar)
            Doorbells.Write(offset, source);
        else if (bar == FunctionRegisterPlace.RegisterBar)
            WriteRegisters(offset - Port.Registers.Registers, source);
    }

    private void WriteRegisters(ulong offset, ReadOnlySpan<byte> source)
    {
        if (offset >= AdapterLayout.WindowBase)
            Windows.Write(offset, source);
        else if (Registers.Write(offset, source))
            Schedule();
    }

    /// <summary>The function is in a port.</summary>
    internal void Plugged(DmaPort dma) => Placement.Plugged(dma);

    /// <summary>The function is out of its port.</summary>
    internal void Unplugged()
    {
        Placement.Unplugged();
        Doorbells.DetachAll();
    }

    /// <summary>All is as after power-on. When the call returns, no DMA and no interrupt is under way.</summary>
    internal void Reset()
    {
        lock (Placement.Gate)
            ResetHeld(userGone: false);
    }

    /// <summary>The physical function wants something of this one. Any thread.</summary>
    internal void Ask(DeferredCommand command)
    {
        var asked = Volatile.Read(ref _asked);
        if (asked is null)
        {
            var made = new Queue<DeferredCommand>();
            asked = Interlocked.CompareExchange(ref _asked, made, null) ?? made;
        }
        lock (asked)
            asked.Enqueue(command);
        Schedule();
    }

    /// <summary>Another function has done a command. Any thread.</summary>
    internal void Done(DeferredCommand command)
    {
        _commands.Done(command);
        Schedule();
    }

    /// <summary>Tells the driver that the link changed.</summary>
    internal void TellLink()
    {
        Registers.NoteLink();
        Schedule();
    }

    public void Dispose()
    {
        Engine.Remove(this);
        lock (Placement.Gate)
            IsGone = true;
        Unplugged();
    }

    internal override bool Run(AdapterLane lane)
    {
        // What others sent before the function is to stand still reaches it.
        if (Volatile.Read(ref _asked) is { Count: > 0 })
            lane.Switching.TakeInbound();
        // It goes to the lane whose it is now.
        if (!Placement.TryEnter(lane))
            return true;
        try
        {
            while (TryTakeAsked(out var command))
                command.Execute();
            return RunHeld();
        }
        finally
        {
            Placement.Gate.Exit();
        }
    }

    /// <summary>Stops the function; it says so in its registers and by its interrupt.</summary>
    internal override void Break(AdapterLane lane)
    {
        if (!Placement.TryEnter(lane))
            return;
        try
        {
            Registers.Values.Error = AdapterError.Internal;
            Registers.NoteChange();
            Port.RaiseVector(EventVector);
        }
        finally
        {
            Placement.Gate.Exit();
        }
    }

    // What follows is called on the lane's thread, under the gate.

    /// <summary>How many queue sets are left; those for frames and the virtqueues of windows come out of one number.</summary>
    internal int FreeQueueSets => Limits.QueueSets - Sets.Count - Windows.Queues;

    internal void SetSuspend(SuspendLevel level)
    {
        if (level == SuspendLevel.Stopped)
            Sets.Flush();
        var wakes = level < Registers.Suspend;
        Registers.Suspend = level;
        if (!wakes)
            return;
        Schedule();
        Sets.Wake(_isReminding);
        if (_isReminding && Registers.Values.IsEnabled)
            Port.RaiseVector(EventVector);
        _isReminding = false;
    }

    /// <inheritdoc/>
    public bool TryPause(out Fault fault)
    {
        SetSuspend(SuspendLevel.Stopped);
        return Done(out fault);
    }

    /// <inheritdoc/>
    public void Resume() => SetSuspend(SuspendLevel.None);

    /// <inheritdoc/>
    public bool TrySave(StateWriter writer, out Fault fault)
    {
        if (Registers.Suspend != SuspendLevel.Stopped)
            return RefuseRunning(out fault);
        if (!Windows.IsEmpty)
        {
            fault = new Fault(Errno.EOPNOTSUPP, "the function has virtio functions, whose state does not move with it");
            return false;
        }
        new FunctionImage(Port.Identity.DeviceId, Registers.MacAddress, Registers.Capture(), [.. Sets.States]).Write(writer);
        return Done(out fault);
    }

    /// <inheritdoc/>
    public bool TryRestore(StateReader reader, out Fault fault)
    {
        if (Registers.Suspend != SuspendLevel.Stopped)
            return RefuseRunning(out fault);
        if (!FunctionImage.TryRead(reader, Port.Identity.DeviceId, Limits, out var image, out fault))
            return false;
        ResetHeld(userGone: false);
        Registers.Suspend = SuspendLevel.Stopped;
        Registers.MacAddress = image.MacAddress;
        Registers.Replace(image.Registers);
        foreach (var (state, untold) in image.QueueSets)
            Sets.Add(state).IsErrorUntold = untold;
        // An interrupt may have been lost on the way from another machine.
        _isReminding = true;
        return Done(out fault);
    }

    private static bool RefuseRunning(out Fault fault)
    {
        fault = new Fault(Errno.EBUSY, "the function does not stand still");
        return false;
    }

    private static bool Done(out Fault fault)
    {
        fault = Fault.None;
        return true;
    }

    bool IFunctionChanges.TryTell(DmaPort dma, uint kept)
    {
        ref var values = ref Registers.Values;
        if (values.IsLinkUntold && _events.Room > kept)
        {
            Volatile.Write(ref values.IsLinkUntold, false);
            if (!_events.TryPost(dma, AdapterEventType.Link, Errno.None, 0, Engine.IsLinkUp ? 1u : 0, 0))
                return false;
        }
        return Sets.TryTell(_events, dma, kept) && Windows.TryTell(_events, dma, kept);
    }

    private bool TryTakeAsked(out DeferredCommand command)
    {
        command = null!;
        if (Volatile.Read(ref _asked) is not { } asked)
            return false;
        lock (asked)
            return asked.TryDequeue(out command!);
    }

    private bool RunHeld()
    {
        if (Registers.Suspend == SuspendLevel.Stopped)
            return false;
        ApplyControl();
        // What is no bus master stands still until the next doorbell.
        using var use = Port.UseDma();
        if (!Registers.Values.IsEnabled || Registers.Values.Error != AdapterError.None || use.Dma is not { } dma)
            return false;
        Registers.NoteChange();
        var more = _events.AcceptConsumer() && _commands.AnswerDeferred(dma) && ((IFunctionChanges)this).TryTell(dma, _commands.Deferred) && _commands.Run(dma);
        // Last, because the handler may change everything.
        if (_events.TakeInterrupt())
            Port.RaiseVector(EventVector);
        return more;
    }

    private void ApplyControl()
    {
        if (!Registers.TryTakeControl(out var reset, out var enable))
            return;
        if (reset)
        {
            ResetHeld(userGone: false);
            return;
        }
        Registers.Enable(enable);
        _commands.Forget();
        if (!enable)
            Sets.Clear();
    }

    private void ResetHeld(bool userGone)
    {
        Sets.Clear();
        Windows.Clear();
        Registers.Suspend = SuspendLevel.None;
        _events.TakeInterrupt();
        _isReminding = false;
        _commands.Forget();
        Registers.Replace(default);
        // One that came with the state of a user elsewhere goes with that user.
        if (userGone)
            Registers.MacAddress = _ownAddress;
    }
}
