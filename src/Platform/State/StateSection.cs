namespace Virtbus.Platform;

/// <summary>A named piece of a state.</summary>
/// <param name="Name">Which piece: 1 to 32 of the characters a to z, 0 to 9, '-' and '.'.</param>
/// <param name="Version">In which form its content is, from 1; who reads up to one version reads all before it.</param>
/// <param name="Content">What it has; what is in it is the matter of who wrote it. Little endian by habit.</param>
/// <param name="IsOptional">Whether a reader that does not know the section, or not its version, may leave it out.</param>
public readonly record struct StateSection(string Name, ushort Version, ReadOnlyMemory<byte> Content, bool IsOptional);
