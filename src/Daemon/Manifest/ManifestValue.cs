namespace Virtbus.Daemon.Manifest;

/// <summary>A value with the place where the manifest says it. A value that the manifest leaves out stands at its object's place.</summary>
/// <typeparam name="T">The value's type.</typeparam>
/// <param name="Value">The value.</param>
/// <param name="At">The place.</param>
/// <param name="Path">The path in the document, for example <c>disks[0].file</c>.</param>
internal readonly record struct ManifestValue<T>(T Value, ManifestPosition At, string Path)
{
    /// <summary>Where it is.</summary>
    public ManifestPlace Place => new(At, Path);

    public static implicit operator T(ManifestValue<T> value) => value.Value;

    public override string ToString() => $"{Value}";
}
