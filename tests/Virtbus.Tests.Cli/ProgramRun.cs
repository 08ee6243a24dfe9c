namespace Virtbus.Tests.Cli;

/// <summary>How a run of the program ended and what it printed.</summary>
public sealed record ProgramRun(int Code, string Output, string Errors);
