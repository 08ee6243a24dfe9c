using System.Buffers.Binary;
using Virtbus.Ethernet;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;

namespace Virtbus.Hardware.Adapter;

/// <summary>
/// A transmit and a receive ring of descriptors in the driver's memory: one port of the switch. All that moves is done on the lane's thread
/// under the function's gate; what lies in memory is described in docs/adapter-registers.md.
/// </summary>
internal sealed class QueueSet : AdapterWork, IFrameSink
{
    public const int DescriptorSize = 16;
    public const int IndexBlockSize = 64;
    public const uint FlagMore = 1;
    public const uint FlagInterrupt = 2;

    // The index block: the driver's half and the adapter's.
    public const int TransmitProducerOffset = 0;
    public const int ReceiveProducerOffset = 4;
    public const int AdapterHalfOffset = 32;
    private const int AdapterHalfSize = 16;

    private const int FramesPerTurn = 64;
    private const int DescriptorsPerRead = 16;

    private readonly AdapterWork _owner;
    private readonly FunctionPlacement _placement;
    private readonly IFunctionPort _functionPort;
    private readonly FunctionRegisterFile _registers;
    private readonly byte[] _received = new byte[DescriptorsPerRead * DescriptorSize];
    private uint _receiveProducer;
    private uint _cachedFrom;
    private int _cached;
    private bool _interruptWanted;
    private bool _indexesChanged;
    private int _missed;

    /// <summary>Makes one; its port is not on the switch yet.</summary>
    /// <param name="owner">The function, which tells its driver of an error.</param>
    /// <param name="placement">Where that one is worked for.</param>
    /// <param name="port">Its way to memory and interrupts.</param>
    /// <param name="registers">Whether it stands still.</param>
    /// <param name="state">Where the rings are, and how far the adapter is in them.</param>
    internal QueueSet(AdapterWork owner, FunctionPlacement placement, IFunctionPort port, FunctionRegisterFile registers, in QueueSetState state)
    {
        Lane = placement.Lane;
        Port = new SwitchPort(Lane.Switching, this);
        _owner = owner;
        _placement = placement;
        _functionPort = port;
        _registers = registers;
        State = state;
        // Not read before the driver is told of a frame: the set is made before the driver fills its half of the index block.
        _receiveProducer = state.ReceiveConsumer;
    }

    /// <summary>The lane that it was made on; the same one as long as it lives.</summary>
    internal override AdapterLane Lane { get; }

    internal override FaultSource? Faults => _owner.Faults;

    /// <summary>Its place on the switch.</summary>
    internal SwitchPort Port { get; }

    /// <summary>Where the rings are and how far the adapter is in them.</summary>
    internal QueueSetState State { get; private set; }

    /// <summary>Whether the event that tells of the error waits for room.</summary>
    internal bool IsErrorUntold { get; set; }

    internal AdapterError Error => State.Error;

    internal override bool Run(AdapterLane lane)
    {
        if (!_placement.TryEnter(Lane))
            return false;
        try
        {
            if (Port.IsGone || Error != AdapterError.None || _registers.Suspend != SuspendLevel.None)
                return false;
            CountMissed();
            using var use = _functionPort.UseDma();
            return use.Dma is { } dma && Transmit(dma);
        }
        finally
        {
            _placement.Gate.Exit();
        }
    }

    public OffloadKinds Takes => OffloadKinds.None;

    public void Deliver(in EthernetFrame frame)
    {
        if (!_placement.TryEnter(Lane))
            return;
        try
        {
            if (Port.IsGone || Error != AdapterError.None || _registers.Suspend == SuspendLevel.Stopped)
                return;
            using var use = _functionPort.UseDma();
            if (use.Dma is { } dma)
                Receive(dma, frame.Bytes);
        }
        finally
        {
            _placement.Gate.Exit();
        }
    }

    public void Miss()
    {
        Interlocked.Increment(ref _missed);
        Schedule();
    }

    public void Flush()
    {
        if (!_placement.TryEnter(Lane))
            return;
        try
        {
            if (Port.IsGone || _registers.Suspend == SuspendLevel.Stopped)
                return;
            using var use = _functionPort.UseDma();
            if (use.Dma is not { } dma)
                return;
            if (_indexesChanged)
            {
                _indexesChanged = false;
                WriteIndexes(dma);
                _registers.NoteChange();
            }
            if (_interruptWanted)
            {
                _interruptWanted = false;
                _functionPort.RaiseVector(State.Vector);
            }
        }
        finally
        {
            _placement.Gate.Exit();
        }
    }

