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
            return process == 0 ? "" : PrintableText.Escape(File.ReadAllText($"/proc/{process}/comm").TrimEnd('\n'));
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return "";
        }
    }
}
