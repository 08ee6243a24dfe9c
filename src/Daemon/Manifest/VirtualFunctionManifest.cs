using System.Globalization;
using System.Net.NetworkInformation;

namespace Virtbus.Daemon.Manifest;

/// <summary>What a virtual function of an adapter is to be, before it is enabled.</summary>
/// <param name="Number">Its number, from 0.</param>
/// <param name="Name">Its name as a function; the adapter's with <c>v</c> and the number when null.</param>
/// <param name="Mac">Its station address; derived from the adapter's when null.</param>
/// <param name="Queues">How many queue sets it can make; what the adapter says when null.</param>
/// <param name="Driver">The only driver that may take it; what the bus chooses when null.</param>
internal sealed record VirtualFunctionManifest(
    ManifestValue<int> Number,
    ManifestValue<string>? Name,
    ManifestValue<PhysicalAddress>? Mac,
    ManifestValue<int>? Queues,
    ManifestValue<string>? Driver)
{
    /// <summary>What is said of it, as attributes of its profile.</summary>
    public IEnumerable<KeyValuePair<string, string>> Values
    {
        get
        {
            if (Mac is { } mac)
                yield return new("mac", MacText.Of(mac));
            if (Queues is { } queues)
                yield return new("queues", queues.Value.ToString(CultureInfo.InvariantCulture));
            if (Driver is { } driver)
                yield return new("driver", driver.Value);
        }
    }
}
