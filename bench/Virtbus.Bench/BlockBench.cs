using System.Diagnostics;
using System.Globalization;
using System.Text.Json;
using static Virtbus.Bench.Statistics;

namespace Virtbus.Bench;

/// <summary>
/// Block requests a second through vhost-user: ours beside qemu-storage-daemon, turn by turn in one run, medians of the rounds.
/// What the load generator prints has to be one JSON object with the number "iops" in it.
/// </summary>
internal static class BlockBench
{
    private const int FileMebibytes = 256;

    private static readonly Work[] s_works =
    [
        new("randread", 4096, 1),
        new("randread", 4096, 32),
        new("randwrite", 4096, 128),
    ];

    private static readonly Work[] s_fileWorks =
    [
        new("randread", 4096, 1),
        new("randread", 4096, 32),
        new("randwrite", 4096, 1),
        new("randwrite", 4096, 32),
        new("read", 131072, 8),
    ];

    internal static async Task<int> RunAsync(string[] args)
    {
        var options = BlockBenchOptions.Parse(args);
        if (options is null)
            return 2;
        Console.WriteLine($"thousand requests a second, median of {options.Rounds} (lowest to highest), {options.Seconds} s each; ratios are medians of the rounds'");
        await CompareAsync(options, s_works, "nothing behind the disk", "driver=null-co,size=1073741824,read-zeroes=off", ["null"], ["memory"]);
        foreach (var folder in options.Files)
        {
            var file = $"{folder}/virtbus-bench-{Environment.ProcessId}.disk";
            BenchFile.Fill(options.Root + file, FileMebibytes << 20);
            try
            {
                var blockdev = $"driver=file,filename={file},aio=io_uring,cache.direct=";
                await CompareAsync(options, s_fileWorks, folder + ", page cache", blockdev + "off", [options.Root + file]);
                if (options.IsDirectPossible(folder))
                    await CompareAsync(options, s_fileWorks, folder + ", O_DIRECT", blockdev + "on", [options.Root + file, "1", "direct"]);
            }
            finally
            {
                File.Delete(options.Root + file);
            }
        }

        return await CheckAllocationsAsync(options) ? 0 : 1;
    }

    private static async Task CompareAsync(BlockBenchOptions options, Work[] works, string title, string blockdev, params string[][] backends)
    {
        var targets = new List<(string Name, Func<Task<BlockTarget>> Open)>();
        if (options.Qsd.Length > 0)
            targets.Add(("qemu-storage-daemon", () => BlockTarget.OpenQsdAsync(options, blockdev)));
        foreach (var backend in backends)
            targets.Add(("Virtbus " + (backend[0].Contains('/', StringComparison.Ordinal) ? "file" : backend[0]), () => BlockTarget.OpenOursAsync(options, backend)));
        var results = targets.ConvertAll(_ => works.Select(_ => new List<double>()).ToArray());
        for (var round = 0; round < options.Rounds; round++)
        {
            // In turn the other way round: who comes first has no part in it.
            foreach (var i in round % 2 == 0 ? Enumerable.Range(0, targets.Count) : Enumerable.Range(0, targets.Count).Reverse())
            {
                await using var target = await targets[i].Open();
                for (var work = 0; work < works.Length; work++)
                    results[i][work].Add(await LoadAsync(options, works[work]));
            }
        }

        Console.WriteLine();
        Console.WriteLine($"{title,-28}{string.Concat(works.Select(work => $"{work,26}"))}");
        for (var i = 0; i < targets.Count; i++)
        {
            Console.WriteLine($"{targets[i].Name,-28}{string.Concat(results[i].Select(iops =>
                $"{$"{Median(iops) / 1000:0.0} ({iops.Min() / 1000:0.0} to {iops.Max() / 1000:0.0})",26}"))}");
        }

        for (var i = 1; i < targets.Count && options.Qsd.Length > 0; i++)
        {
            Console.WriteLine($"{targets[i].Name + " / qsd",-28}{string.Concat(results[i].Select((iops, work) =>
                $"{Median([.. iops.Zip(results[0][work], (ours, theirs) => ours / theirs)]),26:0.00}"))}");
        }
    }

    /// <summary>Lets the server count what it allocates in the middle of a run.</summary>
    private static async Task<bool> CheckAllocationsAsync(BlockBenchOptions options)
    {
        await using var target = await BlockTarget.OpenOursAsync(options, "null");
        var load = LoadAsync(options, s_works[1]);
        var (bytes, requests) = await target.MeasureAllocationsAsync();
        await load;
        Console.WriteLine($"allocated: {bytes} bytes in {requests} requests");
        // One object for each request would be 24 bytes at least. What the runtime does beside it stays far below one byte.
        return bytes < requests / 100;
    }

    private static async Task<double> LoadAsync(BlockBenchOptions options, Work work)
    {
        var output = await Run(
            options.LoadGenerator,
            [options.PeerPath, work.Pattern, Text(work.Bytes), Text(work.Depth), Text(options.Seconds)]);
        using var json = JsonDocument.Parse(output);
        return json.RootElement.GetProperty("iops").GetDouble();
    }

    private static async Task<string> Run(string[] command, string[] arguments)
    {
        using var process = Process.Start(new ProcessStartInfo(command[0], [.. command[1..], .. arguments]) { RedirectStandardOutput = true, UseShellExecute = false })!;
        var output = await process.StandardOutput.ReadToEndAsync();
        await process.WaitForExitAsync();
        return process.ExitCode == 0 ? output : throw new InvalidOperationException($"{string.Join(' ', command)} ended with {process.ExitCode}");
    }

    private static string Text(int number) => number.ToString(CultureInfo.InvariantCulture);

    private sealed record Work(string Pattern, int Bytes, int Depth)
    {
        public override string ToString() => $"{Bytes >> 10}k {Pattern}, depth {Depth}";
    }
}
