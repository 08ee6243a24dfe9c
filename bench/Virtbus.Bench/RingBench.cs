using System.Buffers.Binary;
using System.Diagnostics;
using Virtbus.Block;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Models.VirtioBlk;
using Virtbus.Virtio;
using Virtbus.Virtio.Rings;
using static Virtbus.Bench.Statistics;

namespace Virtbus.Bench;

/// <summary>
/// What a request costs the device: taken from the ring, found in memory, asked of a null back end, handed back; and what a buffer costs both sides, from
/// its driver's add to the driver's take of what is used. Driver and device take turns on one thread, so nobody waits and no cache line travels.
/// </summary>
internal static class RingBench
{
    private const int Size = 128;
    private const ulong Headers = 0x100000;
    private const ulong Data = 0x40000000;
    private const ulong Table = 64;
    private const uint TableSize = 3 * SplitRing.DescriptorSize;
    private const ulong RingSpace = 0x40000;

    internal static int Run(string[] args)
    {
        var rounds = args is ["--rounds", var number] ? int.Parse(number) : 15;
        Console.WriteLine("| ring | by the device, ns a request | take and hand back alone | driver to device and back | bytes allocated |");
        Console.WriteLine("|---|---|---|---|---|");
        Form[] forms =
        [
            new(false, false, false), new(true, false, false), new(false, true, false), new(true, true, false), new(false, false, true), new(true, false, true),
        ];
        Turns[] rings = [.. forms.Select(form => new Turns(form))];
        (List<double> Whole, List<double> Alone, List<double> Both)[] times =
            [.. forms.Select(_ => (new List<double>(rounds), new List<double>(rounds), new List<double>(rounds)))];
        var allocated = new long[forms.Length];
        foreach (var ring in rings)
        {
            ring.Go(whole: true, bothSides: false, 300_000);
            ring.Go(whole: false, bothSides: true, 300_000);
        }

        // The forms in turn, so that a slow minute is a slow one for all.
        for (var round = 0; round < rounds; round++)
        {
            for (var i = 0; i < rings.Length; i++)
            {
                var before = GC.GetAllocatedBytesForCurrentThread();
                times[i].Whole.Add(rings[i].Go(whole: true, bothSides: false, 500_000));
                times[i].Alone.Add(rings[i].Go(whole: false, bothSides: false, 500_000));
                times[i].Both.Add(rings[i].Go(whole: false, bothSides: true, 500_000));
                allocated[i] += GC.GetAllocatedBytesForCurrentThread() - before;
            }
        }

        for (var i = 0; i < forms.Length; i++)
        {
            Console.WriteLine(
                $"| {forms[i]} | {Median(times[i].Whole):F1} | {Median(times[i].Alone):F1} | {Median(times[i].Both):F1} | {allocated[i]} |");
            rings[i].Dispose();
        }

        return 0;
    }

    private readonly record struct Form(bool Packed, bool Indirect, bool InOrder)
    {
        public override string ToString() => $"{(Packed ? "packed" : "split")}, {(Indirect ? "indirect" : "direct")}{(InOrder ? ", in order" : "")}";
    }

    private sealed class Turns : IDisposable
    {
        private readonly HostMemory _headers;
        private readonly HostMemory _data;
        private readonly IoAddressSpace _space = new();
        private readonly NullBackend _backend = new(1 << 30);
        private readonly VirtioBlkDevice _device;
        private readonly IQueueProcessor _processor;
        private readonly DriverRing _driver;
        private readonly DeviceRing _ring;
        private readonly DriverBuffer[][] _buffers = [.. Enumerable.Range(0, Size).Select(Buffers)];
        private readonly DescriptorChain[] _chains = [.. Enumerable.Range(0, 16).Select(_ => new DescriptorChain(Size))];
        private readonly bool _indirect;

