using Virtbus.Platform;

namespace Virtbus.Memory.Dma;

/// <summary>An access of a function that did not go through.</summary>
/// <param name="Port">Whose it was.</param>
/// <param name="Address">First byte that could not be reached.</param>
/// <param name="Access">What was tried.</param>
/// <param name="Fault">
/// EPERM: the port is no bus master; ENODEV: no address space is attached (the group has no owner, or its user attached none); EFAULT: not
/// mapped; EACCES: mapped, but not for that.
/// </param>
public readonly record struct DmaFault(DmaPort Port, Iova Address, DmaAccess Access, Fault Fault);
