namespace Virtbus.Daemon.Manifest;

/// <summary>Where modules are, besides the program's own folder, and which are loaded at the start.</summary>
/// <param name="Folders">Folders, as absolute paths.</param>
/// <param name="Names">Modules that are loaded before anything is made.</param>
internal sealed record ModulesManifest(IReadOnlyList<ManifestValue<string>> Folders, IReadOnlyList<ManifestValue<string>> Names)
{
    /// <summary>The program's own folder, and what devices ask for.</summary>
    public static ModulesManifest None { get; } = new([], []);

    /// <summary>Whether modules are looked for in the same folders.</summary>
    public bool HasFoldersOf(ModulesManifest other) => Folders.Select(static f => f.Value).SequenceEqual(other.Folders.Select(static f => f.Value));

    /// <summary>The folders, for a sentence.</summary>
    public string FolderText => Folders.Count == 0 ? "the program's own" : string.Join(", ", Folders);
}