        internal Turns(Form form)
        {
            var indirect = _indirect = form.Indirect;
            _headers = HostMemory.Allocate("virtbus-bench", RingSpace + (Size * 128), out var file);
            file.Dispose();
            _data = HostMemory.Allocate("virtbus-bench", Size * 4096, out file);
            file.Dispose();
            _space.TryMap(new Iova(Headers), _headers.Size, _headers, 0, DmaAccess.ReadWrite, out _);
            _space.TryMap(new Iova(Data), _data.Size, _data, 0, DmaAccess.ReadWrite, out _);
            var dma = new StandaloneDma("bench");
            dma.Attach(_space);
            _device = new VirtioBlkDevice("bench", _backend, "bench");
            _processor = new VirtioBlkQueues(_device, _backend);
            var size = indirect ? Size : Size * 4;
            _driver = form.Packed
                ? new PackedDriverRing(_headers, new Iova(Headers), 0, size, eventIndex: true, indirect, form.InOrder)
                : new SplitDriverRing(_headers, new Iova(Headers), 0, size, eventIndex: true, indirect, form.InOrder);
            _ring = form.Packed ? new PackedDeviceRing() : new SplitDeviceRing();
            if (!_ring.TryStart(_driver.Layout, dma.Port, QueueState.Beginning(form.Packed), out var fault))
                throw new InvalidOperationException(fault.Message);
            _processor.Start(_ring, _device.DeviceFeatures);
            Span<byte> header = stackalloc byte[16];
            header.Clear();
            for (var i = 0; i < Size; i++)
            {
                BinaryPrimitives.WriteUInt64LittleEndian(header[8..], (ulong)(i * 8));
                _headers.Write(Place(i), header);
                var buffers = Buffers(i);
                for (var entry = 0; entry < buffers.Length; entry++)
                {
                    var next = entry + 1 < buffers.Length && !form.Packed ? SplitRing.VIRTQ_DESC_F_NEXT : 0;
                    var writes = buffers[entry].DeviceWrites ? SplitRing.VIRTQ_DESC_F_WRITE : 0;
                    var at = Place(i) + Table + ((ulong)entry * SplitRing.DescriptorSize);
                    if (form.Packed)
                        PackedRingWriter.EncodeDescriptor(_headers, at, buffers[entry].Address, buffers[entry].Length, (ushort)writes);
                    else
                        SplitRingWriter.EncodeDescriptor(_headers, at, buffers[entry].Address, buffers[entry].Length, (ushort)(next | writes), (ushort)(entry + 1));
                }
            }
        }

        internal double Go(bool whole, bool bothSides, int requests)
        {
            var ticks = 0L;
            var start = Stopwatch.GetTimestamp();
            for (var done = 0; done < requests; done += Size)
            {
                for (var i = 0; i < Size; i++)
                {
                    if (_indirect)
                        _driver.AddIndirect(new Iova(Headers + Place(i) + Table), TableSize);
                    else
                        _driver.Add(_buffers[i]);
                }

                _driver.Publish();
                var since = Stopwatch.GetTimestamp();
                if (whole)
                    Serve();
                else
                    TakeAndReturn();
                ticks += Stopwatch.GetTimestamp() - since;
                for (var i = 0; i < Size; i++)
                {
                    if (!_driver.TryTakeUsed(out _, out _, out _))
                        throw new InvalidOperationException("a request was not handed back");
                }

                _driver.RequestCalls(false);
            }

            if (bothSides)
                ticks = Stopwatch.GetTimestamp() - start;
            return ticks * 1e9 / Stopwatch.Frequency / requests;
        }

        public void Dispose()
        {
            _processor.Dispose();
            _device.Dispose();
            _backend.Dispose();
            _space.Dispose();
            _headers.Dispose();
            _data.Dispose();
        }

        private static ulong Place(int i) => RingSpace + ((ulong)i * 128);

        private static DriverBuffer[] Buffers(int i) =>
        [
            new DriverBuffer(new Iova(Headers + Place(i)), 16, false),
            new DriverBuffer(new Iova(Data + ((ulong)i * 4096)), 4096, true),
            new DriverBuffer(new Iova(Headers + Place(i) + 16), 1, true),
        ];

        private void Serve()
        {
            while (_processor.Process(out _))
                _ring.Publish();
        }

        private void TakeAndReturn()
        {
            while (_ring.Take(_chains, out _) is var taken && taken > 0)
            {
                foreach (var chain in _chains.AsSpan(0, taken))
                    _ring.Complete(chain, 1);
                _ring.Publish();
            }
        }
    }
}
