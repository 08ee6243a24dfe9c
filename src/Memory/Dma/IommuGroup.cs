using Virtbus.Platform;

namespace Virtbus.Memory.Dma;

/// <summary>
/// The functions that cannot be told apart in their DMA, and therefore have one owner: nobody, the host's drivers, or one user. Claims of
/// drivers count; a claim against another owner is EBUSY. Safe from any thread.
/// </summary>
public sealed class IommuGroup
{
    /// <summary>Makes a group without ports.</summary>
    /// <param name="number">Its number in the fabric.</param>
    public IommuGroup(int number) => Number = number;

    /// <summary>Its number in the fabric.</summary>
    public int Number { get; }

    /// <summary>The functions' ports, without those of PASIDs.</summary>
    public IReadOnlyList<DmaPort> Ports => throw new NotSupportedException();

    /// <summary>Who owns the DMA of the group.</summary>
    public DmaOwnerKind OwnerKind => throw new NotSupportedException();

    /// <summary>The owner's name; null when there is none.</summary>
    public string? OwnerName => throw new NotSupportedException();

    /// <summary>Watches the group; dispose the answer to end that.</summary>
    /// <param name="faulted">Called at each fault of any port, on the thread of the function that did DMA; it must not block.</param>
    /// <param name="ownerChanged">Called after the owner changed.</param>
    public IDisposable Observe(Action<DmaFault>? faulted, Action? ownerChanged) => throw new NotSupportedException();

    /// <summary>A driver of the host takes a share in the ownership. To be given back by <see cref="ReleaseDriver"/>.</summary>
    /// <param name="driver">The driver's name.</param>
    /// <param name="fault">EBUSY: a user owns the group.</param>
    public bool TryClaimForDriver(string driver, out Fault fault) => throw new NotSupportedException();

    /// <summary>Gives a driver's share back; with the last one the ports reach nothing any more.</summary>
    public void ReleaseDriver() => throw new NotSupportedException();

    /// <summary>One user takes the ownership. The ports reach nothing until the user attaches address spaces.</summary>
    /// <param name="user">The user, told apart by reference.</param>
    /// <param name="name">The user's name for messages.</param>
    /// <param name="fault">EBUSY: drivers or another user own the group.</param>
    public bool TryClaimForUser(object user, string name, out Fault fault) => throw new NotSupportedException();

    /// <summary>Gives the ownership back: everything is detached, and no access through the ports is under way after the return.</summary>
    /// <param name="user">Who claimed it; another one's release has no effect.</param>
    public void ReleaseUser(object user) => throw new NotSupportedException();

    /// <summary>The user of the group lets a port reach an address space instead of what it reached before.</summary>
    /// <param name="user">Who claimed the group.</param>
    /// <param name="port">A port of the group, or one of its PASIDs.</param>
    /// <param name="space">The address space; null detaches.</param>
    /// <param name="fault">EPERM: not the owner; EINVAL: not a port of the group.</param>
    public bool TryAttach(object user, DmaPort port, IoAddressSpace? space, out Fault fault) => throw new NotSupportedException();

    /// <summary>A driver of the host lets one PASID of its function reach an address space of a user (vDPA parts do that).</summary>
    /// <param name="port">The port of a PASID.</param>
    /// <param name="space">The address space; null detaches.</param>
    /// <param name="fault">EPERM: the host's drivers do not own the group; EINVAL: the port is not one of a PASID.</param>
    public bool TryAttachPasid(DmaPort port, IoAddressSpace? space, out Fault fault) => throw new NotSupportedException();

    /// <summary>Memory for a driver of the host and its function, mapped in the host's address space of the group.</summary>
    /// <param name="size">Bytes, above 0; rounded up to pages.</param>
    /// <param name="buffer">The memory, zero filled.</param>
    /// <param name="fault">EPERM: the host's drivers do not own the group (VS-02, VS-03); ENOMEM.</param>
    public bool TryAllocate(ulong size, out DmaBuffer? buffer, out Fault fault) => throw new NotSupportedException();
}
