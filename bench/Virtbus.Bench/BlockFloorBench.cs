using System.Diagnostics;
using System.Globalization;
using System.Text.Json;
using Virtbus.Block;
using Virtbus.Platform;
using static Virtbus.Bench.Statistics;

namespace Virtbus.Bench;

/// <summary>
/// Requests a second to a file through the Block floor, without ring or socket, beside fio's io_uring engine with the same options, turn by turn
/// in one run, medians of the rounds.
/// </summary>
internal static class BlockFloorBench
{
    private const int Block = 4096;
    private const int Batch = 16;
    private const double Bound = 0.9;

    private static readonly (string Name, bool Write, int Depth, bool Direct)[] Cases =
    [
        ("read depth 32, O_DIRECT", false, 32, true),
        ("read depth 128, O_DIRECT", false, 128, true),
        ("write depth 32, O_DIRECT", true, 32, true),
        ("write depth 128, O_DIRECT", true, 128, true),
        ("read depth 32, page cache", false, 32, false),
        ("read depth 128, page cache", false, 128, false),
        ("write depth 32, page cache", true, 32, false),
        ("write depth 128, page cache", true, 128, false),
    ];

    internal static int Run(string[] args)
    {
        var values = new Dictionary<string, string>(StringComparer.Ordinal)
        {
            ["--fio"] = "",
            ["--file"] = "",
            ["--mebibytes"] = "256",
            ["--rounds"] = "5",
            ["--seconds"] = "2",
        };
        if (!NamedValues.TryRead(args, values))
            return 2;
        var path = values["--file"].Length > 0 ? values["--file"] : Path.Combine(Environment.CurrentDirectory, $"virtbus-bench-{Environment.ProcessId}.img");
        var size = long.Parse(values["--mebibytes"], CultureInfo.InvariantCulture) << 20;
        var seconds = int.Parse(values["--seconds"], CultureInfo.InvariantCulture);
        var rounds = int.Parse(values["--rounds"], CultureInfo.InvariantCulture);
        BenchFile.Fill(path, size);
        try
        {
            return Run(path, size, seconds, rounds, values["--fio"].Split(' ', StringSplitOptions.RemoveEmptyEntries));
        }
        finally
        {
            File.Delete(path);
        }
    }

    private static int Run(string path, long size, int seconds, int rounds, string[] fio)
    {
        var good = true;
        Console.WriteLine($"4k random, thousand requests a second, median of {rounds} (lowest to highest), {seconds} s each");
        Console.WriteLine($"{"",-30}{"fio",26}{"Virtbus",26}{"ratio",8}{"by processor time",20}  ways");
        foreach (var work in Cases)
        {
            List<double> ours = [], theirs = [], ratios = [], costs = [];
            BlockWays ways = default;
            // Compiled, and the file in the page cache or written back, before it counts.
            Load(path, size, work.Write, work.Depth, work.Direct, 0.3, out _, out _);
            for (var round = 0; round < rounds; round++)
            {
                Settle(path);
                var theirCost = 0.0;
                if (fio.Length > 0)
                    theirs.Add(Fio(fio, path, size, work.Write, work.Depth, work.Direct, seconds, out theirCost));
                Settle(path);
                ours.Add(Load(path, size, work.Write, work.Depth, work.Direct, seconds, out ways, out var cost));
                if (fio.Length == 0)
                    continue;
                ratios.Add(ours[^1] / theirs[^1]);
                costs.Add(theirCost / cost);
            }

            var ratio = ratios.Count > 0 ? Median(ratios) : double.NaN;
            good &= !(ratio < Bound);
            Console.WriteLine($"{work.Name,-30}{Text(theirs),26}{Text(ours),26}{ratio,8:0.00}{(costs.Count > 0 ? Median(costs) : double.NaN),20:0.00}  in place {ways.InPlace}, uring {ways.Uring}, worker {ways.Worker}");
        }

        return good ? 0 : 1;
    }

    // Whole and written, so that no write has to find room.
    // What a turn before this one left to be written is no part of it.
    private static void Settle(string path)
    {
        using var file = FileDescriptor.TryOpen(path, writable: true, out _);
        file!.SyncData();
    }

