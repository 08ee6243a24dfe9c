namespace Virtbus.Platform;

/// <summary>A hash that is the same in every process and on every machine, for names and addresses that must last.</summary>
public static class StableHash
{
    /// <summary>FNV-1a over the characters; 32 bits.</summary>
    /// <param name="text">The text.</param>
    public static uint Of(string text)
    {
        ArgumentNullException.ThrowIfNull(text);
        var hash = 2166136261u;
        foreach (var c in text)
            hash = (hash ^ c) * 16777619;
        return hash;
    }
}
