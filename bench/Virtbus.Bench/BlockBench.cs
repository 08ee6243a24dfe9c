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
    private static readonly (string Name, string Pattern, int Depth)[] Cases =
    [
        ("4k randread depth 1", "randread", 1),
        ("4k randread depth 32", "randread", 32),
        ("4k randwrite depth 128", "randwrite", 128),
    ];

    internal static async Task<int> RunAsync(string[] args)
    {
        var options = Options.Parse(args);
        if (options is null)
            return 2;
        var targets = new List<(string Name, Func<Task<Target>> Open)>
        {
            ("virtbus null", () => Target.OpenOursAsync(options, "null")),
            ("virtbus memory", () => Target.OpenOursAsync(options, "memory")),
        };
        if (options.Qsd.Length > 0)
            targets.Insert(0, ("qemu-storage-daemon null", () => Target.OpenQsdAsync(options)));
        var results = new Dictionary<(string Target, string Case), List<double>>();
        for (var round = 0; round < options.Rounds; round++)
        {
            foreach (var (name, open) in targets)
            {
                await using var target = await open();
                foreach (var work in Cases)
                {
                    var iops = await LoadAsync(options, work.Pattern, work.Depth);
                    if (!results.TryGetValue((name, work.Name), out var list))
                        results[(name, work.Name)] = list = [];
                    list.Add(iops);
                }
            }
        }

        Print(options, [.. targets.Select(target => target.Name)], results);
        return await CheckAllocationsAsync(options) ? 0 : 1;
    }

    private static void Print(Options options, string[] targets, Dictionary<(string Target, string Case), List<double>> results)
    {
        Console.WriteLine($"thousand requests a second, median of {options.Rounds} (lowest to highest), {options.Seconds} s each");
        Console.WriteLine($"{"",-28}{string.Concat(Cases.Select(work => $"{work.Name,30}"))}");
        foreach (var target in targets)
        {
            var cells = Cases.Select(work =>
            {
                var sorted = results[(target, work.Name)].Order().ToArray();
                return $"{$"{sorted[sorted.Length / 2] / 1000:0} ({sorted[0] / 1000:0} to {sorted[^1] / 1000:0})",30}";
            });
            Console.WriteLine($"{target,-28}{string.Concat(cells)}");
        }

        if (options.Qsd.Length == 0)
            return;
        foreach (var target in targets.Skip(1))
        {
            var cells = Cases.Select(work => $"{Median(results[(target, work.Name)]) / Median(results[(targets[0], work.Name)]),30:0.00}");
            Console.WriteLine($"{target + " / qsd",-28}{string.Concat(cells)}");
        }
    }

    /// <summary>Lets the server count what it allocates in the middle of a run.</summary>
    private static async Task<bool> CheckAllocationsAsync(Options options)
    {
        await using var target = await Target.OpenOursAsync(options, "null");
        var load = LoadAsync(options, "randread", 32);
        var (bytes, requests) = await target.MeasureAllocationsAsync();
        await load;
        Console.WriteLine($"allocated: {bytes} bytes in {requests} requests");
        // One object for each request would be 24 bytes at least. What the runtime does beside it stays far below one byte.
        return bytes < requests / 100;
    }

    private static async Task<double> LoadAsync(Options options, string pattern, int depth)
    {
        var output = await Run(
            options.LoadGenerator,
            [options.PeerPath, pattern, "4096", depth.ToString(CultureInfo.InvariantCulture), options.Seconds.ToString(CultureInfo.InvariantCulture)]);
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

    private sealed class Target : IAsyncDisposable
    {
        private readonly Process _process;
        private readonly bool _ours;

        private Target(Process process, bool ours)
        {
            _process = process;
            _ours = ours;
        }

        internal static async Task<Target> OpenOursAsync(Options options, string backend)
        {
            File.Delete(options.HostPath);
            var process = Process.Start(new ProcessStartInfo("dotnet", [typeof(BlockBench).Assembly.Location, "serve", options.HostPath, backend])
            {
                RedirectStandardInput = true,
                RedirectStandardOutput = true,
                UseShellExecute = false,
            })!;
            await process.StandardOutput.ReadLineAsync();
            return new Target(process, ours: true);
        }

        internal static async Task<Target> OpenQsdAsync(Options options)
        {
            File.Delete(options.HostPath);
            var process = Process.Start(new ProcessStartInfo(options.Qsd[0],
            [
                .. options.Qsd[1..],
                "--blockdev", "driver=null-co,node-name=d0,size=1073741824,read-zeroes=off",
                "--export", $"type=vhost-user-blk,id=e0,node-name=d0,addr.type=unix,addr.path={options.PeerPath},writable=on,num-queues=1",
            ])
            { UseShellExecute = false })!;
            for (var i = 0; i < 500 && !File.Exists(options.HostPath); i++)
                await Task.Delay(20);
            return new Target(process, ours: false);
        }

        internal async Task<(long Bytes, long Requests)> MeasureAllocationsAsync()
        {
            await _process.StandardInput.WriteLineAsync("allocations");
            await _process.StandardInput.FlushAsync();
            var words = (await _process.StandardOutput.ReadLineAsync() ?? "").Split(' ');
            return (long.Parse(words[0], CultureInfo.InvariantCulture), long.Parse(words[1], CultureInfo.InvariantCulture));
        }

        public async ValueTask DisposeAsync()
        {
            if (_ours)
                _process.StandardInput.Close();
            else
                _process.Kill();
            await _process.WaitForExitAsync();
            _process.Dispose();
        }
    }

    private sealed record Options(string[] LoadGenerator, string[] Qsd, string HostPath, string PeerPath, int Rounds, int Seconds)
    {
        internal static Options? Parse(string[] args)
        {
            var values = new Dictionary<string, string>(StringComparer.Ordinal)
            {
                ["--loadgen"] = Environment.GetEnvironmentVariable("VIRTBUS_LOADGEN") ?? "",
                ["--qsd"] = Environment.GetEnvironmentVariable("VIRTBUS_QSD") ?? "",
                ["--root"] = "",
                ["--rounds"] = "3",
                ["--seconds"] = "3",
            };
            for (var i = 0; i < args.Length; i += 2)
            {
                if (!values.ContainsKey(args[i]) || i + 1 == args.Length)
                {
                    Console.Error.WriteLine($"unknown or unfinished option '{args[i]}'");
                    return null;
                }

                values[args[i]] = args[i + 1];
            }

            if (values["--loadgen"].Length == 0)
            {
                Console.Error.WriteLine("no load generator: give --loadgen or VIRTBUS_LOADGEN; it is called with SOCKET PATTERN BYTES DEPTH SECONDS");
                return null;
            }

            var socket = $"/tmp/virtbus-bench-{Environment.ProcessId}.sock";
            return new Options(
                Words(values["--loadgen"]),
                Words(values["--qsd"]),
                values["--root"] + socket,
                socket,
                int.Parse(values["--rounds"], CultureInfo.InvariantCulture),
                int.Parse(values["--seconds"], CultureInfo.InvariantCulture));
        }

        private static string[] Words(string text) => text.Split(' ', StringSplitOptions.RemoveEmptyEntries);
    }
}
