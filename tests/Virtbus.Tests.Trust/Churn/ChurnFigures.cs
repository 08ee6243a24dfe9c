using System.Globalization;

namespace Virtbus.Tests.Trust;

/// <summary>What a process takes of its host at one moment.</summary>
/// <param name="Seconds">When, since the churn began.</param>
/// <param name="Descriptors">Open descriptors.</param>
/// <param name="Threads">Threads.</param>
/// <param name="Mappings">Mappings of its address space.</param>
/// <param name="AddressSpaceGiB">Address space that they take.</param>
/// <param name="MemoryMiB">Memory of its own in RAM: what it shares with its users is theirs.</param>
/// <param name="LogLines">Lines that its log has had so far.</param>
internal sealed record ChurnFigures(double Seconds, int Descriptors, int Threads, int Mappings, long AddressSpaceGiB, long MemoryMiB, int LogLines)
{
    public const string Head = "  seconds  descriptors  threads  mappings  address GiB  memory MiB  log lines";

    public static ChurnFigures Of(int process, double seconds, int logLines)
    {
        var status = File.ReadLines($"/proc/{process}/status").Select(static line => line.Split(':', 2)).ToDictionary(static p => p[0], static p => p[1].Trim());
        return new ChurnFigures(
            seconds,
            Directory.GetFiles($"/proc/{process}/fd").Length,
            int.Parse(status["Threads"], CultureInfo.InvariantCulture),
            File.ReadLines($"/proc/{process}/maps").Count(),
            KiB("VmSize") >> 20,
            KiB("RssAnon") >> 10,
            logLines);

        long KiB(string name) => long.Parse(status[name].Split(' ')[0], CultureInfo.InvariantCulture);
    }

    public override string ToString() => string.Create(
        CultureInfo.InvariantCulture, $"{Seconds,9:0}{Descriptors,13}{Threads,9}{Mappings,10}{AddressSpaceGiB,13}{MemoryMiB,12}{LogLines,11}");
}
