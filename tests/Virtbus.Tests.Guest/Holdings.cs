using System.Text.Json;
using Virtbus.Tests.Cli;

namespace Virtbus.Tests.Guest;

/// <summary>What a process has open and mapped, to see that nothing of a guest stays.</summary>
internal static class Holdings
{
    public const string GuestMemory = "guest memory";

    /// <summary>How many descriptors of each kind a process has, but for files, which the runtime opens when it will; and mappings of guest memory.</summary>
    public static SortedDictionary<string, int> Of(int process)
    {
        var kinds = Directory.GetFiles($"/proc/{process}/fd").Select(path => File.ResolveLinkTarget(path, returnFinalTarget: false)?.Name ?? "")
            .Where(name => name.Contains(':', StringComparison.Ordinal))
            .Select(name => name.Split('[')[0])
            .Concat(File.ReadLines($"/proc/{process}/maps").Where(line => line.Contains("memory-backend-memfd", StringComparison.Ordinal)).Select(_ => GuestMemory));
        return new SortedDictionary<string, int>(kinds.CountBy(kind => kind).ToDictionary(), StringComparer.Ordinal);
    }

    /// <summary>The process of a fabric that is up.</summary>
    public static async Task<int> DaemonOfAsync(TestFabric fabric) =>
        JsonDocument.Parse(await File.ReadAllTextAsync(Path.Combine(fabric.Runtime, "lock"))).RootElement.GetProperty("pid").GetInt32();
}
