using System.Diagnostics;
using Virtbus.Buses.Auxiliary;
using Virtbus.Core;
using Virtbus.Platform;
using Virtbus.Transports.Fuse;
using static Virtbus.Bench.Statistics;

namespace Virtbus.Bench;

/// <summary>
/// The mounted tree: files that are opened, read and closed, and read again, beside the host's own sysfs by the same calls in the same run; and a folder of many devices
/// that is listed. As root, with /dev/fuse.
/// </summary>
internal static class TreeBench
{
    private const string HostFile = "/sys/kernel/uevent_seqnum";
    private const int BufferSize = 4096;

    internal static async Task<int> RunAsync(string[] args)
    {
        var values = new Dictionary<string, string>(StringComparer.Ordinal) { ["--rounds"] = "7", ["--milliseconds"] = "500", ["--devices"] = "100000", ["--threads"] = "1" };
        if (!NamedValues.TryRead(args, values))
            return 2;
        var (rounds, milliseconds, devices) = (int.Parse(values["--rounds"]), int.Parse(values["--milliseconds"]), int.Parse(values["--devices"]));
        var fabric = new Fabric();
        var bus = fabric.RegisterBus(new AuxiliaryBus());
        var parent = new Device("parent");
        await fabric.AddAsync(parent);
        for (var i = 0; i < devices; i++)
            await fabric.AddAsync(new AuxiliaryDevice(bus, "mod", "part", (uint)i, parent));
        using var device = FuseFile.TryOpen(out var error) ?? throw new VirtbusException(error, $"/dev/fuse can't be opened: {error}. Run as root.");
        var folder = Directory.CreateTempSubdirectory("virtbus-bench-").FullName;
        if (HostMounts.MountFuse(device, "virtbus", folder, forOthers: false) is var refused and not Errno.None)
            throw new VirtbusException(refused, $"{folder} can't be mounted: {refused}. Run as root.");
        try
        {
            await using var mount = FuseMount.Serve(fabric, device, new FuseMountOptions { Folder = folder, Threads = int.Parse(values["--threads"]) });
            Measure(folder, rounds, milliseconds, devices);
        }
        finally
        {
            HostMounts.Unmount(folder);
            Directory.Delete(folder);
        }

        return 0;
    }

    private static void Measure(string folder, int rounds, int milliseconds, int devices)
    {
        string[] files = [folder + "/bus/auxiliary/devices/mod.part.7/modalias", HostFile];
        double[][] opens = [[], []], reads = [[], []];
        List<double> lists = [];
        for (var round = 0; round < rounds; round++)
        {
            for (var i = 0; i < files.Length; i++)
            {
                opens[i] = [.. opens[i], Opens(files[i], milliseconds)];
                reads[i] = [.. reads[i], Reads(files[i], milliseconds)];
            }

            var start = Stopwatch.GetTimestamp();
            var count = Directory.EnumerateFileSystemEntries(folder + "/bus/auxiliary/devices").Count();
            lists.Add(Stopwatch.GetElapsedTime(start).TotalSeconds);
            if (count != devices)
                throw new InvalidOperationException($"{count} devices are listed, and there are {devices}.");
        }

        Console.WriteLine("| thousand a second | mounted tree | the host's sysfs |");
        Console.WriteLine("|---|---|---|");
        Console.WriteLine($"| open, read, close | {Median([.. opens[0]]) / 1e3:F1} | {Median([.. opens[1]]) / 1e3:F1} |");
        Console.WriteLine($"| read again | {Median([.. reads[0]]) / 1e3:F1} | {Median([.. reads[1]]) / 1e3:F1} |");
        Console.WriteLine();
        Console.WriteLine($"{devices} devices are listed in {Median([.. lists]):F2} s.");
    }

    private static double Opens(string file, int milliseconds)
    {
        var buffer = new byte[BufferSize];
        return Rate(milliseconds, () =>
        {
            using var handle = File.OpenHandle(file, FileMode.Open, FileAccess.Read, FileShare.ReadWrite | FileShare.Delete);
            RandomAccess.Read(handle, buffer, 0);
        });
    }

    private static double Reads(string file, int milliseconds)
    {
        var buffer = new byte[BufferSize];
        using var handle = File.OpenHandle(file, FileMode.Open, FileAccess.Read, FileShare.ReadWrite | FileShare.Delete);
        return Rate(milliseconds, () => RandomAccess.Read(handle, buffer, 0));
    }

    private static double Rate(int milliseconds, Action act)
    {
        var start = Stopwatch.GetTimestamp();
        var count = 0;
        TimeSpan took;
        while ((took = Stopwatch.GetElapsedTime(start)).TotalMilliseconds < milliseconds)
        {
            for (var i = 0; i < 100; i++)
                act();
            count += 100;
        }

        return count / took.TotalSeconds;
    }
}
