using Virtbus.Buses.Auxiliary;
using Virtbus.Core;
using static Virtbus.Bench.Statistics;

namespace Virtbus.Bench;

/// <summary>Time and memory per device of add, match and probe, and of removal, at several numbers of devices.</summary>
internal static class CoreBench
{
    private const int Drivers = 1000;
    private const int IdsPerDriver = 10;
    private static readonly string[] Names = [.. Enumerable.Range(0, Drivers * IdsPerDriver).Select(NullDriver.PartOf)];
    private static readonly int[] Counts = [1_000, 10_000, 100_000, 1_000_000];

    public static async Task<int> RunAsync(string[] args)
    {
        var rounds = args is ["--rounds", var text] ? int.Parse(text) : 3;
        // The compiler's tiers settle before anything is measured.
        for (var i = 0; i < 5; i++)
            await MeasureAsync(20_000);
        Console.WriteLine($"{"devices",10} {"add us",8} {"remove us",10} {"bytes/device",13} {"allocated",10} {"collector us",13}   (medians of {rounds} rounds)");
        Figures? small = null;
        var ok = true;
        foreach (var count in Counts)
        {
            // Small counts are over in a moment: more of them in a round.
            var repeat = Math.Max(1, 100_000 / count);
            var all = new List<Figures>();
            for (var round = 0; round < rounds; round++)
            {
                for (var i = 0; i < repeat; i++)
                    all.Add(await MeasureAsync(count));
            }
            var median = new Figures(
                Median(all.Select(f => f.Add)), Median(all.Select(f => f.Remove)), Median(all.Select(f => f.Bytes)), Median(all.Select(f => f.Allocated)), Median(all.Select(f => f.Collector)));
            small ??= median;
            Console.WriteLine($"{count,10} {median.Add,8:F2} {median.Remove,10:F2} {median.Bytes,13:F0} {median.Allocated,10:F0} {median.Collector,13:F2}");
            ok &= median.Add <= 5 && median.Remove <= 5 && median.Bytes <= 2048;
            if (count == Counts[^1])
            {
                Console.WriteLine($"a million against a thousand: add {median.Add / small.Add:F2}, remove {median.Remove / small.Remove:F2} (bound 1.3)");
                Console.WriteLine($"what an add costs more among a million: {median.Add - small.Add:F2} us; what its objects alone do: {CoreFloor.Growth(rounds, Counts[0], count, Names):F2} us");
                ok &= median.Add <= 1.3 * small.Add && median.Remove <= 1.3 * small.Remove;
            }
        }
        Console.WriteLine(ok ? "within the bounds: 5 us, 1.3, 2048 bytes" : "NOT within the bounds: 5 us, 1.3, 2048 bytes");
        return ok ? 0 : 1;
    }

    private static async Task<Figures> MeasureAsync(int count)
    {
        var fabric = new Fabric();
        var bus = fabric.RegisterBus(new AuxiliaryBus());
        var parent = new Device("parent");
        await fabric.AddAsync(parent);
        for (var d = 0; d < Drivers; d++)
            await fabric.RegisterDriverAsync(new NullDriver(bus, d));
        var devices = new AuxiliaryDevice[count];
        var before = GC.GetTotalMemory(forceFullCollection: true);
        var allocated = GC.GetTotalAllocatedBytes();
        var pause = GC.GetTotalPauseDuration();
        var watch = CpuWatch.Start();
        for (var i = 0; i < count; i++)
        {
            var device = devices[i] = new AuxiliaryDevice(bus, "bench", Names[i % Names.Length], (uint)i, parent);
            await bus.AddAsync(device);
        }
        var add = watch.Elapsed;
        pause = GC.GetTotalPauseDuration() - pause;
        allocated = GC.GetTotalAllocatedBytes() - allocated;
        var bytes = GC.GetTotalMemory(forceFullCollection: true) - before;
        if (devices.Any(d => d.Driver is null))
            throw new InvalidOperationException("A device was not bound.");
        watch = CpuWatch.Start();
        for (var i = count - 1; i >= 0; i--)
            await bus.DestroyAsync(devices[i]);
        var remove = watch.Elapsed;
        return new Figures(add.TotalMicroseconds / count, remove.TotalMicroseconds / count, (double)bytes / count, (double)allocated / count, pause.TotalMicroseconds / count);
    }

    // Processor time of the whole process, the collector's threads included: what the work costs, whoever else uses the machine.
    internal readonly struct CpuWatch
    {
        private readonly TimeSpan _start;

        private CpuWatch(TimeSpan start) => _start = start;

        public TimeSpan Elapsed => Environment.CpuUsage.TotalTime - _start;

        public static CpuWatch Start() => new(Environment.CpuUsage.TotalTime);
    }

    private sealed record Figures(double Add, double Remove, double Bytes, double Allocated, double Collector);

    private sealed class NullDriver(AuxiliaryBus bus, int number)
        : AuxiliaryDriver<AuxiliaryDevice>(bus, "bench", $"driver{number}", [.. Enumerable.Range(0, IdsPerDriver).Select(i => new AuxiliaryDeviceId("bench." + PartOf((number * IdsPerDriver) + i)))])
    {
        public static string PartOf(int id) => $"part{id}";
    }
}
