using System.Globalization;

namespace Virtbus.Daemon.Manifest;

/// <summary>A virtio-blk disk, on the vdpa part of an adapter or as a virtio function.</summary>
/// <param name="Name">The device's name.</param>
/// <param name="Adapter">The adapter's name; empty for a function.</param>
/// <param name="Backing">Where the sectors are.</param>
/// <param name="ReadOnly">Whether writes are refused.</param>
/// <param name="Queues">The number of request queues.</param>
/// <param name="Packed">Whether it offers packed rings.</param>
/// <param name="Serial">What the guest reads as the serial number, at most 20 bytes.</param>
internal sealed record DiskManifest(
    ManifestValue<string> Name,
    ManifestValue<string> Adapter,
    ManifestValue<DiskBacking> Backing,
    ManifestValue<bool> ReadOnly,
    ManifestValue<int> Queues,
    ManifestValue<bool> Packed,
    ManifestValue<string> Serial)
{
    /// <summary>How it is offered by NBD beside that; null when it is not.</summary>
    public NbdManifest? Nbd { get; init; }

    /// <summary>What is said of it, as attributes of its profile.</summary>
    public IEnumerable<KeyValuePair<string, string>> Values
    {
        get
        {
            switch (Backing.Value)
            {
                case DiskBacking.File file:
                    yield return new("file", file.Path);
                    if (file.IsRaw)
                        yield return new("format", "raw");
                    if (file.IsDirect)
                        yield return new("direct", "true");
                    break;
                case DiskBacking.Memory memory:
                    yield return new("memory", memory.Bytes.ToString(CultureInfo.InvariantCulture));
                    break;
                case DiskBacking.Null nothing:
                    yield return new("null", nothing.Bytes.ToString(CultureInfo.InvariantCulture));
                    break;
            }
            if (ReadOnly)
                yield return new("readonly", "true");
            yield return new("queues", Queues.Value.ToString(CultureInfo.InvariantCulture));
            if (Packed)
                yield return new("packed", "true");
            yield return new("serial", Serial);
            foreach (var value in Nbd?.Values ?? [])
                yield return value;
        }
    }
}
