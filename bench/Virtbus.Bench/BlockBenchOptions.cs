using System.Globalization;

namespace Virtbus.Bench;

/// <summary>What `bench block` was asked.</summary>
internal sealed record BlockBenchOptions(string[] LoadGenerator, string[] Qsd, string Root, string[] Files, string HostPath, string PeerPath, int Rounds, int Seconds)
{
    internal static BlockBenchOptions? Parse(string[] args)
    {
        var values = new Dictionary<string, string>(StringComparer.Ordinal)
        {
            ["--loadgen"] = Environment.GetEnvironmentVariable("VIRTBUS_LOADGEN") ?? "",
            ["--qsd"] = Environment.GetEnvironmentVariable("VIRTBUS_QSD") ?? "",
            ["--root"] = "",
            ["--files"] = "",
            ["--rounds"] = "3",
            ["--seconds"] = "3",
        };
        if (!NamedValues.TryRead(args, values))
            return null;
        if (values["--loadgen"].Length == 0)
        {
            Console.Error.WriteLine("no load generator: give --loadgen or VIRTBUS_LOADGEN; it is called with SOCKET PATTERN BYTES DEPTH SECONDS");
            return null;
        }

        var socket = $"/tmp/virtbus-bench-{Environment.ProcessId}.sock";
        return new BlockBenchOptions(
            Words(values["--loadgen"]),
            Words(values["--qsd"]),
            values["--root"],
            values["--files"].Split(',', StringSplitOptions.RemoveEmptyEntries),
            values["--root"] + socket,
            socket,
            int.Parse(values["--rounds"], CultureInfo.InvariantCulture),
            int.Parse(values["--seconds"], CultureInfo.InvariantCulture));
    }

    /// <summary>Whether files of that folder can be read past the page cache; tmpfs is that cache.</summary>
    internal bool IsDirectPossible(string folder) => new DriveInfo(Root + folder).DriveFormat != "tmpfs";

    private static string[] Words(string text) => text.Split(' ', StringSplitOptions.RemoveEmptyEntries);
}
