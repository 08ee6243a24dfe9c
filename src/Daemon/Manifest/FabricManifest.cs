namespace Virtbus.Daemon.Manifest;

/// <summary>What a fabric is made of.</summary>
/// <param name="File">The file, for messages.</param>
/// <param name="Adapters">The simulated adapters.</param>
/// <param name="Disks">The disks.</param>
/// <param name="Serials">The serial ports on PCI.</param>
/// <param name="Functions">PCI functions of other providers.</param>
/// <param name="Devices">Plain devices on the virtual bus.</param>
/// <param name="Modules">A folder of modules besides the program's own, as an absolute path.</param>
internal sealed record FabricManifest(
    string File,
    IReadOnlyList<AdapterManifest> Adapters,
    IReadOnlyList<DiskManifest> Disks,
    IReadOnlyList<SerialManifest> Serials,
    IReadOnlyList<FunctionManifest> Functions,
    IReadOnlyList<DeviceManifest> Devices,
    ManifestValue<string>? Modules);
