namespace Virtbus.Daemon.Manifest;

/// <summary>Devices on the virtual bus, named <c>MODULE.NAME.0</c> and so on.</summary>
/// <param name="Module">The creator's module name.</param>
/// <param name="Name">The kind of part.</param>
/// <param name="Count">How many.</param>
/// <param name="Parent">The adapter that they hang under; a device at the root, named like the module, when null.</param>
internal sealed record DeviceManifest(
    ManifestValue<string> Module,
    ManifestValue<string> Name,
    ManifestValue<int> Count,
    ManifestValue<string>? Parent);
