using System.Buffers.Binary;
using System.Text;
using Virtbus.Buses.Virtio;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Virtio.Rings;

namespace Virtbus.Tests.Drivers.Virtio;

/// <summary>A block device in hand work: answers the oldest request of its queue, rightly, or a little wrong where there is a generator of wrongs.</summary>
internal sealed class Answering(DmaPort port, bool isPacked, bool hasTables)
{
    /// <summary>What a device never writes.</summary>
    internal const byte Stale = 0xEE;

    private const int MostBytes = 4096;

    private readonly byte[] _content = new byte[MostBytes];
    private readonly byte[] _bytes = new byte[16];
    private readonly List<(ulong Address, uint Length, bool Writes)> _parts = [];
    private int _next;
    private ushort _used;
    private bool _wrap = true;

    /// <summary>Whether the status byte is among the bytes that it says it wrote.</summary>
    internal bool CountsStatus { get; set; } = true;

    /// <summary>The status that it gives.</summary>
    internal byte Status { get; set; }

    /// <summary>Whether it tells of an answer.</summary>
    internal bool Interrupts { get; set; } = true;

    /// <summary>Whether it writes what is read.</summary>
    internal bool WritesData { get; set; } = true;

    /// <summary>What each byte of a read from a place is.</summary>
    internal static byte ByteOf(long offset) => (byte)(1 + (offset / 512 % 200));

    /// <summary>Answers one request.</summary>
    /// <returns>Whether there was one.</returns>
    internal bool TryServe(IReadOnlyList<VirtioQueue> queues, Random? random)
    {
        if (queues.Count == 0 || !TryTake(queues[0].Layout, out var id, out var slots))
            return false;
        var layout = queues[0].Layout;
        var wrong = random?.Next(100) == 0 ? random.Next(7) : -1;
        var (written, status) = (1U, Status);
        // A chain that the driver has made anew since, as this device used it by another's name.
        if (_parts.Count < 2 || !_parts.TrueForAll(static p => p.Length <= MostBytes) || !port.TryRead(new Iova(_parts[0].Address), _bytes))
            return true;
        var type = BinaryPrimitives.ReadUInt32LittleEndian(_bytes);
        var sector = BinaryPrimitives.ReadUInt64LittleEndian(_bytes.AsSpan(8));
        if (wrong == 0)
            status = (byte)(1 + random!.Next(255));
        if (type is 0 or 8)
        {
            foreach (var (address, length, _) in _parts[1..^1])
            {
                var content = _content.AsSpan(0, (int)length);
                content.Fill(type == 8 ? (byte)0 : ByteOf((long)sector * 512));
                if (type == 8 && length == 20)
                    Encoding.ASCII.GetBytes("serial", content);
                // One that writes less says so; by one byte, it would be one that does not count the status.
                var count = wrong == 1 ? random!.Next(content.Length - 1) : content.Length;
                if (WritesData)
                    port.TryWrite(new Iova(address), content[..count]);
                written += (uint)count;
            }
        }

        if (wrong != 2)
            port.TryWrite(new Iova(_parts[^1].Address), [status]);
        switch (wrong)
        {
            case 3:
                written = (uint)random!.Next();
                break;
            case 4:
                written = 0;
                break;
            case 5:
                id = (uint)random!.Next(random.Next(2) == 0 ? 64 : int.MaxValue);
                break;
        }

        Use(layout, id, CountsStatus ? written : written - 1, slots);
        if (wrong == 6)
            Scribble(random!, layout);
        if (random is null && Interrupts)
            queues[0].Interrupt();
        return true;
    }

    private void Scribble(Random random, in RingLayout layout)
    {
        random.NextBytes(_bytes);
        // Not over descriptors, which would have this device itself mix up who gets what.
        var (area, length) = (layout.DeviceArea, isPacked ? 5 : 4 + (8 * layout.Size));
        port.TryWrite(new Iova(area.Value + (ulong)random.Next(length - 4)), _bytes.AsSpan(0, 1 + random.Next(isPacked ? 3 : 4)));
    }

    private bool TryTake(in RingLayout layout, out uint id, out int slots)
    {
        _parts.Clear();
        id = 0;
        slots = 0;
        return isPacked ? TryTakePacked(layout, out id, out slots) : TryTakeSplit(layout, out id);
    }

