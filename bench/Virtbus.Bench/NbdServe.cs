using Microsoft.Extensions.Logging.Abstractions;
using Virtbus.Block;
using Virtbus.Transports.Nbd;

namespace Virtbus.Bench;

/// <summary>A disk on an NBD socket until standard input ends.</summary>
internal static class NbdServe
{
    internal static async Task<int> RunAsync(string[] args)
    {
        if (args.Length != 2)
            return 2;
        using IBlockBackend backend = args[1] switch
        {
            "null" => new NullBackend(1 << 30),
            "memory" => new MemoryBackend(1 << 30),
            var file => FileBackend.Open(file),
        };
        await using var server = new NbdServer(NbdAddress.OfSocket(args[0]), NullLogger.Instance);
        server.Add(new NbdExport("", backend));
        server.Start();
        Console.WriteLine("ready");
        while (await Console.In.ReadLineAsync() is { } line)
        {
            if (line == "allocated")
                Console.WriteLine(GC.GetTotalAllocatedBytes(precise: true));
        }

        return 0;
    }
}
