namespace Virtbus.Testing;

/// <summary>Where a structure of a virtio function is.</summary>
/// <param name="Bar">Which BAR.</param>
/// <param name="Offset">First byte in it.</param>
/// <param name="Length">Bytes.</param>
/// <param name="Capability">Where in config space that stands.</param>
public readonly record struct VirtioPciPlace(int Bar, uint Offset, uint Length, int Capability);
