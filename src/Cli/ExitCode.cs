namespace Virtbus.Cli;

/// <summary>What the program ends with.</summary>
internal static class ExitCode
{
    public const int Done = 0;
    public const int Failed = 1;
    public const int Usage = 2;

    /// <summary>Of 'diff', which has the codes of diff(1): there is a difference.</summary>
    public const int Different = 1;

    /// <summary>Of 'diff': it can't be said whether there is one.</summary>
    public const int Trouble = 2;

    /// <summary>Ended by a signal, as a shell tells it.</summary>
    public const int Interrupted = 130;

    /// <summary>Whoever read standard output has gone: what a shell tells of programs that SIGPIPE ended, as most do.</summary>
    public const int BrokenPipe = 141;
}
