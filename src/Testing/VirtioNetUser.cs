using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Models.VirtioNet;
using Virtbus.Platform;
using Virtbus.Virtio;
using Virtbus.Virtio.Rings;
using static Virtbus.Models.VirtioNet.VirtioNetConfig;
using static Virtbus.Virtio.VirtioStatus;

namespace Virtbus.Testing;

/// <summary>
/// Sends and receives by a virtio network device model as its driver does (VIRTIO 1.3, 5.1.6), with no bus between them: rings in memory of its own, receive
/// buffers always offered, sent buffers taken back as room is needed. Each queue is used by one thread at a time; nothing is allocated per frame.
/// </summary>
public sealed class VirtioNetUser : IDisposable
{
    private const ulong Base = 0x100000;
    private const int CommandBytes = 20 << 10;
    private readonly VirtioNetDevice _device;
    private readonly HostMemory _memory;
    private readonly IoAddressSpace _space = new();
    private readonly int _queueSize;
    private readonly int _slotSize;
    private readonly ulong _queueBytes;
    private readonly ulong _ringBytes;
    private readonly DriverRing[] _rings;
    // Which slot a buffer that is out lies in, by its name.
    private readonly int[][] _slots;
    private readonly int[][] _free;
    private readonly int[] _freeCount;

    /// <summary>Brings a device up.</summary>
    /// <param name="device">The device; it stays the caller's, and is reset when this is disposed.</param>
    /// <param name="without">Features that the device offers and the driver does not take.</param>
    /// <param name="queueSize">One that the device allows.</param>
    /// <param name="slotSize">Bytes of a buffer, header included; frames that are longer take several where the driver took VIRTIO_NET_F_MRG_RXBUF.</param>
    /// <exception cref="ExpectationException">The device refuses a step.</exception>
    public VirtioNetUser(VirtioNetDevice device, VirtioFeatures without = default, int queueSize = 64, int slotSize = 2048)
    {
        ArgumentNullException.ThrowIfNull(device);
        _device = device;
        Features = device.DeviceFeatures & ~without;
        HeaderSize = Features.Has(VIRTIO_NET_F_HASH_REPORT) ? 20 : Features.Has(VirtioFeatures.VIRTIO_F_VERSION_1) || Features.Has(VIRTIO_NET_F_MRG_RXBUF) ? 12 : 10;
        _queueSize = queueSize;
        _slotSize = (slotSize + 63) & ~63;
        _ringBytes = (Math.Max(SplitDriverRing.BytesFor(queueSize), PackedDriverRing.BytesFor(queueSize)) + 4095) & ~4095UL;
        _queueBytes = (_ringBytes + Math.Max((ulong)queueSize * (ulong)_slotSize, CommandBytes) + 4095) & ~4095UL;
        var pairs = Features.Has(VIRTIO_NET_F_MQ) || Features.Has(VIRTIO_NET_F_RSS) ? device.QueuePairs : 1;
        ControlQueue = 2 * pairs;
        var queues = ControlQueue + (Features.Has(VIRTIO_NET_F_CTRL_VQ) ? 1 : 0);
        _memory = HostMemory.Allocate("virtio-net-user", _queueBytes * (ulong)queues, out var file);
        file.Dispose();
        if (!_space.TryMap(new Iova(Base), _memory.Size, _memory, 0, DmaAccess.ReadWrite, out var fault))
            throw Refused("map of memory", fault);
        var dma = new StandaloneDma("virtio-net-user");
        dma.Attach(_space);
        device.SetDma(dma.Port);
        // Looked at only when somebody says so: what is not told of is not found by chance.
        for (var queue = 0; queue < device.QueueCount; queue++)
            device.SetQueueKick(queue, null, polls: false);
        _rings = new DriverRing[queues];
        _slots = new int[queues][];
        _free = new int[queues][];
        _freeCount = new int[queues];
        Start();
    }

    /// <summary>What driver and device have settled on.</summary>
    public VirtioFeatures Features { get; }

    /// <summary>Bytes of a frame's header.</summary>
    public int HeaderSize { get; }

    /// <summary>Number of the control queue.</summary>
    public int ControlQueue { get; }

