using System.Buffers.Binary;
using Virtbus.Buses.Virtio;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;
using Virtbus.Virtio;
using Virtbus.Virtio.Rings;

namespace Virtbus.Tests.Buses.Virtio;

/// <summary>
/// A device that writes whatever it likes into its queue, seeded: what comes out is a buffer that is out, with no more bytes than it has for the device, each
/// once; or the queue is broken, once and for good. Never an exception, never a loop without end.
/// </summary>
public sealed class VirtioQueueHostileTests
{
    private const int Answers = 100_000;
    private const int Size = 16;
    private const uint BufferBytes = 100;

    [Theory]
    [InlineData(false, false, false, false)]
    [InlineData(false, false, true, false)]
    [InlineData(false, true, false, false)]
    [InlineData(true, false, false, false)]
    [InlineData(true, false, true, false)]
    [InlineData(true, true, false, false)]
    [InlineData(false, false, false, true)]
    [InlineData(false, true, false, true)]
    [InlineData(true, false, false, true)]
    [InlineData(true, true, false, true)]
    public void Mutated_answers_give_buffers_that_are_out_or_break_the_queue(bool isPacked, bool inOrder, bool eventIndex, bool hasTables)
    {
        var random = new Random(20_251_130);
        var features = VirtioFeatures.Of(VirtioFeatures.VIRTIO_F_VERSION_1);
        features = isPacked ? features.With(VirtioFeatures.VIRTIO_F_RING_PACKED) : features;
        features = inOrder ? features.With(VirtioFeatures.VIRTIO_F_IN_ORDER) : features;
        features = eventIndex ? features.With(VirtioFeatures.VIRTIO_F_EVENT_IDX) : features;
        features = hasTables ? features.With(VirtioFeatures.VIRTIO_F_INDIRECT_DESC) : features;
        var group = new IommuGroup(1);
        var port = new DmaPort("device", group) { IsBusMaster = true };
        Assert.True(group.TryClaimForDriver("driver", out _));
        Assert.True(group.TryAllocate(4096, out var tables, out _));
        ReadOnlySpan<DriverBuffer> parts = [new DriverBuffer(new Iova(0x10000), 8, false), new DriverBuffer(new Iova(0x20000), BufferBytes, true)];
        var (broken, taken) = (0, 0);
        for (var answers = 0; answers < Answers;)
        {
            var breaks = 0;
            var calls = 0;
            using var queue = VirtioQueue.Create(group, 0, new VirtioQueueSpec("input", _ => calls++), Size, features, 4, static _ => { }, (_, _) => breaks++);
            Assert.Equal(hasTables, queue.HasTables);
            var device = new Device(port, queue.Layout, hasTables ? 1 : 2);
            var mine = new HashSet<int>();
            for (var i = 0; i < 200 && !queue.IsBroken; i++, answers++)
            {
                while (queue.FreeDescriptors >= 2 && random.Next(3) > 0)
                {
                    var name = hasTables ? queue.AddTable(parts, tables!, 0) : queue.Add(parts);
                    Assert.True(mine.Add(name), "a name was given twice");
                    device.Made(name);
                }

                queue.Kick();
                device.Answer(random);
                for (var n = 0; queue.TryTake(out var name, out var written); n++)
                {
                    Assert.True(n <= Size, "it gives buffers without end");
                    Assert.True(mine.Remove(name), "a buffer that is not out was given");
                    Assert.True(written <= BufferBytes, "more bytes than the buffer has");
                    taken++;
                }

                queue.RequestCalls(random.Next(2) == 0);
            }

            Assert.Equal(queue.IsBroken ? 1 : 0, breaks);
            Assert.Equal(breaks, calls);
            broken += breaks;
            if (!queue.IsBroken)
                continue;
            Assert.Equal(-1, queue.AddTable(parts, tables!, 0));
            Assert.Equal((-1, false, false), (queue.Add(new DriverBuffer(new Iova(0x10000), 8, false)), queue.TryTake(out _, out _), queue.RequestCalls(true)));
        }

        // Both were tried, and often.
        Assert.True(broken > 100, $"{broken} broken");
        Assert.True(taken > 10_000, $"{taken} taken");
        Assert.Equal(0, port.Faults);
        tables!.Dispose();
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Table_holds_the_parts_and_takes_one_descriptor(bool isPacked)
    {
        var features = VirtioFeatures.Of(VirtioFeatures.VIRTIO_F_VERSION_1, VirtioFeatures.VIRTIO_F_INDIRECT_DESC);
        var group = new IommuGroup(1);
        Assert.True(group.TryClaimForDriver("driver", out _));
        Assert.True(group.TryAllocate(4096, out var tables, out _));
        using var queue = VirtioQueue.Create(
            group, 0, new VirtioQueueSpec("input", null), Size, isPacked ? features.With(VirtioFeatures.VIRTIO_F_RING_PACKED) : features, 4, static _ => { }, static (_, _) => { });
        Assert.True(queue.AddTable([new(new Iova(0x10000), 8, false), new(new Iova(0x20000), 20, true), new(new Iova(0x30000), 1, true)], tables!, 64) >= 0);
        Assert.Equal(Size - 1, queue.FreeDescriptors);
        var written = tables!.Span.Slice(64, 48);
        Assert.Equal((0x10000UL, 8U, 0x20000UL, 20U, 0x30000UL, 1U), (Address(written), Length(written), Address(written[16..]), Length(written[16..]), Address(written[32..]), Length(written[32..])));
        // Flags, and which one is next: the parts of a packed ring's table follow each other.
        Assert.Equal(isPacked ? [0, 0, 0, 2, 0, 2] : (int[])[1, 1, 3, 2, 2, 0], (int[])[Word(written, 12), Word(written, 14), Word(written, 28), Word(written, 30), Word(written, 44), Word(written, 46)]);
        // One that is longer than the queue may not be (2.7.5.3.1).
        Assert.Equal(-1, queue.AddTable(new DriverBuffer[Size + 1], tables, 0));
        tables.Dispose();

        static ulong Address(Span<byte> bytes) => BinaryPrimitives.ReadUInt64LittleEndian(bytes);
        static uint Length(Span<byte> bytes) => BinaryPrimitives.ReadUInt32LittleEndian(bytes[8..]);
        static int Word(Span<byte> bytes, int at) => BinaryPrimitives.ReadUInt16LittleEndian(bytes[at..]);
    }

    // Does mostly right: else nothing but the first look is tried.
    private sealed class Device(DmaPort port, RingLayout layout, int descriptors)
    {
        private readonly Queue<int> _out = new();
        private readonly byte[] _bytes = new byte[8];
        private ushort _used;
        private int _slot;
        private bool _wrap = true;

        internal void Made(int name) => _out.Enqueue(name);

        internal void Answer(Random random)
        {
            if (_out.Count > 0 && random.Next(4) > 0)
                Use((uint)_out.Dequeue(), (uint)random.Next((int)BufferBytes + 1));
            if (random.Next(60) != 0)
                return;
            switch (random.Next(5))
            {
                case 0:
                    Use((uint)random.Next(2 * Size), BufferBytes);
                    break;
                case 1 when _out.Count > 0:
                    Use((uint)_out.Dequeue(), BufferBytes + 1 + (uint)random.Next());
                    break;
                case 2:
                    Scribble(random, layout.DeviceArea.Value, layout.Packed ? 4 : 6 + (8 * Size));
                    break;
                case 3:
                    Scribble(random, layout.DescriptorArea.Value, 16 * Size);
                    break;
                default:
                    Scribble(random, layout.DriverArea.Value, 4);
                    break;
            }
        }

        private void Scribble(Random random, ulong area, int length)
        {
            random.NextBytes(_bytes);
            var count = 1 + random.Next(4);
            port.TryWrite(new Iova(area + (ulong)random.Next(length - count + 1)), _bytes.AsSpan(0, count));
        }

        private void Use(uint name, uint written)
        {
            if (layout.Packed)
            {
                BinaryPrimitives.WriteUInt32LittleEndian(_bytes, written);
                BinaryPrimitives.WriteUInt16LittleEndian(_bytes.AsSpan(4), (ushort)name);
                BinaryPrimitives.WriteUInt16LittleEndian(_bytes.AsSpan(6), (ushort)(2 | (_wrap ? 0x8080 : 0)));
                port.TryWrite(new Iova(layout.DescriptorArea.Value + (16 * (ulong)_slot) + 8), _bytes);
                _slot += descriptors;
                if (_slot >= Size)
                {
                    _slot -= Size;
                    _wrap = !_wrap;
                }

                return;
            }

            BinaryPrimitives.WriteUInt32LittleEndian(_bytes, name);
            BinaryPrimitives.WriteUInt32LittleEndian(_bytes.AsSpan(4), written);
            port.TryWrite(new Iova(layout.DeviceArea.Value + 4 + (8 * (ulong)(_used & (Size - 1)))), _bytes);
            BinaryPrimitives.WriteUInt16LittleEndian(_bytes, ++_used);
            port.TryWrite(new Iova(layout.DeviceArea.Value + 2), _bytes.AsSpan(0, 2));
        }
    }
}
