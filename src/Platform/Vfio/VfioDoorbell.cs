namespace Virtbus.Platform;

/// <summary>A register whose only meaning is that it was written.</summary>
/// <param name="Offset">Byte offset in its region.</param>
/// <param name="Size">Bytes of a write: 1, 2, 4 or 8.</param>
/// <param name="Match">The value that must be written; null when any will do.</param>
public readonly record struct VfioDoorbell(ulong Offset, int Size, ulong? Match);