    /// <summary>The memory, for a test that writes where a driver does not: the rings lie in it too.</summary>
    public HostMemory Memory => _memory;

    /// <summary>The ring of a queue, for a test that puts something unusual into it.</summary>
    /// <param name="queue">Its number.</param>
    public DriverRing Ring(int queue) => _rings[queue];

    /// <summary>Where in <see cref="Memory"/> the ring of a queue begins.</summary>
    /// <param name="queue">Its number.</param>
    public ulong RingOffset(int queue) => (ulong)queue * _queueBytes;

    /// <summary>Where the device finds a slot of a queue.</summary>
    /// <param name="queue">The queue.</param>
    /// <param name="slot">The slot, below the queue's size.</param>
    public Iova Place(int queue, int slot) => new(Base + Offset(queue, slot));

    /// <summary>Writes into a slot.</summary>
    /// <param name="queue">The queue.</param>
    /// <param name="slot">The slot.</param>
    /// <param name="at">Bytes from its start.</param>
    /// <param name="bytes">What.</param>
    public void Write(int queue, int slot, int at, ReadOnlySpan<byte> bytes) => _memory.Write(Offset(queue, slot) + (ulong)at, bytes);

    /// <summary>Puts a frame into a transmit queue, in one buffer; the device sees it after <see cref="Push"/>.</summary>
    /// <param name="queue">An odd number.</param>
    /// <param name="header">struct virtio_net_hdr; what is left out of it is 0.</param>
    /// <param name="frame">The frame; empty leaves what the slot has from the last time.</param>
    /// <param name="length">Bytes of the frame where it is not given; that of the frame otherwise.</param>
    /// <returns>False when the ring is full.</returns>
    public bool TryPut(int queue, ReadOnlySpan<byte> header, ReadOnlySpan<byte> frame, int length = 0)
    {
        if (_freeCount[queue] == 0 && Reclaim(queue) == 0)
            return false;
        var slot = _free[queue][--_freeCount[queue]];
        var at = Offset(queue, slot);
        Span<byte> whole = stackalloc byte[20];
        whole.Clear();
        header.CopyTo(whole);
        // The line stays the device's where nothing in it changes.
        var there = _memory.Take(at, HeaderSize).AsSpan();
        if (!there.SequenceEqual(whole[..HeaderSize]))
            whole[..HeaderSize].CopyTo(there);
        if (!frame.IsEmpty)
        {
            length = frame.Length;
            _memory.Write(at + (ulong)HeaderSize, frame);
        }

        Add(queue, slot, (uint)(HeaderSize + length), false);
        return true;
    }

    /// <summary>Lets the device see what was put, and kicks it when it wants that.</summary>
    /// <param name="queue">The queue.</param>
    public void Push(int queue)
    {
        if (_rings[queue].Publish())
            _device.KickQueue(queue);
    }

    /// <summary>Sends one frame.</summary>
    /// <param name="frame">The frame.</param>
    /// <param name="header">Its header; none is all 0.</param>
    /// <param name="queue">An odd number.</param>
    /// <exception cref="ExpectationException">The ring is full.</exception>
    public void Send(ReadOnlySpan<byte> frame, ReadOnlySpan<byte> header = default, int queue = 1)
    {
        if (!TryPut(queue, header, frame))
            throw new ExpectationException($"Queue {queue} has no room.");
        Push(queue);
    }

    /// <summary>Takes back what the device has sent.</summary>
    /// <param name="queue">An odd number.</param>
    /// <returns>How many buffers.</returns>
    /// <exception cref="ExpectationException">The device broke the ring.</exception>
    public int Reclaim(int queue)
    {
        var count = 0;
        while (TryTakeUsed(queue, out var slot, out _))
        {
            _free[queue][_freeCount[queue]++] = slot;
            count++;
        }

        return count;
    }

