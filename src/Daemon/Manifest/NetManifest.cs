using System.Globalization;
using System.Net.NetworkInformation;

namespace Virtbus.Daemon.Manifest;

/// <summary>What is said of a virtio network device; null where nothing is.</summary>
/// <param name="Switch">The name of the switch that it is on.</param>
/// <param name="Mac">Its station address.</param>
/// <param name="Queues">The number of queue pairs.</param>
/// <param name="Mtu">The longest payload of a frame, in bytes.</param>
/// <param name="Speed">What its driver is told of its speed, in Mbit/s.</param>
/// <param name="Vlan">The VLAN that its port is of.</param>
/// <param name="Packed">Whether it offers packed rings beside split ones.</param>
/// <param name="Offloads">Whether checksums and segments may be left to it, and are left to its driver.</param>
internal sealed record NetManifest(
    ManifestValue<string>? Switch,
    ManifestValue<PhysicalAddress>? Mac,
    ManifestValue<int>? Queues,
    ManifestValue<int>? Mtu,
    ManifestValue<int>? Speed,
    ManifestValue<int>? Vlan,
    ManifestValue<bool>? Packed,
    ManifestValue<bool>? Offloads)
{
    /// <summary>The same, as attributes of its profile.</summary>
    public IEnumerable<KeyValuePair<string, string>> Values
    {
        get
        {
            if (Switch is { } place)
                yield return new("switch", place);
            if (Mac is { } mac)
                yield return new("mac", MacText.Of(mac));
            foreach (var (name, value) in ((string, ManifestValue<int>?)[])[("queues", Queues), ("mtu", Mtu), ("speed", Speed), ("vlan", Vlan)])
            {
                if (value is { } number)
                    yield return new(name, number.Value.ToString(CultureInfo.InvariantCulture));
            }

            foreach (var (name, value) in ((string, ManifestValue<bool>?)[])[("packed", Packed), ("offloads", Offloads)])
            {
                if (value is { } flag)
                    yield return new(name, flag.Value ? "true" : "false");
            }
        }
    }
}
