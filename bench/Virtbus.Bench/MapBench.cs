using System.Diagnostics;
using Virtbus.Block;

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
        Console.WriteLine("| depth | still, reads/s | with changes, reads/s | changes/s | ratio |");
        Console.WriteLine("|---|---|---|---|---|");
        var isGood = true;
        foreach (var depth in Depths)
        {
            disk.Drive(depth, TimeSpan.FromSeconds(1));
            List<double> still = [], changing = [], rates = [];
            for (var i = 0; i < rounds; i++)
            {
                still.Add(disk.Drive(depth, TimeSpan.FromSeconds(1)));
                using var stop = new CancellationTokenSource();
                var since = Stopwatch.GetTimestamp();
                var changes = 0L;
                var thread = new Thread(() => changes = disk.Change(Rate, stop.Token)) { IsBackground = true };
                thread.Start();
                changing.Add(disk.Drive(depth, TimeSpan.FromSeconds(1)));
                stop.Cancel();
                thread.Join();
                rates.Add(changes / Stopwatch.GetElapsedTime(since).TotalSeconds);
            }

            var ratio = Median(still.Zip(changing, (s, c) => c / s));
            isGood &= ratio >= Bound;
            Console.WriteLine($"| {depth} | {Median(still):F0} | {Median(changing):F0} | {Median(rates):F0} | {ratio:F2} |");
        }

        return isGood ? 0 : 1;
    }

    private static double Median(IEnumerable<double> values)
    {
        var sorted = values.Order().ToArray();
        return sorted[sorted.Length / 2];
    }
}
