using System.Diagnostics;
using System.Globalization;
using System.Text.Json;
using static Virtbus.Bench.Statistics;

namespace Virtbus.Bench;

/// <summary>
/// NBD requests a second over a Unix socket: ours beside qemu-nbd, turn by turn in one run, medians of the rounds. The load is fio's nbd engine (libnbd), for both.
/// </summary>
internal static class NbdBench
{
    private const int FileMebibytes = 256;

    private static readonly (string Pattern, string Size, int Depth)[] s_works =
    [
        ("randread", "4k", 1), ("randread", "4k", 32), ("randwrite", "4k", 32), ("read", "128k", 8), ("write", "128k", 8),
    ];

    internal static async Task<int> RunAsync(string[] args)
    {
        var values = new Dictionary<string, string> { ["--folder"] = "/dev/shm", ["--rounds"] = "3", ["--seconds"] = "3", ["--fio"] = "fio", ["--qemu-nbd"] = "qemu-nbd", ["--aio"] = "io_uring" };
        if (!NamedValues.TryRead(args, values))
            return 2;
        var (rounds, seconds) = (int.Parse(values["--rounds"], CultureInfo.InvariantCulture), values["--seconds"]);
        var folder = Directory.CreateTempSubdirectory("virtbus-bench");
        var file = Path.Combine(values["--folder"], $"virtbus-bench-{Environment.ProcessId}.disk");
        BenchFile.Fill(file, FileMebibytes << 20);
        try
        {
            Console.WriteLine($"thousand requests a second, median of {rounds} (lowest to highest), {seconds} s each; file of {FileMebibytes} MiB in {values["--folder"]}, page cache; ratio: median of the rounds'");
            var peers = new (string Name, Func<string, ProcessStartInfo> Start)[]
            {
                ("qemu-nbd", socket => new(values["--qemu-nbd"], ["--format=raw", "--cache=writeback", $"--aio={values["--aio"]}", "--shared=8", "--persistent", $"--socket={socket}", file])),
                ("Virtbus file", socket => new("dotnet", [typeof(NbdBench).Assembly.Location, "nbd-serve", socket, file])),
            };
            var results = peers.Select(_ => s_works.Select(_ => new List<double>()).ToArray()).ToArray();
            var allocated = 0L;
            for (var round = 0; round < rounds; round++)
            {
                // In turn the other way round: who comes first has no part in it.
                foreach (var i in round % 2 == 0 ? Enumerable.Range(0, peers.Length) : Enumerable.Range(0, peers.Length).Reverse())
                {
                    var socket = Path.Combine(folder.FullName, $"{i}-{round}");
                    using var server = Start(peers[i].Start(socket));
                    await PeerSocket.AwaitAsync(socket, server);
                    for (var work = 0; work < s_works.Length; work++)
                        results[i][work].Add(await LoadAsync(values["--fio"], socket, seconds, s_works[work]));
                    if (i > 0)
                        allocated = await AllocatedAsync(server, values["--fio"], socket, seconds);
                    server.Kill();
                    await server.WaitForExitAsync();
                }
            }

            Console.WriteLine($"{"",-14}{string.Concat(s_works.Select(w => $"{$"{w.Size} {w.Pattern}, depth {w.Depth}",26}"))}");
            for (var i = 0; i < peers.Length; i++)
                Console.WriteLine($"{peers[i].Name,-14}{string.Concat(results[i].Select(n => $"{$"{Median(n) / 1000:0.0} ({n.Min() / 1000:0.0} to {n.Max() / 1000:0.0})",26}"))}");
            Console.WriteLine($"{"ratio",-14}{string.Concat(results[1].Select((n, work) => $"{Median([.. n.Zip(results[0][work], (ours, theirs) => ours / theirs)]),26:0.00}"))}");
            Console.WriteLine($"allocated: {allocated} bytes in the last run of 4k reads");
            return 0;
        }
        finally
        {
            File.Delete(file);
            folder.Delete(recursive: true);
        }
    }

    private static Process Start(ProcessStartInfo start)
    {
        start.UseShellExecute = false;
        start.RedirectStandardInput = true;
        start.RedirectStandardOutput = true;
        return Process.Start(start)!;
    }

    private static async Task<long> AllocatedAsync(Process server, string fio, string socket, string seconds)
    {
        var before = await AskAsync();
        await LoadAsync(fio, socket, seconds, s_works[1]);
        return await AskAsync() - before;

        async Task<long> AskAsync()
        {
            await server.StandardInput.WriteLineAsync("allocated");
            await server.StandardInput.FlushAsync();
            string? line;
            do
                line = await server.StandardOutput.ReadLineAsync();
            while (line == "ready");
            return long.Parse(line!, CultureInfo.InvariantCulture);
        }
    }

    private static async Task<double> LoadAsync(string fio, string socket, string seconds, (string Pattern, string Size, int Depth) work)
    {
        using var process = Process.Start(new ProcessStartInfo(fio,
        [
            "--name=nbd", "--ioengine=nbd", $"--uri=nbd+unix:///?socket={socket}", $"--rw={work.Pattern}", $"--bs={work.Size}", $"--iodepth={work.Depth}",
            "--time_based", $"--runtime={seconds}", $"--size={FileMebibytes}m", "--output-format=json", "--randrepeat=0", "--norandommap",
        ])
        { RedirectStandardOutput = true, UseShellExecute = false })!;
        var output = await process.StandardOutput.ReadToEndAsync();
        await process.WaitForExitAsync();
        using var json = JsonDocument.Parse(output[output.IndexOf('{', StringComparison.Ordinal)..]);
        var job = json.RootElement.GetProperty("jobs")[0];
        return job.GetProperty(work.Pattern.EndsWith("read", StringComparison.Ordinal) ? "read" : "write").GetProperty("iops").GetDouble();
    }
}