    /// <summary>Takes a received frame, and offers its buffers anew, which the device sees after <see cref="Push"/>.</summary>
    /// <param name="queue">An even number.</param>
    /// <param name="destination">Header and frame go there, as much as there is room for.</param>
    /// <returns>Bytes of header and frame; 0 when nothing came.</returns>
    /// <exception cref="ExpectationException">The device broke the ring, or a frame is not whole.</exception>
    public int Take(int queue, Span<byte> destination)
    {
        if (!TryTakeUsed(queue, out var slot, out var written))
            return 0;
        Span<byte> count = stackalloc byte[2];
        var buffers = 1;
        if (HeaderSize > 10)
        {
            _memory.Read(Offset(queue, slot) + 10, count);
            buffers = count[0] | (count[1] << 8);
        }

        var length = Collect(queue, slot, written, destination, 0);
        while (--buffers > 0)
        {
            if (!TryTakeUsed(queue, out slot, out written))
                throw new ExpectationException("A frame's buffers were not handed back together.");
            length = Collect(queue, slot, written, destination, length);
        }

        return length;
    }

    /// <summary>Waits for a frame, and offers its buffers anew.</summary>
    /// <param name="queue">An even number.</param>
    /// <returns>Header and frame.</returns>
    /// <exception cref="TimeoutException">None comes.</exception>
    public byte[] Receive(int queue = 0)
    {
        var bytes = new byte[66000];
        var length = 0;
        Deadline.Until(() => (length = Take(queue, bytes)) > 0, "a frame");
        Push(queue);
        return bytes[..length];
    }

    /// <summary>Gives the device a command, and waits for the answer.</summary>
    /// <param name="class">Its class.</param>
    /// <param name="command">Its number.</param>
    /// <param name="data">What belongs to it; up to 20,000 bytes.</param>
    /// <returns>VIRTIO_NET_OK, 0, or VIRTIO_NET_ERR, 1.</returns>
    /// <exception cref="TimeoutException">None comes.</exception>
    public byte Command(byte @class, byte command, params ReadOnlySpan<byte> data)
    {
        var ring = _rings[ControlQueue];
        var at = Offset(ControlQueue, 0);
        _memory.Write(at, [0xEE, @class, command]);
        _memory.Write(at + 3, data);
        if (ring.Add([new DriverBuffer(new Iova(Base + at + 1), (uint)(2 + data.Length), false), new DriverBuffer(new Iova(Base + at), 1, true)]) < 0)
            throw new ExpectationException("The control queue has no room.");
        Push(ControlQueue);
        Deadline.Until(() => ring.TryTakeUsed(out _, out _, out _), "the answer to a command");
        Span<byte> answer = stackalloc byte[1];
        _memory.Read(at, answer);
        return answer[0];
    }

    /// <summary>Gives the device a command that has an answer, and waits for it.</summary>
    /// <param name="class">Its class.</param>
    /// <param name="command">Its number.</param>
    /// <param name="data">What belongs to it; up to 20,000 bytes together with the answer.</param>
    /// <param name="answer">Where to; all of it is the device's to write.</param>
    /// <param name="written">How many bytes the device says that it wrote, the acknowledgement among them.</param>
    /// <returns>VIRTIO_NET_OK, 0, or VIRTIO_NET_ERR, 1.</returns>
    /// <exception cref="TimeoutException">None comes.</exception>
    public byte Ask(byte @class, byte command, ReadOnlySpan<byte> data, Span<byte> answer, out uint written)
    {
        var ring = _rings[ControlQueue];
        var at = Offset(ControlQueue, 0);
        var place = at + 3 + (ulong)data.Length;
        _memory.Write(at, [0xEE, @class, command]);
        _memory.Write(at + 3, data);
        _memory.Write(place, answer);
        if (ring.Add([
            new DriverBuffer(new Iova(Base + at + 1), (uint)(2 + data.Length), false),
            new DriverBuffer(new Iova(Base + place), (uint)answer.Length, true),
            new DriverBuffer(new Iova(Base + at), 1, true)]) < 0)
            throw new ExpectationException("The control queue has no room.");
        Push(ControlQueue);
        var length = 0u;
        Deadline.Until(() => ring.TryTakeUsed(out _, out length, out _), "the answer to a command");
        written = length;
        Span<byte> acknowledgement = stackalloc byte[1];
        _memory.Read(at, acknowledgement);
        _memory.Read(place, answer);
        return acknowledgement[0];
    }

    /// <summary>Resets the device and brings it up again, as a driver that is bound anew.</summary>
    /// <exception cref="ExpectationException">The device refuses a step.</exception>
    public void Restart()
    {
        _device.TrySetStatus(0, out _);
        Start();
    }