    internal override void Break(AdapterLane lane)
    {
        if (!_placement.TryEnter(Lane))
            return;
        Fail(AdapterError.Internal);
        _placement.Gate.Exit();
    }

    /// <summary>Raises the interrupt although nothing is known to have happened: one may have been lost on the way from another machine.</summary>
    internal void Remind()
    {
        _indexesChanged = true;
        _interruptWanted = true;
        Lane.Switching.Touch(Port);
        Schedule();
    }

    private void CountMissed()
    {
        var missed = (uint)Interlocked.Exchange(ref _missed, 0);
        if (missed == 0)
            return;
        State = State with { Dropped = State.Dropped + missed };
        _indexesChanged = true;
        Lane.Switching.Touch(Port);
    }

    private bool Transmit(DmaPort dma)
    {
        Span<byte> word = stackalloc byte[4];
        var state = State;
        if (!dma.TryRead(state.At(state.IndexBlock, TransmitProducerOffset), word))
            return Fail(AdapterError.DmaFault);
        var producer = BinaryPrimitives.ReadUInt32LittleEndian(word);
        if (producer - state.TransmitConsumer > state.TransmitSize)
            return Fail(AdapterError.BadIndex);
        Span<byte> descriptors = stackalloc byte[DescriptorsPerRead * DescriptorSize];
        var scratch = Lane.Scratch;
        var next = state.TransmitConsumer;
        var length = 0;
        var frames = 0;
        while (next != producer && frames < FramesPerTurn)
        {
            var at = next & (state.TransmitSize - 1);
            var count = (int)Math.Min(Math.Min(producer - next, DescriptorsPerRead), state.TransmitSize - at);
            var batch = descriptors[..(count * DescriptorSize)];
            if (!dma.TryRead(state.At(state.TransmitRing, at * DescriptorSize), batch))
                return Fail(AdapterError.DmaFault);
            for (; !batch.IsEmpty; batch = batch[DescriptorSize..])
            {
                var size = BinaryPrimitives.ReadUInt32LittleEndian(batch[8..]);
                var flags = BinaryPrimitives.ReadUInt32LittleEndian(batch[12..]);
                if (size == 0 || size > (uint)(EthernetFrame.MaxLength - length) || (flags & ~(FlagMore | FlagInterrupt)) != 0)
                    return Fail(AdapterError.BadDescriptor);
                if (!dma.TryRead(new Iova(BinaryPrimitives.ReadUInt64LittleEndian(batch)), scratch.AsSpan(length, (int)size)))
                    return Fail(AdapterError.DmaFault);
                length += (int)size;
                next++;
                _interruptWanted |= (flags & FlagInterrupt) != 0;
                if ((flags & FlagMore) != 0)
                    continue;
                if (length < EthernetFrame.MinLength)
                    return Fail(AdapterError.BadDescriptor);
                // Given back before it is forwarded: a port of this very function may fail in between.
                State = State with { TransmitConsumer = next };
                _indexesChanged = true;
                Lane.Switching.Forward(Port, new EthernetFrame(scratch.AsSpan(0, length)));
                length = 0;
                frames++;
                if (Port.IsGone || Error != AdapterError.None)
                    return false;
            }
        }
        if (frames > 0)
        {
            Lane.Switching.Touch(Port);
            return next != producer;
        }
        // What is left is the beginning of a frame whose rest the driver has yet to publish, which a full ring cannot hold.
        return producer - state.TransmitConsumer == state.TransmitSize && Fail(AdapterError.BadDescriptor);
    }

