using Virtbus.Buses.Virtio;
using Virtbus.Ethernet;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;
using Virtbus.Virtio.Rings;

namespace Virtbus.Drivers.VirtioNet;

/// <summary>
/// A transmit queue: frames are copied into slots that the device reads, each with a descriptor, and those it has read are taken back when room is short. The
/// interface's lock of the queue is held in all calls, or nobody sends.
/// </summary>
internal sealed class TransmitRing : IDisposable
{
    internal const int Depth = 256;
    private const int SlotSize = 2048;
    private const int MostHeader = 12;
    /// <summary>Slots of the longest frame.</summary>
    internal const int MostSlots = (MostHeader + EthernetFrame.MaxUncutLength + SlotSize - 1) / SlotSize;

    private readonly DmaBuffer _memory;
    private readonly int _headerSize;
    // Slots that are free, a stack; the first one that a name stands for; and the one behind each of a frame, -1 for the last.
    private readonly int[] _free = new int[Depth];
    private int[] _first = new int[Depth];
    private readonly int[] _next = new int[Depth];
    private int _freeCount;
    private VirtioQueue? _queue;

    internal TransmitRing(VirtioBusDevice device, int headerSize)
    {
        _headerSize = headerSize;
        _memory = device.Allocate(Depth * SlotSize);
    }

    internal void Attach(VirtioQueue queue)
    {
        _freeCount = Math.Min(Depth, queue.Size);
        for (var i = 0; i < _freeCount; i++)
            _free[i] = i;
        // Names are below the queue's size, which of a legacy device may be above ours.
        if (_first.Length < queue.Size)
            _first = new int[queue.Size];
        queue.RequestCalls(false);
        _queue = queue;
    }

    internal void Detach() => _queue = null;

    internal bool TrySend(in EthernetFrame frame, out Fault fault)
    {
        fault = Fault.None;
        if (_queue is not { IsBroken: false } queue)
        {
            fault = new Fault(Errno.EIO, "the device is gone, asleep or broken");
            return false;
        }

        var slots = (_headerSize + frame.Length + SlotSize - 1) / SlotSize;
        if (_freeCount < slots)
        {
            // The device may wait to be told of what is there.
            queue.Kick();
            TakeBack(queue);
        }

        if (_freeCount >= slots && (slots == 1 ? PutOne(queue, frame) : PutMany(queue, frame, slots)))
            return true;
        fault = new Fault(Errno.ENOBUFS, "the transmit queue is full");
        return false;
    }

    internal void Flush()
    {
        if (_queue is not { } queue)
            return;
        queue.Kick();
        if (_freeCount < Depth / 2)
            TakeBack(queue);
    }

    public void Dispose() => _memory.Dispose();

    private void TakeBack(VirtioQueue queue)
    {
        while (queue.TryTake(out var name, out _))
        {
            for (var slot = _first[name]; slot >= 0; slot = _next[slot])
                _free[_freeCount++] = slot;
        }
    }

    private bool PutOne(VirtioQueue queue, in EthernetFrame frame)
    {
        var slot = _free[_freeCount - 1];
        var bytes = _memory.Span.Slice(slot * SlotSize, SlotSize);
        WriteHeader(bytes, frame);
        frame.Bytes.CopyTo(bytes[_headerSize..]);
        _next[slot] = -1;
        return Put(queue, slot, 1, [Buffer(slot, _headerSize + frame.Length)]);
    }

    private bool PutMany(VirtioQueue queue, in EthernetFrame frame, int slots)
    {
        Span<DriverBuffer> parts = stackalloc DriverBuffer[MostSlots];
        var memory = _memory.Span;
        var rest = frame.Bytes;
        for (var i = 0; i < slots; i++)
        {
            var slot = _free[_freeCount - 1 - i];
            var bytes = memory.Slice(slot * SlotSize, SlotSize);
            var used = 0;
            if (i == 0)
            {
                WriteHeader(bytes, frame);
                used = _headerSize;
            }

            var part = rest[..Math.Min(rest.Length, SlotSize - used)];
            part.CopyTo(bytes[used..]);
            rest = rest[part.Length..];
            parts[i] = Buffer(slot, used + part.Length);
            _next[slot] = i == slots - 1 ? -1 : _free[_freeCount - 2 - i];
        }

        return Put(queue, _free[_freeCount - 1], slots, parts[..slots]);
    }

    private bool Put(VirtioQueue queue, int first, int slots, ReadOnlySpan<DriverBuffer> parts)
    {
        var name = queue.Add(parts);
        if (name < 0)
            return false;
        _first[name] = first;
        _freeCount -= slots;
        return true;
    }

    private DriverBuffer Buffer(int slot, int length) => new(new Iova(_memory.Address.Value + ((ulong)slot * SlotSize)), (uint)length, false);

    // What was there is of another frame, or the device's.
    private void WriteHeader(Span<byte> slot, in EthernetFrame frame)
    {
        var header = slot[.._headerSize];
        header.Clear();
        if (frame.Offload.IsNone)
            return;
        // A header that says more than the frame has is refused by hosts, and this is a hint of somebody's.
        var offload = frame.Offload with { HeaderLength = (ushort)Math.Min(frame.Offload.HeaderLength, frame.Length) };
        offload.WriteTo(header, FrameFlags.NeedsChecksum);
    }
}
