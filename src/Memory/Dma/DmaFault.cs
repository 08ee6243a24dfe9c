using Virtbus.Platform;

namespace Virtbus.Memory.Dma;

/// <summary>An access of a function that did not go through.</summary>
/// <param name="Port">Whose it was.</param>
/// <param name="Address">First byte that could not be reached.</param>
/// <param name="Access">What was tried.</param>
/// <param name="Fault">
/// EPERM: the port is no bus master; ENODEV: no address space is attached (the group has no owner, or its user attached none); EFAULT: not
/// mapped; EACCES: mapped, but not for that; for a peer's memory, what the peer answered.
/// </param>
public readonly record struct DmaFault(DmaPort Port, Iova Address, DmaAccess Access, Fault Fault)
{
    private static readonly Fault NotMaster = new(Errno.EPERM, "the function is no bus master");
    private static readonly Fault NotAttached = new(Errno.ENODEV, "no address space is attached");
    private static readonly Fault NotMapped = new(Errno.EFAULT, "the address is not mapped");
    private static readonly Fault NotAllowed = new(Errno.EACCES, "the address is not mapped for that access");

    internal static Fault Because(Errno error) => error switch
    {
        Errno.EPERM => NotMaster,
        Errno.ENODEV => NotAttached,
        Errno.EACCES => NotAllowed,
        _ => NotMapped,
    };
}
