using System.Globalization;

namespace Virtbus.Platform;

/// <summary>Something that this process may use so much of and no more.</summary>
/// <param name="name">What it is, in the words of a person: lower case, plural.</param>
/// <param name="used">How much is used at the moment of the call; null when that can't be told. From any thread.</param>
/// <param name="limit">How much there is; null when there is no end, or none that can be told. From any thread.</param>
public sealed class Budget(string name, Func<long?> used, Func<long?> limit)
{
    // A line of it for each thing that is mapped: reading all of it is the only way to know how many.
    private const string MapsFile = "/proc/self/maps";

    /// <summary>The open descriptors, against the soft limit of the process.</summary>
    public static Budget Descriptors { get; } = new("descriptors", CountDescriptors, () => LimitOf("Max open files"));

    /// <summary>The mappings of the process's address space, against the kernel's limit.</summary>
    public static Budget Mappings { get; } = new("mappings", () => Guard(() => File.ReadLines(MapsFile).LongCount()), () => NumberIn("/proc/sys/vm/max_map_count"));

    /// <summary>The threads, against the limit of the user, which counts other processes too.</summary>
    public static Budget Threads { get; } = new("threads", () => Guard(() => Directory.EnumerateDirectories("/proc/self/task").LongCount()), () => LimitOf("Max processes"));

    /// <summary>What it is.</summary>
    public string Name => name;

    /// <summary>How much is used now; null when that can't be told.</summary>
    public long? Used => used();

    /// <summary>How much there is; null when there is no end, or none that can be told.</summary>
    public long? Limit => limit();

    // The one that lists them is open as well.
    private static long? CountDescriptors() => Guard(() => Directory.EnumerateFileSystemEntries("/proc/self/fd").LongCount() - 1);

    private static long? NumberIn(string file) => Guard(() => long.Parse(File.ReadAllText(file), CultureInfo.InvariantCulture));

    // Columns of fixed width: name, soft limit, hard limit, unit.
    private static long? LimitOf(string limit) => Guard(() =>
        File.ReadLines("/proc/self/limits").FirstOrDefault(line => line.StartsWith(limit, StringComparison.Ordinal)) is { } line &&
        long.TryParse(line[limit.Length..].Split(' ', StringSplitOptions.RemoveEmptyEntries)[0], NumberStyles.None, CultureInfo.InvariantCulture, out var number)
            ? number
            : null);

    // Who asks may ask because nothing is left, a descriptor for /proc included.
    private static long? Guard(Func<long?> read)
    {
        try
        {
            return read();
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or FormatException)
        {
            return null;
        }
    }
}
