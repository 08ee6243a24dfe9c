using System.Globalization;

namespace Virtbus.Daemon.Manifest;

/// <summary>What a fabric is made of.</summary>
/// <param name="File">The file, for messages.</param>
/// <param name="Adapters">The simulated adapters.</param>
/// <param name="Switches">The switches of virtio network devices that are there in any case.</param>
/// <param name="Joins">The network interfaces that are joined to switches and TAP devices.</param>
/// <param name="Disks">The disks.</param>
/// <param name="Serials">The serial ports on PCI.</param>
/// <param name="Functions">PCI functions of other providers.</param>
/// <param name="Devices">Plain devices on the virtual bus.</param>
/// <param name="Modules">Folders of modules besides the program's own, and modules that are loaded at the start.</param>
internal sealed record FabricManifest(
    string File,
    IReadOnlyList<AdapterManifest> Adapters,
    IReadOnlyList<SwitchManifest> Switches,
    IReadOnlyList<JoinManifest> Joins,
    IReadOnlyList<DiskManifest> Disks,
    IReadOnlyList<SerialManifest> Serials,
    IReadOnlyList<FunctionManifest> Functions,
    IReadOnlyList<DeviceManifest> Devices,
    ModulesManifest Modules)
{
    /// <summary>Virtual functions, disks, serial ports and PCI functions as functions of the provisioning engine, in the order in which they are made.</summary>
    public IEnumerable<ManifestFunction> AllFunctions() =>
    [
        .. Adapters.SelectMany(VirtualFunctionsOf),
        .. Disks.Select(static d => new ManifestFunction(d.Name, "disk", d.Adapter, [.. d.Values], d.Backing.At, d.Backing.Path, $"disk {d.Name} on {d.Adapter}")
        {
            Places = ManifestFunction.PlacesOf(("readonly", d.ReadOnly.Place), ("queues", d.Queues.Place), ("packed", d.Packed.Place), ("serial", d.Serial.Place), ("nbd", d.Nbd?.Address.Place), ("nbd_name", d.Nbd?.Name?.Place)),
        }),
        .. Serials.Select(static s => new ManifestFunction(s.Name, "serial", null, [new("driver", s.Driver)], s.Name.At, s.Name.Path, $"serial port {s.Name}") { Places = ManifestFunction.PlacesOf(("driver", s.Driver.Place)) }),
        .. Functions.Select(static f => new ManifestFunction(
            f.Name, f.Kind, null, [.. f.Values], f.Place.At, f.Place.Path, f.Title)
        {
            Places = ManifestFunction.PlacesOf(
                ("driver", f.Driver?.Place), ("provider", f.ProviderPlace), ("queues", f.Virtio?.Disk?.Queues.Place ?? f.Virtio?.Net?.Queues?.Place), ("serial", f.Virtio?.Disk?.Serial.Place), ("vectors", f.Virtio?.Vectors?.Place),
                ("switch", f.Virtio?.Net?.Switch?.Place), ("mac", f.Virtio?.Net?.Mac?.Place), ("mtu", f.Virtio?.Net?.Mtu?.Place), ("speed", f.Virtio?.Net?.Speed?.Place), ("vlan", f.Virtio?.Net?.Vlan?.Place), ("vfs", f.Virtio?.VirtualFunctions?.Place), ("vf_file", f.Virtio?.VirtualFiles?.Place),
                ("nbd", f.Virtio?.Disk?.Nbd?.Address.Place), ("nbd_name", f.Virtio?.Disk?.Nbd?.Name?.Place)),
        }),
        .. Functions.SelectMany(VirtualFunctionsOf),
    ];

    /// <summary>The disks, those that are functions by themselves among them.</summary>
    public IEnumerable<DiskManifest> AllDisks() => [.. Disks, .. Functions.Select(static f => f.Virtio?.Disk).OfType<DiskManifest>()];

    private static IEnumerable<ManifestFunction> VirtualFunctionsOf(FunctionManifest function)
    {
        for (var i = 0; i < (function.Virtio?.VirtualFunctions?.Value ?? 0); i++)
        {
            var place = function.Virtio!.VirtualFunctions!.Value.Place;
            yield return new ManifestFunction(
                function.Name with { Value = ManifestFunction.NameOf(function.Name, i) },
                ManifestFunction.VirtualFunction,
                function.Name,
                [new(ManifestFunction.Index, i.ToString(CultureInfo.InvariantCulture)), new("driver", "vfio-pci")],
                place.At,
                place.Path,
                $"virtual functions of {function.Name}")
            {
                IsSaid = false,
            };
        }
    }

    private static IEnumerable<ManifestFunction> VirtualFunctionsOf(AdapterManifest adapter)
    {
        // A number that is there twice is told by the reader, which asks for the names here as well.
        var profiles = adapter.Profiles.Select(static p => p.Value).DistinctBy(static p => p.Number.Value).ToDictionary(static p => p.Number.Value);
        for (var i = 0; i < adapter.VirtualFunctions.Value; i++)
        {
            var profile = profiles.GetValueOrDefault(i);
            var place = profile?.Number ?? adapter.VirtualFunctions;
            var name = profile?.Name ?? adapter.Name with { Value = ManifestFunction.NameOf(adapter.Name, i) };
            yield return new ManifestFunction(
                name,
                ManifestFunction.VirtualFunction,
                adapter.Name,
                [new(ManifestFunction.Index, i.ToString(CultureInfo.InvariantCulture)), .. profile?.Values ?? []],
                place.At,
                place.Path,
                $"virtual functions of {adapter.Name}")
            {
                IsSaid = profile is not null,
                Places = ManifestFunction.PlacesOf(("mac", profile?.Mac?.Place), ("queues", profile?.Queues?.Place), ("driver", profile?.Driver?.Place)),
            };
        }
    }
}
