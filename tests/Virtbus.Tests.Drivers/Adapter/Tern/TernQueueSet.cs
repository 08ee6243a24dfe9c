using System.Buffers.Binary;
using Virtbus.Buses.Pci;
using Virtbus.Drivers.Nic;
using Virtbus.Memory.Dma;
using Virtbus.Platform;

namespace Virtbus.Tests.Drivers.Adapter.Tern;

/// <summary>One ring of slots for both directions; whose a slot is stands in it.</summary>
internal sealed class TernQueueSet : INicQueueSet
{
    private const int Slots = 16;
    private const int BufferSize = 2048;
    private const int Buffers = 4096;
    private readonly PciRegion _registers;
    private readonly DmaBuffer _memory;
    private readonly PciVector _vector;
    private readonly Action<int> _free;
    private readonly int _port;
    private readonly Lock _lock = new();
    private int _nextSend;
    private int _nextReceive = 1;
    private bool _isClosed;

    public TernQueueSet(PciDevice device, int port, PciVector vector, Action<int> free)
    {
        _registers = device.GetRegion(0);
        (_port, _vector, _free) = (port, vector, free);
        if (!device.IommuGroup.TryAllocate(Buffers + (Slots * BufferSize), out var memory, out var fault))
            throw new VirtbusException(fault.Errno, fault.Message);
        _memory = memory!;
        for (var slot = 1; slot < Slots; slot += 2)
            Publish(slot, BufferSize);
        Write(TernFunction.RingLow, (uint)_memory.Address.Value);
        Write(TernFunction.RingHigh, (uint)(_memory.Address.Value >> 32));
        Write(TernFunction.RingSlots, Slots);
    }

    public long Dropped => 0;

    public bool TryTransmit(ReadOnlySpan<byte> frame, out Fault fault)
    {
        lock (_lock)
        {
            fault = _isClosed ? new Fault(Errno.ENOTCONN, "the queue set was given back")
                : frame.Length > BufferSize ? new Fault(Errno.EMSGSIZE, "the frame is longer than a buffer")
                : Owner(_nextSend) != TernFunction.OwnedByDriver ? new Fault(Errno.ENOBUFS, "the ring is full")
                : Fault.None;
            if (fault != Fault.None)
                return false;
            frame.CopyTo(_memory.Span[(Buffers + (_nextSend * BufferSize))..]);
            Publish(_nextSend, frame.Length);
            _nextSend = (_nextSend + 2) % Slots;
        }
        Write(TernFunction.Doorbell, 1);
        return true;
    }

    public void StartReceive(Action<ReadOnlySpan<byte>> receive) => _vector.SetHandler(() =>
    {
        lock (_vector)
        {
            while (Owner(_nextReceive) == TernFunction.OwnedByDriver)
            {
                var length = BinaryPrimitives.ReadInt32LittleEndian(_memory.Span[((_nextReceive * TernFunction.SlotSize) + 8)..]);
                receive(_memory.Span.Slice(Buffers + (_nextReceive * BufferSize), length));
                Publish(_nextReceive, BufferSize);
                _nextReceive = (_nextReceive + 2) % Slots;
            }
        }
    });

    public void Dispose()
    {
        lock (_lock)
        {
            if (_isClosed)
                return;
            _isClosed = true;
        }
        Write(TernFunction.RingSlots, 0);
        _vector.SetHandler(null);
        _memory.Dispose();
        _free(_port);
    }

    private uint Owner(int slot) => Volatile.Read(ref _memory.Word((ulong)((slot * TernFunction.SlotSize) + TernFunction.OwnerOffset)));

    private void Publish(int slot, int length)
    {
        var entry = _memory.Span.Slice(slot * TernFunction.SlotSize, TernFunction.SlotSize);
        BinaryPrimitives.WriteUInt64LittleEndian(entry, _memory.Address.Value + (ulong)(Buffers + (slot * BufferSize)));
        BinaryPrimitives.WriteInt32LittleEndian(entry[8..], length);
        Volatile.Write(ref _memory.Word((ulong)((slot * TernFunction.SlotSize) + TernFunction.OwnerOffset)), TernFunction.OwnedByHardware);
    }

    private void Write(int register, uint value) => _registers.Write32((ulong)(TernFunction.PortBase + (_port * TernFunction.PortStride) + register), value);
}
