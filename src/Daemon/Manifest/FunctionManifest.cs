namespace Virtbus.Daemon.Manifest;

/// <summary>A PCI function of one of the bus's providers, or a virtio device.</summary>
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

    /// <summary>What is said of a virtio device; null for another function.</summary>
    public VirtioManifest? Virtio { get; init; }

    /// <summary>Its kind as a function.</summary>
    public string Kind => Virtio is null ? ManifestFunction.Plugged : Provider;

    /// <summary>What is made, in a few words.</summary>
    public string Title => Virtio is null ? $"function {Name} ({Provider} {Function.Value})" : $"function {Name} (virtio {Virtio.Type.Value.ToString().ToLowerInvariant()})";

    /// <summary>Where its main value stands.</summary>
    public ManifestPlace Place => Virtio is null ? Function.Place : Virtio.Disk?.Backing.Place ?? Virtio.Type.Place;

    /// <summary>What is said of it, as attributes of its profile.</summary>
    public IEnumerable<KeyValuePair<string, string>> Values
    {
        get
        {
            foreach (var value in Virtio?.Values ?? [new(Provider, Function)])
                yield return value;
            if (Driver is { } driver)
                yield return new("driver", driver);
        }
    }
}