    private void Receive(DmaPort dma, ReadOnlySpan<byte> frame)
    {
        var state = State;
        var wanted = (uint)frame.Length;
        uint room = 0;
        var buffers = 0;
        // The room is looked for first: a frame that does not fit as a whole is dropped as a whole.
        while (room < wanted && buffers < DescriptorsPerRead)
        {
            if (!TryGetBuffer(dma, state.ReceiveConsumer + (uint)buffers, out _, out var size))
                break;
            room += Math.Min(size, wanted);
            buffers++;
        }
        if (Error != AdapterError.None)
            return;
        Lane.Switching.Touch(Port);
        _indexesChanged = true;
        if (room < wanted)
        {
            State = State with { Dropped = State.Dropped + 1 };
            return;
        }
        Span<byte> back = stackalloc byte[8];
        for (var i = 0; i < buffers; i++)
        {
            var index = state.ReceiveConsumer + (uint)i;
            TryGetBuffer(dma, index, out var address, out var size);
            var part = frame[..(int)Math.Min(size, (uint)frame.Length)];
            frame = frame[part.Length..];
            BinaryPrimitives.WriteUInt32LittleEndian(back, (uint)part.Length);
            BinaryPrimitives.WriteUInt32LittleEndian(back[4..], i < buffers - 1 ? FlagMore : 0);
            if (!dma.TryWrite(address, part) || !dma.TryWrite(state.At(state.ReceiveRing, ((index & (state.ReceiveSize - 1)) * DescriptorSize) + 8), back))
            {
                Fail(AdapterError.DmaFault);
                return;
            }
        }
        State = State with { ReceiveConsumer = state.ReceiveConsumer + (uint)buffers };
        _interruptWanted = true;
    }

    // Receive descriptors are read many at a time: from the moment that the driver published them they are the adapter's.
    private bool TryGetBuffer(DmaPort dma, uint index, out Iova address, out uint size)
    {
        address = default;
        size = 0;
        var state = State;
        if (index - _cachedFrom >= (uint)_cached)
        {
            if (index == _receiveProducer)
            {
                Span<byte> word = stackalloc byte[4];
                if (!dma.TryRead(state.At(state.IndexBlock, ReceiveProducerOffset), word))
                    return Fail(AdapterError.DmaFault);
                var producer = BinaryPrimitives.ReadUInt32LittleEndian(word);
                if (producer - state.ReceiveConsumer > state.ReceiveSize)
                    return Fail(AdapterError.BadIndex);
                _receiveProducer = producer;
                if (index == producer)
                    return false;
            }
            // A frame over several buffers starts anew at its first one, so that all of it is in the cache.
            var from = state.ReceiveConsumer;
            var count = (int)Math.Min(_receiveProducer - from, DescriptorsPerRead);
            var first = (int)Math.Min((uint)count, state.ReceiveSize - (from & (state.ReceiveSize - 1)));
            if (!dma.TryRead(state.At(state.ReceiveRing, (from & (state.ReceiveSize - 1)) * DescriptorSize), _received.AsSpan(0, first * DescriptorSize))
                || !dma.TryRead(state.ReceiveRing, _received.AsSpan(first * DescriptorSize, (count - first) * DescriptorSize)))
                return Fail(AdapterError.DmaFault);
            _cachedFrom = from;
            _cached = count;
        }
        var descriptor = _received.AsSpan((int)(index - _cachedFrom) * DescriptorSize, DescriptorSize);
        address = new Iova(BinaryPrimitives.ReadUInt64LittleEndian(descriptor));
        size = BinaryPrimitives.ReadUInt32LittleEndian(descriptor[8..]);
        return size > 0 || Fail(AdapterError.BadDescriptor);
    }

    private void WriteIndexes(DmaPort dma)
    {
        Span<byte> half = stackalloc byte[AdapterHalfSize];
        BinaryPrimitives.WriteUInt32LittleEndian(half, State.TransmitConsumer);
        BinaryPrimitives.WriteUInt32LittleEndian(half[4..], State.ReceiveConsumer);
        BinaryPrimitives.WriteUInt32LittleEndian(half[8..], State.Dropped);
        BinaryPrimitives.WriteUInt32LittleEndian(half[12..], (uint)State.Error);
        // The driver sees the indexes after what they speak of.
        Thread.MemoryBarrier();
        if (!dma.TryWrite(State.At(State.IndexBlock, AdapterHalfOffset), half) && Error == AdapterError.None)
            Fail(AdapterError.DmaFault);
    }

    private bool Fail(AdapterError error)
    {
        State = State with { Error = error };
        IsErrorUntold = true;
        _indexesChanged = true;
        Lane.Switching.Touch(Port);
        _owner.Schedule();
        return false;
    }
}
