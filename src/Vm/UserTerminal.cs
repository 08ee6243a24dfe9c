using System.Text.RegularExpressions;
using Virtbus.Platform;

namespace Virtbus.Vm;

/// <summary>The user's terminal while QEMU has it. QEMU makes it raw and, if it is killed, leaves it so; disposing puts it back.</summary>
internal sealed partial class UserTerminal : IDisposable
{
    private readonly TerminalSettings _saved;

    private UserTerminal(TerminalSettings saved) => _saved = saved;

    /// <summary>Terminal type and size, for the guest's command line.</summary>
    public string KernelArguments { get; private init; } = "";

    /// <summary>Remembers the terminal's settings. Throws EINVAL when there is none.</summary>
    public static UserTerminal Save()
    {
        if (Console.IsInputRedirected || Console.IsOutputRedirected)
        {
            throw new VirtbusException(
                Errno.EINVAL, "A shell in the guest needs a terminal, and standard input or output is none. Give a command after '--', such as 'sh'.");
        }

        return new UserTerminal(TerminalSettings.Read()) { KernelArguments = Describe() };
    }

    /// <summary>Terminal type and size, as far as they are known here, for the guest's command line.</summary>
    public static string Describe()
    {
        string type = Environment.GetEnvironmentVariable("TERM") is { } term && TermName().IsMatch(term) ? term : "linux";
        bool isTerminal = !Console.IsInputRedirected && !Console.IsOutputRedirected;
        int rows = isTerminal ? Console.WindowHeight : 0;
        int columns = isTerminal ? Console.WindowWidth : 0;
        // A terminal that was never told its size says 0.
        string size = rows > 0 && columns > 0 ? $" virtbus_rows={rows} virtbus_columns={columns}" : "";
        return $"TERM={type}{size}";
    }

    /// <inheritdoc/>
    public void Dispose() => _saved.Apply();

    [GeneratedRegex("^[A-Za-z0-9][A-Za-z0-9+._-]*$", RegexOptions.ExplicitCapture | RegexOptions.CultureInvariant, matchTimeoutMilliseconds: 1000)]
    private static partial Regex TermName();
}
