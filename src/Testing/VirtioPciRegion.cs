namespace Virtbus.Testing;

/// <summary>Where a region of memory is that a virtio function shares with its driver (VIRTIO 1.3, 4.1.4.7).</summary>
/// <param name="Id">shmid.</param>
/// <param name="Bar">Which BAR.</param>
/// <param name="Offset">First byte in it.</param>
/// <param name="Length">Bytes.</param>
public readonly record struct VirtioPciRegion(byte Id, int Bar, ulong Offset, ulong Length);
