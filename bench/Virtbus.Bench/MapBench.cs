using System.Diagnostics;
using Virtbus.Block;
using static Virtbus.Bench.Statistics;

namespace Virtbus.Bench;

/// <summary>What changes of the map cost a running queue that does not use what changes.</summary>
internal static class MapBench
{
    private const int Rate = 10_000;
    private const double Bound = 0.95;
    private static readonly int[] Depths = [1, 20];

    internal static int Run(string[] args)
    {
        var rounds = args is ["--rounds", var number] ? int.Parse(number) : 7;
        using var backend = new MemoryBackend(1 << 24);
        using var disk = new PollDisk("busy", backend, 1, ownThreads: false, small: false);
        Console.WriteLine("| depth | still, reads/s | changes elsewhere, reads/s | changes here, reads/s | changes/s | here / elsewhere |");
        Console.WriteLine("|---|---|---|---|---|---|");
        var isGood = true;
        foreach (var depth in Depths)
        {
            disk.Drive(depth, TimeSpan.FromSeconds(1));
            List<double> still = [], elsewhere = [], here = [], rates = [];
            for (var i = 0; i < rounds; i++)
            {
                still.Add(disk.Drive(depth, TimeSpan.FromSeconds(1)));
                // The machine has few cores, and who makes the changes needs one: that is no cost of the queue.
                elsewhere.Add(WithChanges(disk, depth, elsewhere: true, out _));
                here.Add(WithChanges(disk, depth, elsewhere: false, out var rate));
                rates.Add(rate);
            }

            var ratio = Median(elsewhere.Zip(here, (e, h) => h / e));
            isGood &= ratio >= Bound;
            Console.WriteLine($"| {depth} | {Median(still):F0} | {Median(elsewhere):F0} | {Median(here):F0} | {Median(rates):F0} | {ratio:F2} |");
        }

        return isGood ? 0 : 1;
    }

    private static double WithChanges(PollDisk disk, int depth, bool elsewhere, out double rate)
    {
        using var stop = new CancellationTokenSource();
        var since = Stopwatch.GetTimestamp();
        var changes = 0L;
        var thread = new Thread(() => changes = disk.Change(Rate, elsewhere, stop.Token)) { IsBackground = true };
        thread.Start();
        var reads = disk.Drive(depth, TimeSpan.FromSeconds(1));
        stop.Cancel();
        thread.Join();
        rate = changes / Stopwatch.GetElapsedTime(since).TotalSeconds;
        return reads;
    }
}
