using System.Diagnostics;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Logging.Console;
using Virtbus.Block;
using Virtbus.Tests;
using Virtbus.Transports.VhostUser;

namespace Virtbus.Bench;

/// <summary>A disk on a vhost-user socket until standard input ends; then what its queue counted.</summary>
internal static class BlockServe
{
    private const ulong AllocationWarmUp = 200_000;
    private const ulong AllocationRequests = 1_000_000;
    private static readonly TimeSpan s_patience = TimeSpan.FromSeconds(10);

    internal static async Task<int> RunAsync(string[] args)
    {
        using var logs = LoggerFactory.Create(builder => builder
            .AddSimpleConsole(options => options.SingleLine = true)
            .AddFilter(level => level >= LogLevel.Warning || !string.IsNullOrEmpty(Environment.GetEnvironmentVariable("VIRTBUS_LOG")))
            .Services.Configure<ConsoleLoggerOptions>(options => options.LogToStandardErrorThreshold = LogLevel.Trace));
        var size = (args.Length > 2 ? long.Parse(args[2]) : 1) << 30;
        using IBlockBackend backend = args[1] switch
        {
            "null" => new NullBackend(size),
            "memory" => new MemoryBackend(size),
            var file => FileBackend.Open(file, direct: args.Length > 3 && args[3] == "direct"),
        };
        using var disk = ModelDisk.Create(backend, "bench", 1);
        await using var server = new VhostUserServer(args[0], disk, logs.CreateLogger("vhost-user"));
        server.Start();
        Console.WriteLine("ready");
        while (await Console.In.ReadLineAsync() is { } line)
        {
            if (line == "allocations")
                Console.WriteLine(MeasureAllocations(server));
        }

        Console.WriteLine(server.GetQueueCounters(0));
        return 0;
    }

    /// <summary>
    /// Bytes that the process allocates while it serves a million requests after a warm-up, and how many it were: fewer when the front end
    /// goes before.
    /// </summary>
    private static string MeasureAllocations(VhostUserServer server)
    {
        WaitFor(server, AllocationWarmUp);
        var first = server.GetQueueCounters(0).Requests;
        var before = GC.GetTotalAllocatedBytes(precise: true);
        WaitFor(server, first + AllocationRequests);
        var allocated = GC.GetTotalAllocatedBytes(precise: true) - before;
        return $"{allocated} {server.GetQueueCounters(0).Requests - first}";
    }

    // A front end may connect only to look, and again to work.
    private static void WaitFor(VhostUserServer server, ulong requests)
    {
        var start = Stopwatch.GetTimestamp();
        while (server.GetQueueCounters(0).Requests is var done && done < requests && (server.IsConnected || (done == 0 && Stopwatch.GetElapsedTime(start) < s_patience)))
            Thread.Yield();
    }
}
