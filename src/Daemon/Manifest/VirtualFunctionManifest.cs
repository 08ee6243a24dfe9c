using System.Net.NetworkInformation;

namespace Virtbus.Daemon.Manifest;

/// <summary>What a virtual function of an adapter is to be, before it is enabled.</summary>
/// <param name="Number">Its number, from 0.</param>
/// <param name="Mac">Its station address; derived from the adapter's when null.</param>
/// <param name="Queues">How many queue sets it can make; what the adapter says when null.</param>
/// <param name="Driver">The only driver that may take it; what the bus chooses when null.</param>
internal sealed record VirtualFunctionManifest(ManifestValue<int> Number, ManifestValue<PhysicalAddress>? Mac, ManifestValue<int>? Queues, ManifestValue<string>? Driver);
