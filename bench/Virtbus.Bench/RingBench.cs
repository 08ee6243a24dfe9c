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
/// What a request costs the device: taken from the ring, found in memory, asked of a null back end, handed back. Driver and device take turns on one
/// thread, so nobody waits and no cache line travels; only the device's turns are timed.
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
        Console.WriteLine("| ring | by the device, ns a request | take and hand back alone |");
        Console.WriteLine("|---|---|---|");
        foreach (var indirect in (bool[])[false, true])
        {
            using var ring = new Turns(indirect);
            ring.Go(whole: true, 300_000);
            ring.Go(whole: false, 300_000);
            List<double> whole = [], alone = [];
            for (var i = 0; i < rounds; i++)
            {
                whole.Add(ring.Go(whole: true, 1_000_000));
                alone.Add(ring.Go(whole: false, 1_000_000));
            }

            Console.WriteLine($"| {(indirect ? "indirect" : "direct")}, 3 descriptors | {Median(whole):F1} | {Median(alone):F1} |");
        }

        return 0;
    }

    private sealed class Turns : IDisposable
    {
        private readonly HostMemory _headers;
        private readonly HostMemory _data;
        private readonly IoAddressSpace _space = new();
        private readonly NullBackend _backend = new(1 << 30);
        private readonly VirtioBlkDevice _device;
        private readonly IQueueProcessor _processor;
        private readonly SplitDriverRing _driver;
        private readonly SplitDeviceRing _ring = new();
        private readonly DescriptorChain[] _chains = [.. Enumerable.Range(0, 16).Select(_ => new DescriptorChain(Size))];
        private readonly bool _indirect;

        internal Turns(bool indirect)
        {
            _indirect = indirect;
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
            _driver = new SplitDriverRing(_headers, new Iova(Headers), 0, indirect ? Size : Size * 4, eventIndex: true, indirect: indirect);
            if (!_ring.TryStart(_driver.Layout, dma.Port, QueueState.Split(0), out var fault))
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
                    var next = entry + 1 < buffers.Length ? SplitRing.VIRTQ_DESC_F_NEXT : 0;
                    var writes = buffers[entry].DeviceWrites ? SplitRing.VIRTQ_DESC_F_WRITE : 0;
                    SplitRingWriter.EncodeDescriptor(
                        _headers,
                        Place(i) + Table + ((ulong)entry * SplitRing.DescriptorSize),
                        buffers[entry].Address,
                        buffers[entry].Length,
                        (ushort)(next | writes),
                        (ushort)(entry + 1));
                }
            }
        }

        internal double Go(bool whole, int requests)
        {
            var ticks = 0L;
            for (var done = 0; done < requests; done += Size)
            {
                for (var i = 0; i < Size; i++)
                {
                    if (_indirect)
                        _driver.AddIndirect(new Iova(Headers + Place(i) + Table), TableSize);
                    else
                        _driver.Add(Buffers(i));
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
