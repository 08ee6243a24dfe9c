using Virtbus.Memory;

namespace Virtbus.Virtio;

/// <summary>
/// A region of memory that a device shares with its driver beside the queues (VIRTIO 1.3, 2.10): the device brings the memory, and both read and write it.
/// </summary>
/// <param name="Id">shmid, by which the device's type tells its regions apart; no other one of the device has it.</param>
/// <param name="Memory">
/// The memory, which stays the device's own. With its <see cref="HostMemory.File"/> a driver's process can map it, as far as it has whole pages and may be
/// written; else each access comes here.
/// </param>
public sealed record VirtioSharedMemory(byte Id, HostMemory Memory);
