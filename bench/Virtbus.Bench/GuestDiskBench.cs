using System.Diagnostics;
using System.Globalization;
using System.Text.Json;
using static Virtbus.Bench.Statistics;

namespace Virtbus.Bench;

/// <summary>
/// The same back end behind a virtio function over vfio-user and behind a vhost-user socket, each the disk of a real guest in turn, which reads 4 KiB at random
/// with 32 requests under way. The program itself serves them and starts the guests; processor time is that of the daemon, and of QEMU with the guest in it.
/// </summary>
internal static class GuestDiskBench
{
    private const int Depth = 32;
    private const int Block = 4096;
    private const double Gibibyte = 1 << 30;
    private static readonly (string Device, string Protocol)[] Cases = [("fn0", "virtio function, vfio-user"), ("disk0", "vhost-user")];

    internal static async Task<int> RunAsync(string[] args)
    {
        var values = new Dictionary<string, string>(StringComparer.Ordinal) { ["--program"] = "./virtbus", ["--rounds"] = "5", ["--seconds"] = "5", ["--backend"] = "\"null\": 1GiB" };
        if (!NamedValues.TryRead(args, values))
            return 2;
        var folder = Directory.CreateTempSubdirectory("virtbus-bench");
        var program = Path.GetFullPath(values["--program"]);
        try
        {
            var load = await CompileAsync(folder.FullName);
            var manifest = Path.Combine(folder.FullName, "fabric.yaml");
            await File.WriteAllTextAsync(manifest, $$"""
                adapters:
                  - { name: adapter0, model: merlin }
                disks:
                  - { name: disk0, adapter: adapter0, {{values["--backend"]}} }
                functions:
                  - { name: fn0, virtio: blk, {{values["--backend"]}} }
                """);
            await SayAsync(program, folder.FullName, "up", manifest, "--detach");
            try
            {
                await MeasureAsync(program, folder.FullName, load, int.Parse(values["--rounds"], CultureInfo.InvariantCulture), values["--seconds"]);
            }
            finally
            {
                await SayAsync(program, folder.FullName, "down");
            }
        }
        finally
        {
            folder.Delete(recursive: true);
        }

        return 0;
    }

    private static async Task MeasureAsync(string program, string folder, byte[] load, int rounds, string seconds)
    {
        using var status = JsonDocument.Parse(await SayAsync(program, folder, "status", "--json"));
        var daemon = status.RootElement.GetProperty("pid").GetInt32();
        var results = Cases.Select(static _ => new List<Load>()).ToArray();
        for (var round = 0; round < rounds; round++)
        {
            for (var i = 0; i < Cases.Length; i++)
                results[i].Add(await LoadAsync(program, folder, load, Cases[i].Device, seconds, daemon));
        }

        Console.WriteLine($"4 KiB reads at random, {Depth} under way, {seconds} s each, medians of {rounds} rounds");
        Console.WriteLine("| disk | IOPS | daemon, processor s a GiB | QEMU and guest, processor s a GiB |");
        Console.WriteLine("|---|---|---|---|");
        for (var i = 0; i < Cases.Length; i++)
            Console.WriteLine($"| {Cases[i].Protocol} | {Median(results[i].Select(static r => r.Rate)):F0} | {Median(results[i].Select(static r => r.Daemon)):F2} | {Median(results[i].Select(static r => r.Qemu)):F2} |");
        Console.WriteLine($"ratio of the first one in the same round: IOPS {Median(results[0].Zip(results[1], static (a, b) => a.Rate / b.Rate)):F2}, daemon {Median(results[0].Zip(results[1], static (a, b) => a.Daemon / b.Daemon)):F2}");
    }

    private static async Task<Load> LoadAsync(string program, string folder, byte[] load, string device, string seconds, int daemon)
    {
        using var process = Start(
            program, folder, "vm", device, "--", "sh", "-ec",
            $"dd of=/bin/load bs={Block} count={load.Length / Block} iflag=fullblock 2>/dev/null; chmod +x /bin/load; load /dev/vda {Depth} {seconds}");
        await process.StandardInput.BaseStream.WriteAsync(load);
        process.StandardInput.Close();
        if (await process.StandardOutput.ReadLineAsync() != "begin")
            throw new InvalidOperationException($"The guest of {device} did not begin: {await process.StandardError.ReadToEndAsync()}");
        var qemu = Child(process.Id);
        var (ours, theirs) = (ProcessorSeconds(daemon), ProcessorSeconds(qemu));
        var words = (await process.StandardOutput.ReadLineAsync() ?? "").Split(' ');
        (ours, theirs) = (ProcessorSeconds(daemon) - ours, ProcessorSeconds(qemu) - theirs);
        await process.WaitForExitAsync();
        if (words is not ["end", var count, var nanoseconds])
            throw new InvalidOperationException($"The guest of {device} did not end: {await process.StandardError.ReadToEndAsync()}");
        var reads = double.Parse(count, CultureInfo.InvariantCulture);
        return new Load(reads / double.Parse(nanoseconds, CultureInfo.InvariantCulture) * 1e9, ours / (reads * Block / Gibibyte), theirs / (reads * Block / Gibibyte));
    }

    // The launcher becomes the program, whose child is QEMU.
    private static int Child(int process) =>
        int.Parse(
            Directory.GetDirectories($"/proc/{process}/task").SelectMany(static task => File.ReadAllText(task + "/children").Split(' ', StringSplitOptions.RemoveEmptyEntries)).Single(),
            CultureInfo.InvariantCulture);

    private static double ProcessorSeconds(int process)
    {
        using var seen = Process.GetProcessById(process);
        return seen.TotalProcessorTime.TotalSeconds;
    }

    private static async Task<byte[]> CompileAsync(string folder)
    {
        var load = Path.Combine(folder, "load");
        await SayAsync("gcc", folder, "-O2", "-Wall", "-static", "-o", load, Path.Combine(AppContext.BaseDirectory, "peers", "guest_disk_load.c"));
        var bytes = await File.ReadAllBytesAsync(load);
        // To whole blocks, as the guest takes it.
        Array.Resize(ref bytes, (bytes.Length + Block - 1) / Block * Block);
        return bytes;
    }

    private static Process Start(string program, string folder, params string[] arguments) => Process.Start(new ProcessStartInfo(program, arguments)
    {
        RedirectStandardInput = true,
        RedirectStandardOutput = true,
        RedirectStandardError = true,
        UseShellExecute = false,
        Environment = { ["VIRTBUS_RUNTIME"] = Path.Combine(folder, "run") },
    })!;

    private static async Task<string> SayAsync(string program, string folder, params string[] arguments)
    {
        using var process = Start(program, folder, arguments);
        var errors = process.StandardError.ReadToEndAsync();
        var output = await process.StandardOutput.ReadToEndAsync();
        await process.WaitForExitAsync();
        return process.ExitCode == 0 ? output : throw new InvalidOperationException($"{program} {string.Join(' ', arguments)}: {await errors}");
    }

    private readonly record struct Load(double Rate, double Daemon, double Qemu);
}
