namespace Virtbus.Daemon.Manifest;

/// <summary>A switch of virtio network devices that is there whether one is on it or not.</summary>
/// <param name="Name">Its name.</param>
/// <param name="Tap">The host's TAP device that is a port of it; null for none.</param>
/// <param name="Queues">How many queues that has.</param>
/// <param name="Vlan">The VLAN that its port gives access to; null for a trunk.</param>
internal sealed record SwitchManifest(ManifestValue<string> Name, ManifestValue<string>? Tap, ManifestValue<int> Queues, ManifestValue<int>? Vlan)
{
    /// <summary>What it is, in a few words.</summary>
    public string Text => Tap is { } tap
        ? $"tap {tap}{(Queues.Value > 1 ? $" with {Queues.Value} queues" : "")}{(Vlan is { } vlan ? $", vlan {vlan.Value}" : "")}"
        : "no tap";
}
