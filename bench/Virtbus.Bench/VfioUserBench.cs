using System.Diagnostics;
using System.Globalization;

namespace Virtbus.Bench;

/// <summary>
/// Register accesses and maps a second over vfio-user, client and server as two processes on one processor: the bare exchange of the same
/// bytes, our server, and another one when it is named, turn by turn in one run, medians of the rounds.
/// </summary>
internal static class VfioUserBench
{
    private const string Bare = "bare exchange, C";
    private const string Room = "bare, room for descriptors, C";
    private const string Watched = "bare, watched client, C";
    private const string Bound = "unseen in runs, C";
    private const string Ours = "our server, C client";
    private const string OurClient = "our server, our client";
    private const string Other = "other server, C client";
    private static readonly string[] Cases = ["read", "write", "posted", "pipelined", "map"];

    internal static async Task<int> RunAsync(string[] args)
    {
        var options = Options.Parse(args);
        if (options is null)
            return 2;
        var folder = Directory.CreateTempSubdirectory("virtbus-bench");
        try
        {
            var load = Path.Combine(folder.FullName, "load");
            var source = Path.Combine(AppContext.BaseDirectory, "peers", "vfio_user_load.c");
            await StartAsync("gcc", "-O2", "-Wall", "-pthread", "-o", load, source);
            return await RunAsync(options, folder.FullName, load);
        }
        finally
        {
            folder.Delete(recursive: true);
        }
    }

    private static async Task<int> RunAsync(Options options, string folder, string load)
    {
        var self = typeof(VfioUserBench).Assembly.Location;
        var bare = Path.Combine(folder, "bare");
        var room = Path.Combine(folder, "room");
        var bound = Path.Combine(folder, "bound");
        var ours = Path.Combine(folder, "ours");
        var other = Path.Combine(folder, "other");
        var results = new Dictionary<(string Target, string Case), List<(double Wall, double Processor)>>();
        await using var bareServer = await Target.OpenAsync(options, bare, load, "echo-server", bare);
        await using var roomServer = await Target.OpenAsync(options, room, load, "room-server", room);
        await using var boundServer = await Target.OpenAsync(options, bound, load, "runs-server", bound);
        await using var ourServer = await Target.OpenAsync(options, ours, "dotnet", self, "vfio-user-serve", ours);
        await using var otherServer = options.Peer.Length == 0 ? null : await Target.OpenAsync(options, other, [.. options.Peer, other]);
        for (var round = 0; round <= options.Rounds; round++)
        {
            foreach (var work in Cases)
            {
                if (work is "read")
                {
                    await MeasureAsync(Bare, work, bareServer, load, "echo", bare);
                    await MeasureAsync(Room, work, roomServer, load, "echo", room);
                    await MeasureAsync(Watched, work, bareServer, load, "watched", bare);
                }

                if (work is not "map")
                    await MeasureAsync(Bound, work, boundServer, load, work, bound);
                await MeasureAsync(Ours, work, ourServer, load, work, ours);
                await MeasureAsync(OurClient, work, ourServer, "dotnet", self, "vfio-user-load", work, ours);
                if (otherServer is not null)
                    await MeasureAsync(Other, work, otherServer, load, work, other);
            }
        }

        Print(options, results);
        return await CheckAllocationsAsync(options, ourServer, load, ours) ? 0 : 1;

        async Task MeasureAsync(string target, string work, Target server, params string[] command)
        {
            var output = await StartAsync([.. options.Pin, .. command, options.Seconds.ToString(CultureInfo.InvariantCulture), server.Process]);
            if (!results.TryGetValue((target, work), out var list))
                results[(target, work)] = list = [];
            var words = output.Split(' ');
            list.Add((double.Parse(words[0], CultureInfo.InvariantCulture), double.Parse(words[1], CultureInfo.InvariantCulture)));
        }
    }

