namespace Virtbus.Pci;

/// <summary>A register whose only meaning is that it was written: a signalled eventfd can stand for the write.</summary>
/// <param name="Bar">Which BAR.</param>
/// <param name="Offset">Byte offset in it.</param>
/// <param name="Size">Bytes of a write: 1, 2, 4 or 8.</param>
/// <param name="Match">The value that must be written; null when any will do.</param>
public readonly record struct PciDoorbell(int Bar, ulong Offset, int Size, ulong? Match = null);
