using System.Buffers.Binary;

namespace Virtbus.Hardware.Adapter;

/// <summary>
/// The registers of one function at the places of its make. Accesses come from any thread and take a short lock, the latch: nothing that waits
/// is called under it. What else the function remembers of its rings stands here too, and is the lane's.
/// </summary>
/// <param name="layout">Where the make has them.</param>
/// <param name="limits">What the function has.</param>
/// <param name="windows">What the register of the windows says, the function's own number with it.</param>
/// <param name="macAddress">The function's own Ethernet address.</param>
/// <param name="isLinkUp">Whether the link carries.</param>
internal sealed class FunctionRegisterFile(AdapterLayout layout, in FunctionLimits limits, ulong windows, ulong macAddress, Func<bool> isLinkUp)
{
    private readonly Lock _latch = new();
    private readonly ulong _parts = limits.PartsWord;
    private readonly ulong _queues = limits.QueuesWord;
    private FunctionRegisters _values;
    private SuspendLevel _suspend;
    private long _generation;

    /// <summary>The first Ethernet address; another one while a state from elsewhere is in.</summary>
    internal ulong MacAddress { get; set; } = macAddress;

    /// <summary>How far the function was suspended. Written under the gate.</summary>
    internal SuspendLevel Suspend
    {
        get => _suspend;
        set
        {
            _suspend = value;
            NoteChange();
        }
    }

    /// <summary>A number that changes with the function's state.</summary>
    internal ulong Generation => (ulong)Interlocked.Read(ref _generation);

    /// <summary>What accesses write may be read, the rest is the lane's under the gate.</summary>
    internal ref FunctionRegisters Values => ref _values;

    internal void NoteChange() => Interlocked.Increment(ref _generation);

    /// <summary>Reads of any length: whole words are put together and cut.</summary>
    internal void Read(ulong offset, Span<byte> destination)
    {
        Span<byte> word = stackalloc byte[4];
        while (!destination.IsEmpty)
        {
            var (register, high) = layout.At(offset / 4);
            var value = Read(register);
            BinaryPrimitives.WriteUInt32LittleEndian(word, (uint)(high ? value >> 32 : value));
            var part = word[(int)(offset % 4)..];
            part = part[..Math.Min(part.Length, destination.Length)];
            part.CopyTo(destination);
            destination = destination[part.Length..];
            offset += (ulong)part.Length;
        }
    }

    /// <summary>Writes whole aligned words; anything else is lost.</summary>
    /// <returns>Whether the lane has something to do for it.</returns>
    internal bool Write(ulong offset, ReadOnlySpan<byte> source)
    {
        if (offset % 4 != 0)
            return false;
        var wanted = false;
        for (; source.Length >= 4; source = source[4..], offset += 4)
        {
            var (register, high) = layout.At(offset / 4);
            wanted |= Write(register, high, BinaryPrimitives.ReadUInt32LittleEndian(source));
        }
        return wanted;
    }

    /// <summary>The driver rang for commands: so many since the function was enabled.</summary>
    internal void RingCommands(uint producer)
    {
        Volatile.Write(ref _values.CommandProducer, producer);
        NoteChange();
    }

    /// <summary>The driver rang for events that it took.</summary>
    internal void RingEvents(uint consumer)
    {
        Volatile.Write(ref _values.EventConsumerRung, consumer);
        NoteChange();
    }

    /// <summary>The link changed, which the driver is to be told. Any thread.</summary>
    internal void NoteLink() => Volatile.Write(ref _values.IsLinkUntold, true);

    // What follows is called under the gate.

    /// <summary>All of them as they are now.</summary>
    internal FunctionRegisters Capture()
    {
        lock (_latch)
            return _values;
    }

    /// <summary>Sets all of them; the default is the state after power-on.</summary>
    internal void Replace(FunctionRegisters values)
    {
        lock (_latch)
            _values = values;
        NoteChange();
    }

