namespace Virtbus.Tests;

/// <summary>One run under a seed.</summary>
internal interface ISeededRun
{
    /// <summary>A number that follows from every step: two runs with the same one did the same.</summary>
    ulong Hash { get; }

    /// <summary>What was done, step by step; empty where it was not asked for.</summary>
    string Trace { get; }

    /// <summary>Runs to the end; what went wrong first, or null.</summary>
    string? Run();
}
