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
    string Title);
