using Virtbus.Platform;
using Virtbus.Provisioning;

namespace Virtbus.Daemon.Manifest;

/// <summary>A function that a manifest asks for, as the provisioning engine takes it.</summary>
/// <param name="Name">Its name.</param>
/// <param name="Kind">Its kind.</param>
/// <param name="Parent">The adapter that it hangs at; null for none.</param>
/// <param name="Values">What is said of it.</param>
/// <param name="At">Where its main value stands in the manifest, for what is wrong with that.</param>
/// <param name="Path">The same, as a path in the document.</param>
/// <param name="Title">What is made, in a few words.</param>
internal sealed record ManifestFunction(
    ManifestValue<string> Name,
    string Kind,
    string? Parent,
    IReadOnlyList<KeyValuePair<string, string>> Values,
    ManifestPosition At,
    string Path,
    string Title)
{
    /// <summary>The kind of virtual functions.</summary>
    public const string VirtualFunction = "vf";

    /// <summary>The attribute that says which virtual function of its adapter one is.</summary>
    public const string Index = "index";

    /// <summary>The name of a virtual function that a manifest gives none.</summary>
    public static string NameOf(string adapter, int index) => $"{adapter}v{index}";

    /// <summary>Whether the manifest says anything of this one by itself, and not only that there is one.</summary>
    public bool IsSaid { get; init; } = true;

    /// <summary>Defines it.</summary>
    /// <exception cref="Platform.VirtbusException">As <see cref="ProvisioningEngine.Define"/>.</exception>
    public ProvisionedFunction DefineIn(ProvisioningEngine engine) => engine.Define(Name, Kind, Parent, Values);

    /// <summary>Where each of the values that the manifest says by a key of its own stands, by the name of the attribute.</summary>
    public IReadOnlyDictionary<string, ManifestPlace> Places { get; init; } = new Dictionary<string, ManifestPlace>();

    /// <summary>What went wrong when it was made, at the key that it is about; else at its main value.</summary>
    /// <param name="error">What the maker says.</param>
    public ManifestError ErrorOf(VirtbusException error)
    {
        var place = error.Field is { } field && Places.TryGetValue(field, out var found) ? found : new ManifestPlace(At, Path);
        return new ManifestError(place.At, place.Path, error.Message);
    }

    /// <summary>The places of values that are there.</summary>
    public static IReadOnlyDictionary<string, ManifestPlace> PlacesOf(params IEnumerable<(string Name, ManifestPlace? Place)> values) =>
        values.Where(static v => v.Place is not null).ToDictionary(static v => v.Name, static v => v.Place!.Value);
}
