namespace Virtbus.Cli.Verbs;

/// <summary>A completion script.</summary>
internal sealed record CompletionScript(string Shell, string Script);
