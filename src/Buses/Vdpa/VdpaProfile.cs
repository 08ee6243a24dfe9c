namespace Virtbus.Buses.Vdpa;

/// <summary>What a vDPA device is to be, said whole before it exists.</summary>
/// <param name="Name">The device's name on the bus.</param>
/// <param name="VirtioType">Virtio device type: 2 for block.</param>
/// <param name="Medium">Block: the name of the medium that was put into the provider's hardware; empty for a provider that makes it itself.</param>
/// <param name="Serial">Block: what GET_ID answers, at most 20 characters.</param>
/// <param name="Queues">Number of request queues.</param>
/// <param name="Capacity">Block: bytes of a disk that the provider makes itself; 0 where a medium says it.</param>
public sealed record VdpaProfile(string Name, uint VirtioType, string Medium, string Serial, int Queues = 1, long Capacity = 0);
