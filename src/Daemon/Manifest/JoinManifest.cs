using Virtbus.Daemon.Provisioning;

namespace Virtbus.Daemon.Manifest;

/// <summary>A network interface that is joined to a switch or a TAP device.</summary>
/// <param name="Interface">The interface's name.</param>
/// <param name="Tap">The TAP device; null for a switch.</param>
/// <param name="Join">What it is joined to.</param>
internal sealed record JoinManifest(ManifestValue<string> Interface, ManifestValue<string>? Tap, InterfaceJoin Join);
