namespace Virtbus.Daemon.Manifest;

/// <summary>A PCI function of one of the bus's providers.</summary>
/// <param name="Name">The function's name.</param>
/// <param name="Provider">The provider's name.</param>
/// <param name="Function">The provider's name for the function; for a socket an absolute path.</param>
/// <param name="Driver">The only driver that may take it; null for any.</param>
internal sealed record FunctionManifest(ManifestValue<string> Name, string Provider, ManifestValue<string> Function, ManifestValue<string>? Driver)
{
    /// <summary>The manifest's keys of the providers that have one of their own, by the providers' names.</summary>
    public static readonly IReadOnlyDictionary<string, string> Keys = new Dictionary<string, string> { ["simulated"] = "simulated", ["vfio-user"] = "vfio_user", ["host"] = "host" };

    /// <summary>Where the provider is named, when it is by its name.</summary>
    public ManifestPlace? ProviderPlace { get; init; }

    /// <summary>What is said of it, as attributes of its profile.</summary>
    public IEnumerable<KeyValuePair<string, string>> Values =>
        Driver is { } driver ? [new(Provider, Function), new("driver", driver)] : [new(Provider, Function)];
}
