using Virtbus.Memory;
using Virtbus.Platform;

namespace Virtbus.Virtio.Rings;

/// <summary>
/// The driver side of a virtqueue, whatever the ring's format: puts buffers in, takes used ones out. It believes the device nothing: what
/// the device answers wrong is a <see cref="Fault"/>, after which the ring stands still. One thread uses it; no call allocates.
/// </summary>
public abstract class DriverRing
{
    /// <summary>Where the ring is, for the device.</summary>
    public abstract RingLayout Layout { get; }

    /// <summary>How many descriptors are free.</summary>
    public abstract int FreeDescriptors { get; }

    /// <summary>
    /// How far the driver is, as the upper half of a notification with VIRTIO_F_NOTIFICATION_DATA says it (<see cref="VirtioNotification"/>). Of a split
    /// ring the free-running index of the next buffer, of a packed ring the place of the next descriptor and, above it, its wrap counter.
    /// </summary>
    public abstract ushort NotificationPlace { get; }

    /// <summary>What the device did wrong; none while it behaved.</summary>
    public Fault Fault { get; private protected set; }

    /// <summary>Puts a chain into the ring; the device sees it after <see cref="Show"/> or <see cref="Publish"/>.</summary>
    /// <param name="buffers">Its buffers, those that the device reads first.</param>
    /// <returns>Its name until it is used, below the queue's size; -1 when too few descriptors are free.</returns>
    public abstract int Add(ReadOnlySpan<DriverBuffer> buffers);

    /// <summary>Puts a chain into the ring that lies in a table of its own (VIRTIO_F_INDIRECT_DESC), and so takes one descriptor.</summary>
    /// <param name="table">Address of the table, which stays as it is until the chain is used.</param>
    /// <param name="length">Its length in bytes.</param>
    /// <param name="writable">Bytes that the device may write by it; <see cref="uint.MaxValue"/> where the ring is not to look at how many it says it wrote.</param>
    /// <returns>Its name until it is used; -1 when no descriptor is free.</returns>
    public abstract int AddIndirect(Iova table, uint length, uint writable = uint.MaxValue);

    /// <summary>
    /// Lets the device see what was added, for who has more: a device that looks begins with it. What that costs is a store; <see cref="Publish"/> has to follow.
    /// </summary>
    public abstract void Show();

    /// <summary>Lets the device see what was added.</summary>
    /// <returns>Whether the device wants a kick, for all that was added since the last call.</returns>
    public abstract bool Publish();

    /// <summary>Says whether the driver wants to be told of used buffers, or polls. Those that came before are taken first by who then waits.</summary>
    /// <param name="wanted">Whether it wants to.</param>
    /// <returns>True when used buffers wait already: the call for them may never come.</returns>
    public abstract bool RequestCalls(bool wanted);

    /// <summary>Takes the next used buffer and frees its descriptors.</summary>
    /// <param name="head">Its name.</param>
    /// <param name="written">
    /// Bytes that the device wrote to its writable part, from its start. In order, of a buffer for which another one stands: all of it, and
    /// <see cref="uint.MaxValue"/> where that lies in a table whose writable bytes were not said.
    /// </param>
    /// <param name="fault">What the device did wrong, or none when there was no used buffer.</param>
    /// <returns>Whether there was one.</returns>
    public abstract bool TryTakeUsed(out ushort head, out uint written, out Fault fault);
}
