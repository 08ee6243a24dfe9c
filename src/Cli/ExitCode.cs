namespace Virtbus.Cli;

/// <summary>What the program ends with.</summary>
internal static class ExitCode
{
    public const int Done = 0;
    public const int Failed = 1;
    public const int Usage = 2;

    /// <summary>Ended by a signal, as a shell tells it.</summary>
    public const int Interrupted = 130;
}
