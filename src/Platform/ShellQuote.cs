using System.Buffers;

namespace Virtbus.Platform;

/// <summary>Makes one line for a POSIX shell from arguments, so that the shell sees exactly those arguments.</summary>
public static class ShellQuote
{
    private static readonly SearchValues<char> Plain =
        SearchValues.Create("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789%+,-./:@_");

    /// <summary>The arguments, each quoted where it must be, with a space between.</summary>
    /// <param name="arguments">The arguments.</param>
    public static string Join(IEnumerable<string> arguments) => string.Join(' ', arguments.Select(Quote));

    /// <summary>One argument. A word of plain characters stays as it is; the rest goes into single quotes.</summary>
    /// <param name="argument">The argument.</param>
    public static string Quote(string argument)
    {
        ArgumentNullException.ThrowIfNull(argument);
        return argument.Length != 0 && !argument.AsSpan().ContainsAnyExcept(Plain) ? argument : $"'{argument.Replace("'", "'\\''", StringComparison.Ordinal)}'";
    }
}
