using System.Diagnostics;
using Virtbus.Block;
using Virtbus.Platform;
using static Virtbus.Bench.Statistics;

namespace Virtbus.Bench;

/// <summary>
/// What a queue costs that does nothing, and what one that is busy loses by sharing its thread: many idle disks of two queues, and one that
/// reads, alone and among them; a thread a queue against the poll threads.
/// </summary>
internal static class PollBench
{
    private const int Idle = 4096;
    private static readonly int[] Depths = [1, 20];

    internal static int Run(string[] args)
    {
        if (args is ["drive", var ways, var depth, var seconds])
        {
            // For another build of this program, in turn with this one.
            Console.WriteLine($"{Measure(ways == "own", int.Parse(depth), double.Parse(seconds)):F0}");
            return 0;
        }

        var rounds = args is ["--rounds", var number] ? int.Parse(number) : 5;
        Compare(rounds);
        return Many(rounds);
    }

    private static double Measure(bool ownThreads, int depth, double seconds)
    {
        using var backend = new MemoryBackend(1 << 24);
        using var disk = new PollDisk("busy", backend, 1, ownThreads, small: false);
        disk.Drive(depth, TimeSpan.FromSeconds(0.3));
        return disk.Drive(depth, TimeSpan.FromSeconds(seconds));
    }

    private static void Compare(int rounds)
    {
        Console.WriteLine("| depth | a thread a queue, reads/s | poll threads, reads/s | ratio |");
        Console.WriteLine("|---|---|---|---|");
        foreach (var depth in Depths)
        {
            var own = new List<double>();
            var shared = new List<double>();
            for (var i = 0; i < rounds; i++)
            {
                own.Add(Measure(true, depth, 1));
                shared.Add(Measure(false, depth, 1));
            }

            Console.WriteLine($"| {depth} | {Median(own):F0} | {Median(shared):F0} | {Median(own.Zip(shared, (o, s) => s / o)):F2} |");
        }
    }

    private static int Many(int rounds)
    {
        using var backend = new MemoryBackend(1 << 24);
        using var busy = new PollDisk("busy", backend, 1, ownThreads: false, small: false);
        var alone = new Dictionary<int, List<double>>();
        var among = new Dictionary<int, List<double>>();
        foreach (var depth in Depths)
        {
            alone[depth] = [];
            among[depth] = [];
            busy.Drive(depth, TimeSpan.FromSeconds(0.5));
        }

        double threads = 0, managed = 0, resident = 0, share = 0;
        for (var round = 0; round < rounds; round++)
        {
            foreach (var depth in Depths)
                alone[depth].Add(busy.Drive(depth, TimeSpan.FromSeconds(1)));
            var before = (Threads: Threads(), Managed: GC.GetTotalMemory(forceFullCollection: true), Resident: Resident());
            var idle = new PollDisk[Idle];
            for (var i = 0; i < Idle; i++)
                idle[i] = new PollDisk($"idle{i}", backend, 2, ownThreads: false, small: true);
            threads = Threads() - before.Threads;
            managed = (GC.GetTotalMemory(forceFullCollection: true) - before.Managed) / (double)Idle;
            resident = (Resident() - before.Resident) / (double)Idle;
            share = IdleShare();
            foreach (var depth in Depths)
                among[depth].Add(busy.Drive(depth, TimeSpan.FromSeconds(1)));
            foreach (var disk in idle)
                disk.Dispose();
        }

        Console.WriteLine();
        Console.WriteLine($"{Idle} idle disks of two queues: {threads} threads more, {managed / 1024:F1} KiB managed and {resident / 1024:F1} KiB resident each "
            + $"(with the driver's own rings), {share:P2} of a core.");
        Console.WriteLine();
        Console.WriteLine("| depth | alone, reads/s | among idle ones, reads/s | ratio |");
        Console.WriteLine("|---|---|---|---|");
        var isGood = true;
        foreach (var depth in Depths)
        {
            var ratio = Median(alone[depth].Zip(among[depth], (a, b) => b / a));
            isGood &= ratio >= 0.95;
            Console.WriteLine($"| {depth} | {Median(alone[depth]):F0} | {Median(among[depth]):F0} | {ratio:F2} |");
        }

        return isGood && managed <= 64 << 10 ? 0 : 1;
    }

    private static double IdleShare()
    {
        using var process = Process.GetCurrentProcess();
        using var never = new EventFd();
        never.Wait(TimeSpan.FromSeconds(0.5));
        process.Refresh();
        var before = process.TotalProcessorTime;
        var since = Stopwatch.GetTimestamp();
        never.Wait(TimeSpan.FromSeconds(3));
        process.Refresh();
        return (process.TotalProcessorTime - before) / Stopwatch.GetElapsedTime(since);
    }

    private static int Threads() => Directory.GetDirectories("/proc/self/task").Length;

    private static long Resident() => long.Parse(File.ReadAllText("/proc/self/statm").Split(' ')[1]) * Environment.SystemPageSize;
}