    /// <summary>Resets the device, and takes its memory away.</summary>
    public void Dispose()
    {
        _device.TrySetStatus(0, out _);
        _device.SetDma(null);
        _space.Dispose();
        _memory.Dispose();
    }

    private ulong Offset(int queue, int slot) => ((ulong)queue * _queueBytes) + _ringBytes + ((ulong)slot * (ulong)_slotSize);

    private void Add(int queue, int slot, uint length, bool deviceWrites)
    {
        var name = _rings[queue].Add([new DriverBuffer(Place(queue, slot), length, deviceWrites)]);
        if (name < 0)
            throw new ExpectationException($"Queue {queue} has no room.");
        _slots[queue][name] = slot;
    }

    private bool TryTakeUsed(int queue, out int slot, out uint written)
    {
        var isTaken = _rings[queue].TryTakeUsed(out var name, out written, out var fault);
        if (fault != Fault.None)
            throw new ExpectationException($"The device broke queue {queue}: {fault.Message}.");
        slot = isTaken ? _slots[queue][name] : -1;
        return isTaken;
    }

    private int Collect(int queue, int slot, uint written, Span<byte> destination, int length)
    {
        var room = Math.Min((int)written, Math.Max(destination.Length - length, 0));
        if (room > 0)
            _memory.Read(Offset(queue, slot), destination.Slice(length, room));
        Add(queue, slot, (uint)_slotSize, true);
        return length + (int)written;
    }

    // The order of VIRTIO 1.3, 3.1.1.
    private void Start()
    {
        Step("ACKNOWLEDGE, DRIVER", _device.TrySetStatus(ACKNOWLEDGE | DRIVER, out var fault), fault);
        Step("the features", _device.TrySetDriverFeatures(Features, out fault), fault);
        Step("FEATURES_OK", _device.TrySetStatus(ACKNOWLEDGE | DRIVER | FEATURES_OK, out fault), fault);
        for (var queue = 0; queue < _rings.Length; queue++)
            SetUp(queue);
        Step("DRIVER_OK", _device.TrySetStatus(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK, out fault), fault);
    }

    private void SetUp(int queue)
    {
        _memory.Write((ulong)queue * _queueBytes, new byte[_ringBytes]);
        var (eventIndex, indirect, inOrder) =
            (Features.Has(VirtioFeatures.VIRTIO_F_EVENT_IDX), Features.Has(VirtioFeatures.VIRTIO_F_INDIRECT_DESC), Features.Has(VirtioFeatures.VIRTIO_F_IN_ORDER));
        _rings[queue] = Features.Has(VirtioFeatures.VIRTIO_F_RING_PACKED)
            ? new PackedDriverRing(_memory, new Iova(Base), (ulong)queue * _queueBytes, _queueSize, eventIndex, indirect, inOrder)
            : new SplitDriverRing(_memory, new Iova(Base), (ulong)queue * _queueBytes, _queueSize, eventIndex, indirect, inOrder);
        _slots[queue] = new int[_queueSize];
        _free[queue] = [.. Enumerable.Range(0, _queueSize)];
        _freeCount[queue] = (queue & 1) != 0 ? _queueSize : 0;
        if (queue != ControlQueue && (queue & 1) == 0)
        {
            for (var slot = 0; slot < _queueSize; slot++)
                Add(queue, slot, (uint)_slotSize, true);
            _rings[queue].Publish();
        }

        var layout = _rings[queue].Layout;
        Step("a queue's size", _device.TrySetQueueSize(queue, layout.Size, out var fault), fault);
        Step("a queue's addresses", _device.TrySetQueueAddress(queue, layout.DescriptorArea, layout.DriverArea, layout.DeviceArea, out fault), fault);
        Step("a queue", _device.TrySetQueueReady(queue, true, out fault), fault);
    }

    private static void Step(string what, bool isTaken, Fault fault)
    {
        if (!isTaken)
            throw Refused(what, fault);
    }

    private static ExpectationException Refused(string what, Fault fault) => new($"The device refuses {what}: {fault.Message} ({fault.Errno}).");
}