    private static void Print(Options options, Dictionary<(string Target, string Case), List<(double Wall, double Processor)>> results)
    {
        Console.WriteLine($"on processor {options.Pin[^1]}, median of {options.Rounds} rounds after one to warm up (lowest to highest), {options.Seconds} s each");
        Table("thousand a second of processor time", result => result.Processor);
        AllRatios(result => result.Processor);
        Table("thousand a second by the clock", result => result.Wall);
        AllRatios(result => result.Wall);

        void Table(string title, Func<(double Wall, double Processor), double> pick)
        {
            Console.WriteLine($"{title,-36}{string.Concat(Cases.Select(work => $"{work,24}"))}");
            foreach (var target in results.Keys.Select(key => key.Target).Distinct())
            {
                var cells = Cases.Select(work =>
                {
                    if (!results.TryGetValue((target, work), out var list))
                        return $"{"",24}";
                    var sorted = list.Skip(1).Select(pick).Order().ToArray();
                    return $"{$"{sorted[sorted.Length / 2] / 1000:0} ({sorted[0] / 1000:0} to {sorted[^1] / 1000:0})",24}";
                });
                Console.WriteLine($"{target,-36}{string.Concat(cells)}");
            }
        }

        void AllRatios(Func<(double Wall, double Processor), double> pick)
        {
            Ratios(Ours, Bare, pick);
            Ratios(Ours, Room, pick);
            Ratios(OurClient, Watched, pick);
            Ratios(Ours, Bound, pick);
            Ratios(Bound, Other, pick);
            Ratios(Ours, Other, pick);
        }

        void Ratios(string target, string against, Func<(double Wall, double Processor), double> pick)
        {
            if (!results.Keys.Any(key => key.Target == against))
                return;
            // Each round by itself: what else the host does hits neighbours alike.
            var cells = Cases.Select(work =>
            {
                if (!results.TryGetValue((against, work), out var below) || !results.TryGetValue((target, work), out var above))
                    return $"{"",24}";
                var sorted = below.Zip(above, (b, a) => pick(a) / pick(b)).Skip(1).Order().ToArray();
                return $"{$"{sorted[sorted.Length / 2]:0.00} ({sorted[0]:0.00} to {sorted[^1]:0.00})",24}";
            });
            Console.WriteLine($"{target}{Environment.NewLine}{"  / " + against,-36}{string.Concat(cells)}");
        }
    }

    /// <summary>Lets the server count what it allocates in the middle of a run.</summary>
    private static async Task<bool> CheckAllocationsAsync(Options options, Target server, string load, string socket)
    {
        var running = StartAsync([.. options.Pin, load, "pipelined", socket, "10", server.Process]);
        var words = (await server.AskAsync("allocations")).Split(' ');
        await running;
        var (bytes, accesses) = (long.Parse(words[0], CultureInfo.InvariantCulture), long.Parse(words[1], CultureInfo.InvariantCulture));
        Console.WriteLine($"allocated: {bytes} bytes in {accesses} accesses");
        // One object for each access would be 24 bytes at least. What the runtime does beside it stays far below one byte.
        return accesses > 0 && bytes < accesses / 10;
    }

    private static async Task<string> StartAsync(params string[] command)
    {
        using var process = Process.Start(new ProcessStartInfo(command[0], command[1..]) { RedirectStandardOutput = true, UseShellExecute = false })!;
        var output = await process.StandardOutput.ReadToEndAsync();
        await process.WaitForExitAsync();
        return process.ExitCode == 0 ? output : throw new InvalidOperationException($"{string.Join(' ', command)} ended with {process.ExitCode}");
    }

    private sealed class Target : IAsyncDisposable
    {
        private readonly System.Diagnostics.Process _process;

        private Target(System.Diagnostics.Process process) => _process = process;

        internal string Process => _process.Id.ToString(CultureInfo.InvariantCulture);

        internal static async Task<Target> OpenAsync(Options options, string socket, params string[] command)
        {
            var process = System.Diagnostics.Process.Start(new ProcessStartInfo(options.Pin[0], [.. options.Pin[1..], .. command])
            {
                RedirectStandardInput = true,
                RedirectStandardOutput = true,
                UseShellExecute = false,
            })!;
            await PeerSocket.AwaitAsync(socket, process);
            return new Target(process);
        }

        internal async Task<string> AskAsync(string line)
        {
            // The first line said that it is ready.
            await _process.StandardOutput.ReadLineAsync();
            await _process.StandardInput.WriteLineAsync(line);
            await _process.StandardInput.FlushAsync();
            return await _process.StandardOutput.ReadLineAsync() ?? "0 0";
        }

        public async ValueTask DisposeAsync()
        {
            _process.Kill();
            await _process.WaitForExitAsync();
            _process.Dispose();
        }
    }

    private sealed record Options(string[] Pin, string[] Peer, int Rounds, double Seconds)
    {
        internal static Options? Parse(string[] args)
        {
            var values = new Dictionary<string, string>(StringComparer.Ordinal) { ["--peer"] = "", ["--rounds"] = "5", ["--seconds"] = "2", ["--cpu"] = "0" };
            if (!NamedValues.TryRead(args, values))
                return null;
            return new Options(
                ["taskset", "-c", values["--cpu"]],
                values["--peer"].Split(' ', StringSplitOptions.RemoveEmptyEntries),
                int.Parse(values["--rounds"], CultureInfo.InvariantCulture),
                double.Parse(values["--seconds"], CultureInfo.InvariantCulture));
        }
    }
}
