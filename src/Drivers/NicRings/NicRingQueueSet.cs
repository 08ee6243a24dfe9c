using System.Buffers.Binary;
using System.Numerics;
using Virtbus.Buses.Pci;
using Virtbus.Drivers.Nic;
using Virtbus.Ethernet;
using Virtbus.Memory.Dma;
using Virtbus.Platform;

namespace Virtbus.Drivers.NicRings;

/// <summary>A queue set as a transmit and a receive ring, with the buffers, in memory shared with the adapter.</summary>
internal sealed class NicRingQueueSet : INicQueueSet
{
    private const int DescriptorSize = 16;
    private const int BufferSize = 2048;
    private const int PageSize = 4096;
    private const uint FlagMore = 1;

    // The index block.
    private const int TransmitProducer = 0;
    private const int ReceiveProducer = 4;
    private const int TransmitConsumer = 32;
    private const int ReceiveConsumer = 36;
    private const int DroppedOffset = 40;
    private const int IndexBlockSize = 64;

    private readonly NicCore _core;
    private readonly NicRegisters _registers;
    private readonly DmaBuffer _memory;
    private readonly Lock _transmit = new();
    private readonly Lock _receive = new();
    private readonly uint _mask;
    private readonly int _transmitRing;
    private readonly int _receiveRing;
    private readonly int _transmitBuffers;
    private readonly int _receiveBuffers;
    private byte[]? _whole;
    private uint _transmitted;
    private uint _freed;
    private uint _received;
    private long _dropped;
    private bool _closed;
    private volatile bool _failed;
    private int _disposed;

    internal NicRingQueueSet(NicCore core, NicRegisters registers, IommuGroup group, string user, PciVector vector, int depth)
    {
        _core = core;
        _registers = registers;
        _mask = (uint)depth - 1;
        User = user;
        Vector = vector;
        _transmitRing = IndexBlockSize;
        _receiveRing = _transmitRing + (depth * DescriptorSize);
        _transmitBuffers = (_receiveRing + (depth * DescriptorSize) + PageSize - 1) & -PageSize;
        _receiveBuffers = _transmitBuffers + (depth * BufferSize);
        if (!group.TryAllocate((ulong)(_receiveBuffers + (depth * BufferSize)), out var memory, out var fault))
            throw new VirtbusException(fault.Errno, $"Adapter {core.Device.Name} got no memory for a queue set: {fault.Message}. Use shorter queues.");
        _memory = memory!;
        for (var i = 0u; i <= _mask; i++)
            PostBuffer(i);
        Volatile.Write(ref _memory.Word(ReceiveProducer), (uint)depth);
    }

    public long Dropped
    {
        get
        {
            lock (_transmit)
                return _closed ? _dropped : _dropped = Volatile.Read(ref _memory.Word(DroppedOffset));
        }
    }

    /// <summary>Whom it is for.</summary>
    internal string User { get; }

    internal PciVector Vector { get; }

    internal int Id { get; set; } = -1;

    /// <summary>The arguments of the command that makes the queue set.</summary>
    internal ulong[] Rings
    {
        get
        {
            var start = _memory.Address.Value;
            var log = (ulong)BitOperations.Log2(_mask + 1);
            return [start + (ulong)_transmitRing, start + (ulong)_receiveRing, start, log | (log << 8) | ((ulong)Vector.Index << 16)];
        }
    }

    public bool TryTransmit(ReadOnlySpan<byte> frame, out Fault fault)
    {
        if (!_core.IsLinkUp)
        {
            fault = new Fault(Errno.ENOTCONN, "the link is down");
            return false;
        }
        if (frame.Length is < EthernetFrame.MinLength or > EthernetFrame.MaxLength)
        {
            fault = new Fault(Errno.EMSGSIZE, "the frame is shorter than a header or longer than the adapter takes");
            return false;
        }
        lock (_transmit)
        {
            if (_closed || _failed)
            {
                fault = _closed ? new Fault(Errno.ENOTCONN, "the queue set was given back") : new Fault(Errno.EIO, "the adapter stopped the queue set");
                return false;
            }
            var wanted = (uint)((frame.Length + BufferSize - 1) / BufferSize);
            if (_transmitted + wanted - _freed > _mask + 1)
            {
                _freed = Volatile.Read(ref _memory.Word(TransmitConsumer));
                if (_transmitted + wanted - _freed > _mask + 1)
                {
                    fault = new Fault(Errno.ENOBUFS, "the transmit queue is full");
                    return false;
                }
            }
            PutFrame(frame);
        }
        _registers.RingTransmit(Id);
        fault = Fault.None;
        return true;
    }

