namespace Virtbus.Daemon.Manifest;

/// <summary>A virtio-blk disk on the vdpa part of an adapter.</summary>
/// <param name="Name">The device's name.</param>
/// <param name="Adapter">The adapter's name.</param>
/// <param name="Backing">Where the sectors are.</param>
/// <param name="ReadOnly">Whether writes are refused.</param>
/// <param name="Queues">The number of request queues.</param>
/// <param name="Serial">What the guest reads as the serial number, at most 20 bytes.</param>
internal sealed record DiskManifest(
    ManifestValue<string> Name,
    ManifestValue<string> Adapter,
    ManifestValue<DiskBacking> Backing,
    ManifestValue<bool> ReadOnly,
    ManifestValue<int> Queues,
    ManifestValue<string> Serial);