    private static double Load(string path, long size, bool write, int depth, bool direct, double seconds, out BlockWays ways, out double cost)
    {
        using var disk = FileBackend.Open(path, direct: direct, raw: true);
        using var channel = disk.OpenChannel(depth);
        using var memory = new AlignedBuffer(depth * Block, Block);
        if (!direct && !write)
            ReadAll(channel, memory, size);
        var runs = GC.AllocateArray<IoVector>(depth, pinned: true);
        var free = new BlockRequest[depth];
        for (var i = 0; i < depth; i++)
        {
            runs[i] = new IoVector(memory.Take(Block).Address + (i * Block), Block);
            free[i] = new BlockRequest { Operation = write ? BlockOperation.Write : BlockOperation.Read, Length = Block };
            free[i].SetRuns(runs.AsSpan(i, 1));
        }

        var count = depth;
        var done = 0L;
        var draw = 0x9E3779B97F4A7C15UL;
        var used = Used();
        var start = Stopwatch.GetTimestamp();
        var end = start + (long)(seconds * Stopwatch.Frequency);
        var now = start;
        while (now < end || count < depth)
        {
            for (var i = 0; i < Batch && count > 0 && now < end; i++)
            {
                var request = free[--count];
                draw ^= draw << 13;
                draw ^= draw >> 7;
                draw ^= draw << 17;
                request.Offset = (long)(draw % (ulong)(size / Block)) * Block;
                if (channel.Submit(request))
                    Take(request);
            }

            channel.Commit();
            if (!Reap() && count == 0)
                channel.Wait(-1);
            else if (now >= end && count < depth)
                channel.Wait(-1);
            now = Stopwatch.GetTimestamp();
        }

        ways = channel.Ways;
        cost = (Used() - used) / done;
        return done / Stopwatch.GetElapsedTime(start).TotalSeconds;

        bool Reap()
        {
            var any = false;
            while (channel.TryReap() is { } request)
            {
                any = true;
                Take(request);
            }

            return any;
        }

        void Take(BlockRequest request)
        {
            if (request.Result != Errno.None)
                throw new InvalidOperationException($"a request ended with {request.Result}");
            free[count++] = request;
            done++;
        }
    }

    // Of the whole process, the kernel's threads for io_uring included.
    private static double Used() => Environment.CpuUsage.TotalTime.TotalSeconds;

    private static void ReadAll(IBlockChannel channel, AlignedBuffer memory, long size)
    {
        var runs = GC.AllocateArray<IoVector>(1, pinned: true);
        var request = new BlockRequest { Operation = BlockOperation.Read };
        for (var at = 0L; at < size; at += request.Length)
        {
            request.Offset = at;
            request.Length = Math.Min(memory.Length, size - at);
            runs[0] = memory.Take((int)request.Length);
            request.SetRuns(runs);
            channel.Do(request);
        }
    }

    private static double Fio(string[] fio, string path, long size, bool write, int depth, bool direct, int seconds, out double cost)
    {
        string[] options =
        [
            "--name=floor", $"--filename={path}", $"--size={size}", "--ioengine=io_uring", "--registerfiles=1", $"--rw={(write ? "randwrite" : "randread")}",
            $"--bs={Block}", $"--iodepth={depth}", $"--iodepth_batch_submit={Batch}", "--iodepth_batch_complete_min=1", $"--iodepth_batch_complete_max={depth}",
            $"--direct={(direct ? 1 : 0)}", "--invalidate=0", "--norandommap", "--randrepeat=0", "--gtod_reduce=1", "--thread", "--fallocate=none",
            "--time_based", $"--runtime={seconds}", "--output-format=json",
        ];
        using var process = Process.Start(new ProcessStartInfo(fio[0], [.. fio[1..], .. options]) { RedirectStandardOutput = true, UseShellExecute = false })!;
        var output = process.StandardOutput.ReadToEnd();
        process.WaitForExit();
        if (process.ExitCode != 0)
            throw new InvalidOperationException($"fio ended with {process.ExitCode}: {output}");
        using var json = JsonDocument.Parse(output[output.IndexOf('{', StringComparison.Ordinal)..]);
        var job = json.RootElement.GetProperty("jobs")[0];
        var work = job.GetProperty(write ? "write" : "read");
        // Shares of the run in percent, of the job's thread alone: what the kernel's threads for io_uring took is not in them.
        var share = (job.GetProperty("usr_cpu").GetDouble() + job.GetProperty("sys_cpu").GetDouble()) / 100;
        cost = share * job.GetProperty("job_runtime").GetDouble() / 1000 / work.GetProperty("total_ios").GetDouble();
        return work.GetProperty("iops").GetDouble();
    }

    private static string Text(List<double> values) =>
        values.Count == 0 ? "-" : $"{Median(values) / 1000:0.0} ({values.Min() / 1000:0.0} to {values.Max() / 1000:0.0})";
}
