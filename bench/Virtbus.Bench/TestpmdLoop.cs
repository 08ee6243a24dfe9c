using System.Diagnostics;
using System.Globalization;

namespace Virtbus.Bench;

/// <summary>
/// DPDK's loop while it runs: one testpmd behind a vhost port and one with a virtio-user port before it, a core each, that hand each other's frames back.
/// Frames go round without end, so what the second one receives in a second is the rate.
/// </summary>
internal sealed class TestpmdLoop : IDisposable
{
    private const int MegabytesOfEach = 512;
    private readonly DirectoryInfo _folder = Directory.CreateTempSubdirectory("virtbus-bench");
    private readonly Process _back;
    private readonly Process _front;

    /// <summary>Starts both.</summary>
    /// <param name="command">testpmd, and what stands before its options.</param>
    /// <param name="packed">Whether the rings are packed ones.</param>
    /// <param name="length">Bytes of a frame.</param>
    /// <param name="queueSize">Entries of a ring.</param>
    internal TestpmdLoop(string[] command, bool packed, int length, int queueSize)
    {
        var socket = Path.Combine(_folder.FullName, "vhost.sock");
        _back = Start(command, "back", 0, ["--vdev", $"net_vhost0,iface={socket},queues=1"], []);
        // Figures come from it when its socket is there. What nobody reads after that would hold it up.
        NextRate(_back);
        _ = _back.StandardOutput.ReadToEndAsync();
        _front = Start(
            command, "front", 1,
            ["--single-file-segments", "--vdev", $"net_virtio_user0,path={socket},queues=1,queue_size={queueSize},packed_vq={(packed ? 1 : 0)}"],
            ["--tx-first", $"--txpkts={length}"]);
    }

    /// <summary>Waits for some of its own figures, of a second each.</summary>
    /// <param name="seconds">How many.</param>
    /// <returns>Frames a second, the median of those seconds.</returns>
    /// <exception cref="InvalidOperationException">It ended.</exception>
    internal double Measure(int seconds)
    {
        List<double> rates = [];
        while (rates.Count < seconds)
        {
            // The first ones are from before the ports were up.
            if (NextRate(_front) is > 0 and var rate)
                rates.Add(rate);
        }

        return Statistics.Median(rates);
    }

    public void Dispose()
    {
        foreach (var process in (Process[])[_front, _back])
        {
            process.Kill(entireProcessTree: true);
            process.WaitForExit();
            process.Dispose();
        }

        _folder.Delete(recursive: true);
    }

    private Process Start(string[] command, string name, int core, string[] device, string[] options)
    {
        var start = new ProcessStartInfo(
            command[0],
            [
                .. command[1..], "-l", "0,1", "--main-lcore", $"{core}", "--no-pci", "--no-huge", "-m", $"{MegabytesOfEach}", "--file-prefix", $"{_folder.Name}-{name}", .. device,
                "--", "--forward-mode=io", "--nb-cores=1", "--no-mlockall", "--auto-start", "--stats-period=1", "--total-num-mbufs=16384", .. options,
            ])
        {
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
            UseShellExecute = false,
        };
        start.Environment["XDG_RUNTIME_DIR"] = _folder.FullName;
        var process = Process.Start(start)!;
        _ = process.StandardError.ReadToEndAsync();
        return process;
    }

    private static double NextRate(Process process)
    {
        while (process.StandardOutput.ReadLine() is { } line)
        {
            if (line.Split(' ', StringSplitOptions.RemoveEmptyEntries) is ["Rx-pps:", var rate, ..])
                return double.Parse(rate, CultureInfo.InvariantCulture);
        }

        throw new InvalidOperationException("testpmd ended; does it run with these options by hand?");
    }
}
