namespace Virtbus.Cli.Completion;

/// <summary>A completion script.</summary>
internal sealed record CompletionScript(string Shell, string Script);
