namespace Virtbus.Cli.Verbs;

/// <summary>A plug that was cancelled before there was a device.</summary>
/// <param name="Cancelled">The name that the function was to have.</param>
internal sealed record CancelledPlug(string Cancelled);