    private bool TryTakeSplit(in RingLayout layout, out uint id)
    {
        id = 0;
        Read(layout.DriverArea.Value + 2, 2);
        if (BinaryPrimitives.ReadUInt16LittleEndian(_bytes) == (ushort)_next)
            return false;
        Read(layout.DriverArea.Value + 4 + (2 * (ulong)(_next & (layout.Size - 1))), 2);
        _next = (ushort)(_next + 1);
        id = BinaryPrimitives.ReadUInt16LittleEndian(_bytes);
        AddChain(layout.DescriptorArea.Value, id);
        return true;
    }

    private void AddChain(ulong table, uint at)
    {
        for (var flags = 1; (flags & 1) != 0; at = BinaryPrimitives.ReadUInt16LittleEndian(_bytes.AsSpan(14)))
        {
            Read(table + (16 * (ulong)at), 16);
            flags = BinaryPrimitives.ReadUInt16LittleEndian(_bytes.AsSpan(12));
            if ((flags & 4) != 0)
            {
                Assert.True(hasTables);
                AddChain(BinaryPrimitives.ReadUInt64LittleEndian(_bytes), 0);
                return;
            }

            Add(flags);
        }
    }

    private bool TryTakePacked(in RingLayout layout, out uint id, out int slots)
    {
        id = 0;
        slots = 0;
        for (var flags = 1; (flags & 1) != 0; slots++)
        {
            Read(layout.DescriptorArea.Value + (16 * (ulong)_next), 16);
            flags = BinaryPrimitives.ReadUInt16LittleEndian(_bytes.AsSpan(14));
            if ((flags & 0x80) != 0 != _wrap || (flags & 0x8000) != 0 == _wrap)
                return false;
            id = BinaryPrimitives.ReadUInt16LittleEndian(_bytes.AsSpan(12));
            if ((flags & 4) != 0)
                AddPackedTable(BinaryPrimitives.ReadUInt64LittleEndian(_bytes), BinaryPrimitives.ReadUInt32LittleEndian(_bytes.AsSpan(8)));
            else
                Add(flags);
            if (++_next == layout.Size)
            {
                _next = 0;
                _wrap = !_wrap;
            }
        }

        return true;
    }

    private void AddPackedTable(ulong table, uint length)
    {
        Assert.True(hasTables);
        for (var at = 0U; at < length; at += 16)
        {
            Read(table + at, 16);
            Add(BinaryPrimitives.ReadUInt16LittleEndian(_bytes.AsSpan(14)));
        }
    }

    private void Add(int flags) =>
        _parts.Add((BinaryPrimitives.ReadUInt64LittleEndian(_bytes), BinaryPrimitives.ReadUInt32LittleEndian(_bytes.AsSpan(8)), (flags & 2) != 0));

    private void Use(in RingLayout layout, uint id, uint written, int slots)
    {
        if (isPacked)
        {
            // At the place where the buffer began, as this device answers in order.
            var at = _next - slots;
            var wrap = at < 0 ? !_wrap : _wrap;
            at = at < 0 ? at + layout.Size : at;
            BinaryPrimitives.WriteUInt32LittleEndian(_bytes, written);
            BinaryPrimitives.WriteUInt16LittleEndian(_bytes.AsSpan(4), (ushort)id);
            BinaryPrimitives.WriteUInt16LittleEndian(_bytes.AsSpan(6), (ushort)(2 | (wrap ? 0x8080 : 0)));
            port.TryWrite(new Iova(layout.DescriptorArea.Value + (16 * (ulong)at) + 8), _bytes.AsSpan(0, 8));
            return;
        }

        BinaryPrimitives.WriteUInt32LittleEndian(_bytes, id);
        BinaryPrimitives.WriteUInt32LittleEndian(_bytes.AsSpan(4), written);
        port.TryWrite(new Iova(layout.DeviceArea.Value + 4 + (8 * (ulong)(_used & (layout.Size - 1)))), _bytes.AsSpan(0, 8));
        BinaryPrimitives.WriteUInt16LittleEndian(_bytes, ++_used);
        port.TryWrite(new Iova(layout.DeviceArea.Value + 2), _bytes.AsSpan(0, 2));
    }

    private void Read(ulong address, int count) => port.TryRead(new Iova(address), _bytes.AsSpan(0, count));
}
