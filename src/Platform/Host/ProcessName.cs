using System.Globalization;
using System.Text;

namespace Virtbus.Platform;

/// <summary>What a process calls itself, in words that a terminal and a log take as text.</summary>
public static class ProcessName
{
    /// <summary>A process for messages: by the number a person finds it, by the name a person knows it.</summary>
    /// <param name="process">The process id; 0 when the kernel may not say who it is.</param>
    /// <param name="name">Its name; empty when it is not known.</param>
    public static string Describe(int process, string name) =>
        process == 0 ? "a process of another container" : string.IsNullOrEmpty(name) ? $"process {process}" : $"process {process} ({name})";

    /// <summary>The name of a process, escaped; empty when it has gone or is of another container.</summary>
    /// <param name="process">The process id.</param>
    public static string Of(int process)
    {
        try
        {
            return process == 0 ? "" : Escape(File.ReadAllText($"/proc/{process}/comm").TrimEnd('\n'));
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return "";
        }
    }

    /// <summary>A name that another process chose, without what would move a cursor or turn a line around.</summary>
    /// <param name="name">The name.</param>
    public static string Escape(string name)
    {
        ArgumentNullException.ThrowIfNull(name);
        var text = new StringBuilder();
        foreach (var c in name)
        {
            if ((c is >= ' ' and <= '~' && c != '\\') || char.IsLetterOrDigit(c))
                text.Append(c);
            else
                text.Append(CultureInfo.InvariantCulture, $"\\u{(int)c:x4}");
        }

        return text.ToString();
    }
}
