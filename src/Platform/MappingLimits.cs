using System.Globalization;
using System.Numerics;

namespace Virtbus.Platform;

/// <summary>How much the host lets this process map.</summary>
public static class MappingLimits
{
    // The kernel's own number, for a host that shows none.
    private const int UsualCount = 65530;

    /// <summary>The most mappings of this process (vm.max_map_count), its stacks and code included.</summary>
    public static int Count { get; } = ReadCount();

    /// <summary>Bytes of addresses that are free when this is called: of the processor's, or of the process's limit (ulimit -v), whichever are fewer.</summary>
    /// <returns>Bytes; 0 when the limit is passed already.</returns>
    public static unsafe ulong GetFreeBytes()
    {
        byte local;
        // SAFETY: the address is looked at, not what is there. Stacks lie at the upper end of the addresses that a process has.
        var top = BitOperations.RoundUpToPowerOf2((ulong)&local);
        var limit = Math.Min(top, ReadLimit());
        var used = ReadSize();
        return limit > used ? limit - used : 0;
    }

    private static int ReadCount() =>
        TryRead("/proc/sys/vm/max_map_count") is { } text && int.TryParse(text.AsSpan().Trim(), CultureInfo.InvariantCulture, out var count) && count > 0
            ? count
            : UsualCount;

    private static ulong ReadLimit()
    {
        const string Name = "Max address space";
        var line = TryRead("/proc/self/limits")?.Split('\n').FirstOrDefault(line => line.StartsWith(Name, StringComparison.Ordinal));
        var word = line?[Name.Length..].Split(' ', StringSplitOptions.RemoveEmptyEntries).FirstOrDefault();
        return ulong.TryParse(word, CultureInfo.InvariantCulture, out var bytes) ? bytes : ulong.MaxValue;
    }

    private static ulong ReadSize()
    {
        var word = TryRead("/proc/self/statm")?.Split(' ')[0];
        return ulong.TryParse(word, CultureInfo.InvariantCulture, out var pages) ? pages * (ulong)Environment.SystemPageSize : 0;
    }

    private static string? TryRead(string path)
    {
        try
        {
            return File.ReadAllText(path);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return null;
        }
    }
}
