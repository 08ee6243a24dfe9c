namespace Virtbus.Cli;

/// <summary>What the program ends with.</summary>
internal static class ExitCode
{
    public const int Done = 0;
    public const int Failed = 1;
    public const int Usage = 2;

    /// <summary>Ended by a signal, as a shell tells it.</summary>
    public const int Interrupted = 130;

    /// <summary>Whoever read standard output has gone: what a shell tells of programs that SIGPIPE ended, as most do.</summary>
    public const int BrokenPipe = 141;
}
