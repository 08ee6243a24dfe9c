using System.Diagnostics;
using Virtbus.Block;
using Virtbus.Drivers.VirtioBlk;
using Virtbus.Drivers.VirtioPci;
using Virtbus.Hardware.VirtioPci;
using Virtbus.Models.VirtioBlk;
using Virtbus.Platform;
using Virtbus.Subsystems.Block;
using Virtbus.Testing;
using static Virtbus.Bench.Statistics;

namespace Virtbus.Bench;

/// <summary>
/// Random reads of 4 KiB through a disk of class block: subsystem, virtio_blk, virtio bus, virtio_pci and our function, with a null back end behind it; beside
/// the same device with a ring in front of it, whose driver writes each header and reads each status and does nothing else, in turn.
/// </summary>
internal static class DriverBlkBench
{
    private const int Depth = 32;
    private const int Bytes = 4096;
    private const long Capacity = 1L << 30;

    internal static async Task<int> RunAsync(string[] args)
    {
        var values = new Dictionary<string, string> { ["--rounds"] = "7", ["--seconds"] = "1" };
        if (!NamedValues.TryRead(args, values))
            return 2;
        var (rounds, time) = (int.Parse(values["--rounds"]), TimeSpan.FromSeconds(double.Parse(values["--seconds"])));
        Console.WriteLine(
            "| ring | one place again and again, reads/s | device alone, reads/s | memory of the disk, reads/s | ratio | any memory, reads/s | ratio | bytes allocated a read |");
        Console.WriteLine("|---|---|---|---|---|---|---|---|");
        var isGood = true;
        foreach (var isPacked in (bool[])[false, true])
            isGood &= Report(isPacked, await MeasureAsync(isPacked, rounds, time));
        return isGood ? 0 : 1;
    }

    private static bool Report(bool isPacked, Times times)
    {
        var mapped = Median([.. times.Alone.Zip(times.Mapped, static (alone, through) => through / alone)]);
        var copied = Median([.. times.Alone.Zip(times.Copied, static (alone, through) => through / alone)]);
        Console.WriteLine(
            $"| {(isPacked ? "packed" : "split")} | {Median(times.Ring):F0} | {Median(times.Alone):F0} | {Median(times.Mapped):F0} | {mapped:F2} | {Median(times.Copied):F0} | {copied:F2} | {times.Allocated:F3} |");
        return mapped >= 0.8;
    }

    private static async Task<Times> MeasureAsync(bool isPacked, int rounds, TimeSpan time)
    {
        using var medium = new NullBackend(Capacity);
        using var alone = new PollDisk("alone", medium, 1, ownThreads: false, small: false, isPacked);
        await using var rig = await FabricRig.StartAsync();
        await rig.InitModuleAsync(new VirtioPciModule(), "virtio_pci");
        await rig.InitModuleAsync(new VirtioBlkModule(), "virtio_blk");
        await rig.PlugAsync(new VirtioFunction(new VirtioBlkDevice("disk", medium, "bench", packed: isPacked)));
        await rig.Fabric.SettleAsync();
        var disk = (BlockDevice)BlockSubsystem.Of(rig.Fabric).Class.Devices[0];
        var times = new Times();
        using var user = disk.Open("bench");
        using var mapped = new Reader(user, isMapped: true);
        using var copied = new Reader(user, isMapped: false);
        alone.Drive(Depth, TimeSpan.FromSeconds(0.5));
        alone.Drive(Depth, TimeSpan.FromSeconds(0.5), anywhere: true);
        mapped.Drive(TimeSpan.FromSeconds(0.5), out _);
        copied.Drive(TimeSpan.FromSeconds(0.5), out _);
        for (var round = 0; round < rounds; round++)
        {
            times.Ring.Add(alone.Drive(Depth, time));
            times.Alone.Add(alone.Drive(Depth, time, anywhere: true));
            times.Mapped.Add(mapped.Drive(time, out var allocated));
            times.Copied.Add(copied.Drive(time, out var more));
            times.Allocated = Math.Max(times.Allocated, Math.Max(allocated, more));
        }

        return times;
    }

    private sealed class Times
    {
        internal List<double> Ring { get; } = [];

        internal List<double> Alone { get; } = [];

        internal List<double> Mapped { get; } = [];

        internal List<double> Copied { get; } = [];

        internal double Allocated { get; set; }
    }

    private sealed class Reader : IDisposable
    {
        private readonly IBlockChannel _channel;
        private readonly AlignedBuffer _own = new(Depth * Bytes, 4096);
        private readonly BlockMemory? _memory;
        private readonly IoVector[] _runs = GC.AllocateArray<IoVector>(Depth, pinned: true);
        private readonly BlockRequest[] _requests = new BlockRequest[Depth];
        private uint _random = 1;

        internal Reader(BlockUser user, bool isMapped)
        {
            _channel = user.OpenChannel(Depth);
            _memory = isMapped ? user.AllocateMemory(Depth * Bytes) : null;
            var first = _memory?.Take(0, Depth * Bytes).Address ?? _own.Take(Depth * Bytes).Address;
            for (var i = 0; i < Depth; i++)
            {
                _runs[i] = new IoVector(first + (i * Bytes), Bytes);
                _requests[i] = new BlockRequest { Operation = BlockOperation.Read, Length = Bytes };
                _requests[i].SetRuns(_runs.AsSpan(i, 1));
            }
        }

        internal double Drive(TimeSpan time, out double allocated)
        {
            var before = GC.GetTotalAllocatedBytes(precise: true);
            var since = Stopwatch.GetTimestamp();
            var end = since + (long)(time.TotalSeconds * Stopwatch.Frequency);
            foreach (var request in _requests)
                Submit(request);
            _channel.Commit();
            var done = 0L;
            var inFlight = Depth;
            var isOver = false;
            while (inFlight > 0)
            {
                var any = false;
                while (_channel.TryReap() is { } request)
                {
                    if (request.Result != Errno.None)
                        throw new InvalidOperationException($"A read failed: {request.Result}.");
                    done++;
                    inFlight--;
                    if (isOver)
                        continue;
                    Submit(request);
                    inFlight++;
                    any = true;
                }

                if (any)
                {
                    _channel.Commit();
                    isOver = Stopwatch.GetTimestamp() > end;
                }
                else
                {
                    Thread.SpinWait(4);
                }
            }

            var seconds = Stopwatch.GetElapsedTime(since).TotalSeconds;
            allocated = (GC.GetTotalAllocatedBytes(precise: true) - before) / (double)done;
            return done / seconds;
        }

        public void Dispose()
        {
            _channel.Dispose();
            _memory?.Dispose();
            _own.Dispose();
        }

        private void Submit(BlockRequest request)
        {
            _random = (_random * 1664525) + 1013904223;
            request.Offset = (long)(_random % (Capacity / Bytes)) * Bytes;
            if (_channel.Submit(request))
                throw new InvalidOperationException($"A read was answered at once: {request.Result}.");
        }
    }
}
