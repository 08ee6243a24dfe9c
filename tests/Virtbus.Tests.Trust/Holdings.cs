using System.Globalization;

namespace Virtbus.Tests.Trust;

/// <summary>
/// What a process holds that a user of its devices could leave behind: descriptors by kind, but for files and pipes, which only the runtime has;
/// mappings of users' memory and of devices' memory; threads that serve a user.
/// </summary>
internal static class Holdings
{
    /// <summary>Part of the name of memory that may be shared between user and daemon; the runtime has memory files of its own.</summary>
    private const string Memory = "memfd:trust";

    public static string OfThis() => Of(Environment.ProcessId);

    public static string Of(int process)
    {
        var kinds = new SortedDictionary<string, int>(StringComparer.Ordinal);
        foreach (var path in Directory.GetFiles($"/proc/{process}/fd"))
        {
            var name = Target(path);
            if (name.Contains(Memory, StringComparison.Ordinal))
                Count("memory file");
            else if (name.StartsWith("anon_inode:", StringComparison.Ordinal))
                Count(name["anon_inode:".Length..]);
            else if (name.Contains(":[", StringComparison.Ordinal) && !name.StartsWith("pipe:", StringComparison.Ordinal))
                Count(name.Split(':')[0]);
        }
        foreach (var line in File.ReadLines($"/proc/{process}/maps"))
        {
            if (line.Contains(Memory, StringComparison.Ordinal))
                Count("mapping");
        }
        foreach (var thread in Directory.GetDirectories($"/proc/{process}/task"))
        {
            if (NameOf(thread) is "vfio-user" or "vfio-user clien")
                Count("session");
        }
        return string.Join(", ", kinds.Select(k => string.Create(CultureInfo.InvariantCulture, $"{k.Value} {k.Key}")));

        void Count(string kind) => kinds[kind] = kinds.GetValueOrDefault(kind) + 1;
    }

    // Descriptors and threads come and go while they are looked at.
    private static string Target(string path)
    {
        try
        {
            return File.ResolveLinkTarget(path, returnFinalTarget: false)?.Name ?? "";
        }
        catch (IOException)
        {
            return "";
        }
    }

    private static string NameOf(string thread)
    {
        try
        {
            return File.ReadAllText(thread + "/comm").TrimEnd('\n');
        }
        catch (IOException)
        {
            return "";
        }
    }
}
