namespace Virtbus.Daemon.Api;

/// <summary>Who holds a runtime folder.</summary>
/// <param name="Pid">The daemon's process.</param>
/// <param name="Since">When it took the folder.</param>
/// <param name="Manifest">What it was started with.</param>
internal sealed record LockHolder(int Pid, DateTimeOffset Since, string Manifest);
