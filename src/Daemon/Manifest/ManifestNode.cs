namespace Virtbus.Daemon.Manifest;

/// <summary>A piece of a YAML document with its place.</summary>
/// <param name="At">Where it begins.</param>
internal abstract record ManifestNode(ManifestPosition At)
{
    /// <summary>What it is, in the words of an error.</summary>
    public abstract string Kind { get; }
}

internal sealed record ScalarNode(ManifestPosition At, string Text, bool IsPlain) : ManifestNode(At)
{
    public bool IsNull => IsPlain && Text is "" or "~" or "null" or "Null" or "NULL";

    public override string Kind => IsNull ? "empty" : $"'{Text}'";
}

internal sealed record SequenceNode(ManifestPosition At, IReadOnlyList<ManifestNode> Items) : ManifestNode(At)
{
    public override string Kind => "a list";
}

internal sealed record MappingNode(ManifestPosition At, IReadOnlyList<(ScalarNode Key, ManifestNode Value)> Entries) : ManifestNode(At)
{
    public override string Kind => "a mapping";
}
