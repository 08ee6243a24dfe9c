using System.Net.NetworkInformation;

namespace Virtbus.Daemon.Manifest;

/// <summary>A simulated multi-function adapter.</summary>
/// <param name="Name">The device's name.</param>
/// <param name="Model">The make.</param>
/// <param name="Mac">The station address; derived from the name when null.</param>
/// <param name="Parts">What the adapter is capable of.</param>
/// <param name="Ports">How many network parts it has, when it has any.</param>
/// <param name="Tap">The host's TAP device that is joined to the adapter's switch.</param>
/// <param name="Switch">The switch that is joined to the adapter's own, by its name.</param>
/// <param name="VirtualFunctions">How many virtual functions are enabled.</param>
/// <param name="Profiles">What some of them are to be.</param>
internal sealed record AdapterManifest(
    ManifestValue<string> Name,
    ManifestValue<AdapterModel> Model,
    ManifestValue<PhysicalAddress>? Mac,
    ManifestValue<AdapterParts> Parts,
    ManifestValue<int> Ports,
    ManifestValue<string>? Tap,
    ManifestValue<string>? Switch,
    ManifestValue<int> VirtualFunctions,
    IReadOnlyList<ManifestValue<VirtualFunctionManifest>> Profiles);
