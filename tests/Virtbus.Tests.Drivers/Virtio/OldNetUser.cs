using System.Buffers.Binary;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using static Virtbus.Virtio.VirtioLegacyConfig;

namespace Virtbus.Tests.Drivers.Virtio;

/// <summary>
/// A network driver from before version 1.0 that a test moves from one function to another, with the memory that it has: ports, two rings in one piece each
/// (VIRTIO 1.3, 2.7.2), no features, no interrupts.
/// </summary>
internal sealed class OldNetUser : IDisposable
{
    private const ulong Base = 0x100000;
    private const int MemorySize = 0x100000;
    private const int Receive = 0, Transmit = 1;
    private const int RingBytes = 0x10000;
    private const int BufferBytes = 0x800;
    private const int HeaderBytes = 10;
    private const int FirstBuffer = 2 * RingBytes;
    private const ushort Next = 1, Write = 2;
    private readonly HostMemory _memory;
    private readonly IoAddressSpace _space = new();
    private readonly ushort[] _available = new ushort[2];
    private readonly ushort[] _used = new ushort[2];
    private PciUser _user;
    private int _size;

    internal OldNetUser(PciUser user)
    {
        _user = user;
        _memory = HostMemory.Allocate("old-net", MemorySize, out var file);
        file.Dispose();
        Assert.True(_space.TryMap(new Iova(Base), MemorySize, _memory, 0, DmaAccess.ReadWrite, out var fault), fault.Message);
    }

    /// <summary>What the ports say that moves: features, status, and the page of each queue.</summary>
    internal string Ports
    {
        get
        {
            var text = $"{Port(VIRTIO_PCI_GUEST_FEATURES, 4):x} {Port(VIRTIO_PCI_STATUS, 1):x}";
            for (var queue = Receive; queue <= Transmit; queue++)
            {
                Port(VIRTIO_PCI_QUEUE_SEL, 2, (ulong)queue);
                text += $" {Port(VIRTIO_PCI_QUEUE_PFN, 4):x}";
            }

            return text;
        }
    }

    /// <summary>Enables a function, and lets it reach the memory.</summary>
    internal void Attach(PciUser user)
    {
        _user = user;
        Assert.True(user.Handle.TryAttach(_space, null, out var fault), fault.Message);
        user.Config16(4, 7);
    }

    /// <summary>Brings the device up.</summary>
    internal void Start()
    {
        Attach(_user);
        foreach (var status in new ulong[] { 0, 1, 3 })
            Port(VIRTIO_PCI_STATUS, 1, status);
        Port(VIRTIO_PCI_GUEST_FEATURES, 4, 0);
        for (var queue = Receive; queue <= Transmit; queue++)
        {
            Port(VIRTIO_PCI_QUEUE_SEL, 2, (ulong)queue);
            _size = (int)Port(VIRTIO_PCI_QUEUE_NUM, 2);
            Assert.InRange(UsedAt(0) + 4 + (8 * _size), 1, RingBytes);
            Port(VIRTIO_PCI_QUEUE_PFN, 4, (Base + (ulong)(queue * RingBytes)) >> VIRTIO_PCI_QUEUE_ADDR_SHIFT);
        }

        Port(VIRTIO_PCI_STATUS, 1, 7);
    }

    /// <summary>Offers one buffer more for a frame.</summary>
    internal void Offer() => Put(Receive, [], BufferBytes - HeaderBytes);

    internal void Send(ReadOnlySpan<byte> frame) => Put(Transmit, frame, frame.Length);

    /// <summary>How many frames came, or were sent, that were not asked for yet.</summary>
    internal int Done(bool sent) => (ushort)(Get16(UsedAt(sent ? Transmit : Receive) + 2) - _used[sent ? Transmit : Receive]);

    internal async Task SentAsync()
    {
        await Deadline.UntilAsync(() => Done(sent: true) > 0, "the frame's end");
        _used[Transmit]++;
    }

    internal async Task<byte[]> ReceiveAsync()
    {
        await Deadline.UntilAsync(() => Done(sent: false) > 0, "a frame");
        var at = UsedAt(Receive) + 4 + (8 * (_used[Receive]++ % _size));
        Span<byte> entry = stackalloc byte[8];
        _memory.Read((ulong)at, entry);
        var frame = new byte[BinaryPrimitives.ReadInt32LittleEndian(entry[4..]) - HeaderBytes];
        _memory.Read((ulong)(BufferOf(Receive, BinaryPrimitives.ReadInt32LittleEndian(entry) / 2) + HeaderBytes), frame);
        return frame;
    }

    public void Dispose()
    {
        _space.Dispose();
        _memory.Dispose();
    }

    private static int BufferOf(int queue, int slot) => FirstBuffer + (((queue * 16) + slot) * BufferBytes);

    private int UsedAt(int queue) => (queue * RingBytes) + (((16 * _size) + 6 + (2 * _size) + RingAlignment - 1) & ~(RingAlignment - 1));

    // The header is a descriptor of its own, as drivers of the time had it.
    private void Put(int queue, ReadOnlySpan<byte> bytes, int length)
    {
        var ring = queue * RingBytes;
        var slot = _available[queue] % 16;
        var buffer = BufferOf(queue, slot);
        var flags = queue == Receive ? Write : (ushort)0;
        _memory.Write((ulong)buffer, new byte[HeaderBytes]);
        _memory.Write((ulong)(buffer + HeaderBytes), bytes);
        Descriptor(ring + (32 * slot), buffer, HeaderBytes, (ushort)(flags | Next), (ushort)((2 * slot) + 1));
        Descriptor(ring + (32 * slot) + 16, buffer + HeaderBytes, length, flags, 0);
        var available = ring + (16 * _size);
        Set16(available + 4 + (2 * (_available[queue] % _size)), (ushort)(2 * slot));
        Set16(available + 2, ++_available[queue]);
        Port(VIRTIO_PCI_QUEUE_NOTIFY, 2, (ulong)queue);
    }

    private void Descriptor(int at, int buffer, int length, ushort flags, ushort next)
    {
        Span<byte> bytes = stackalloc byte[16];
        BinaryPrimitives.WriteUInt64LittleEndian(bytes, Base + (ulong)buffer);
        BinaryPrimitives.WriteInt32LittleEndian(bytes[8..], length);
        BinaryPrimitives.WriteUInt16LittleEndian(bytes[12..], flags);
        BinaryPrimitives.WriteUInt16LittleEndian(bytes[14..], next);
        _memory.Write((ulong)at, bytes);
    }

    private ulong Port(int at, int size) => _user.Read(0, (ulong)at, size);

    private void Port(int at, int size, ulong value) => _user.Write(0, (ulong)at, size, value);

    private ushort Get16(int at)
    {
        Span<byte> bytes = stackalloc byte[2];
        _memory.Read((ulong)at, bytes);
        return BinaryPrimitives.ReadUInt16LittleEndian(bytes);
    }

    private void Set16(int at, ushort value)
    {
        Span<byte> bytes = stackalloc byte[2];
        BinaryPrimitives.WriteUInt16LittleEndian(bytes, value);
        _memory.Write((ulong)at, bytes);
    }
}