    public void StartReceive(Action<ReadOnlySpan<byte>> receive)
    {
        ArgumentNullException.ThrowIfNull(receive);
        // A vector that was raised before it had a handler comes now.
        Vector.SetHandler(() => Receive(receive));
    }

    /// <summary>Gives the queue set back. When it returns, the consumer is not called any more. Not from the consumer.</summary>
    public void Dispose()
    {
        if (Interlocked.Exchange(ref _disposed, 1) == 0)
            _core.Free(this);
    }

    /// <summary>The adapter stopped the queue set.</summary>
    internal void Fail() => _failed = true;

    /// <summary>Frees the memory, when the adapter uses it no more.</summary>
    internal void FreeMemory()
    {
        lock (_transmit)
        {
            _dropped = Volatile.Read(ref _memory.Word(DroppedOffset));
            _closed = true;
        }
        lock (_receive)
            _memory.Dispose();
    }

    private void PutFrame(ReadOnlySpan<byte> frame)
    {
        var memory = _memory.Span;
        while (!frame.IsEmpty)
        {
            var slot = (int)(_transmitted & _mask);
            var part = frame[..Math.Min(frame.Length, BufferSize)];
            frame = frame[part.Length..];
            var buffer = _transmitBuffers + (slot * BufferSize);
            part.CopyTo(memory[buffer..]);
            WriteDescriptor(memory[(_transmitRing + (slot * DescriptorSize))..], buffer, (uint)part.Length, frame.IsEmpty ? 0 : FlagMore);
            _transmitted++;
        }
        // Release: the adapter sees the descriptors and the frame before the index that announces them.
        Volatile.Write(ref _memory.Word(TransmitProducer), _transmitted);
    }

    private void Receive(Action<ReadOnlySpan<byte>> receive)
    {
        lock (_receive)
        {
            uint producer;
            while (_received != (producer = Volatile.Read(ref _memory.Word(ReceiveConsumer))))
            {
                while (_received != producer)
                    ReceiveFrame(receive);
                // The buffers of a batch are given back at once.
                Volatile.Write(ref _memory.Word(ReceiveProducer), _received + _mask + 1);
            }
        }
    }

    private void ReceiveFrame(Action<ReadOnlySpan<byte>> receive)
    {
        var length = 0;
        while (true)
        {
            var slot = (int)(_received & _mask);
            var descriptor = _memory.Span.Slice(_receiveRing + (slot * DescriptorSize), DescriptorSize);
            var size = (int)Math.Min(BinaryPrimitives.ReadUInt32LittleEndian(descriptor[8..]), BufferSize);
            var hasMore = (BinaryPrimitives.ReadUInt32LittleEndian(descriptor[12..]) & FlagMore) != 0;
            var buffer = _memory.Span.Slice(_receiveBuffers + (slot * BufferSize), size);
            if (length == 0 && !hasMore)
                receive(buffer);
            else
            {
                // A frame over several buffers is put together.
                _whole ??= new byte[EthernetFrame.MaxLength];
                buffer[..Math.Min(size, EthernetFrame.MaxLength - length)].CopyTo(_whole.AsSpan(length));
                length += Math.Min(size, EthernetFrame.MaxLength - length);
                if (!hasMore)
                    receive(_whole.AsSpan(0, length));
            }
            PostBuffer(_received++);
            if (!hasMore)
                return;
        }
    }

    private void PostBuffer(uint index)
    {
        var slot = (int)(index & _mask);
        WriteDescriptor(_memory.Span[(_receiveRing + (slot * DescriptorSize))..], _receiveBuffers + (slot * BufferSize), BufferSize, 0);
    }

    private void WriteDescriptor(Span<byte> descriptor, int buffer, uint length, uint flags)
    {
        BinaryPrimitives.WriteUInt64LittleEndian(descriptor, _memory.Address.Value + (ulong)buffer);
        BinaryPrimitives.WriteUInt32LittleEndian(descriptor[8..], length);
        BinaryPrimitives.WriteUInt32LittleEndian(descriptor[12..], flags);
    }
}
