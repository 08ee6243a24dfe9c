namespace Virtbus.Remote.Pci.VfioUser;

/// <summary>One of several register writes that go in one message (REGION_WRITE_MULTI).</summary>
/// <param name="Region">Region index.</param>
/// <param name="Offset">First byte.</param>
/// <param name="Size">Bytes, 1 to 8.</param>
/// <param name="Value">What is written, lowest byte first.</param>
public readonly record struct VfioUserWrite(uint Region, ulong Offset, int Size, ulong Value);