    /// <summary>Whether the control register asks for what is not so yet.</summary>
    internal bool TryTakeControl(out bool reset, out bool enable)
    {
        var control = Volatile.Read(ref _values.Control);
        reset = (control & AdapterControl.Reset) != 0;
        enable = (control & AdapterControl.Enable) != 0;
        return reset || enable != (_values.IsEnabled || _values.Error == AdapterError.BadRing);
    }

    /// <summary>Takes the rings over that the driver wrote, or lets them go.</summary>
    internal void Enable(bool enable)
    {
        lock (_latch)
        {
            _values.Error = AdapterError.None;
            _values.CommandConsumer = _values.EventProducer = _values.EventConsumer = 0;
            _values.IsLinkUntold = false;
            _values.IsEnabled = enable
                && FunctionRing.TryMake(_values.CommandBase, _values.CommandSize, AdapterCommand.Size, out _values.Commands)
                && FunctionRing.TryMake(_values.EventBase, _values.EventSize, FunctionEvents.EventSize, out _values.Events);
            if (enable && !_values.IsEnabled)
                _values.Error = AdapterError.BadRing;
        }
        NoteChange();
    }

    private ulong Read(AdapterRegister register)
    {
        lock (_latch)
        {
            return register switch
            {
                AdapterRegister.Identity => layout.Identity,
                AdapterRegister.Control => _values.Control,
                AdapterRegister.Status => Status,
                AdapterRegister.Error => (ulong)_values.Error,
                AdapterRegister.Parts => _parts,
                AdapterRegister.Queues => _queues,
                AdapterRegister.Windows => windows,
                AdapterRegister.MacAddress => MacAddress,
                AdapterRegister.CommandBase => _values.CommandBase,
                AdapterRegister.CommandSize => _values.CommandSize,
                AdapterRegister.CommandProducer => _values.CommandProducer,
                AdapterRegister.CommandConsumer => _values.CommandConsumer,
                AdapterRegister.EventBase => _values.EventBase,
                AdapterRegister.EventSize => _values.EventSize,
                AdapterRegister.EventProducer => _values.EventProducer,
                AdapterRegister.EventConsumer => _values.EventConsumerRung,
                _ => 0,
            };
        }
    }

    private uint Status =>
        (_values.IsEnabled ? AdapterStatus.Enabled : 0)
        | (isLinkUp() ? AdapterStatus.LinkUp : 0)
        | (_values.Error != AdapterError.None ? AdapterStatus.Error : 0)
        | (_suspend != SuspendLevel.None ? AdapterStatus.Suspended : 0);

    private bool Write(AdapterRegister register, bool high, uint value)
    {
        lock (_latch)
        {
            // A reset is under way: what is written meanwhile would be lost by it or not, so it always is.
            if ((_values.Control & AdapterControl.Reset) != 0)
                return false;
            switch (register)
            {
                case AdapterRegister.CommandBase:
                    Merge(ref _values.CommandBase, high, value);
                    break;
                case AdapterRegister.EventBase:
                    Merge(ref _values.EventBase, high, value);
                    break;
                case AdapterRegister.CommandSize when !high:
                    _values.CommandSize = value;
                    break;
                case AdapterRegister.EventSize when !high:
                    _values.EventSize = value;
                    break;
                case AdapterRegister.Control when !high:
                    WriteControl(value & (AdapterControl.Enable | AdapterControl.Reset));
                    break;
                default:
                    return false;
            }
        }
        NoteChange();
        return register == AdapterRegister.Control;
    }

    private void WriteControl(uint value)
    {
        // What is rung from here on counts for the rings that are enabled now.
        if ((value & ~_values.Control & AdapterControl.Enable) != 0)
            _values.CommandProducer = _values.EventConsumerRung = 0;
        _values.Control = value;
    }

    private static void Merge(ref ulong register, bool high, uint value) =>
        register = high ? (register & uint.MaxValue) | ((ulong)value << 32) : (register & ~(ulong)uint.MaxValue) | value;
}
