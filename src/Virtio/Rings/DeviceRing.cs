using Virtbus.Memory;
using Virtbus.Platform;

namespace Virtbus.Virtio.Rings;

/// <summary>
/// The device side of a virtqueue, whatever the ring's format. It reads what the driver made available, once, and checks it; it hands used
/// buffers back. It knows nothing of how the sides wake each other: it says only whether they should. One thread uses it at a time.
/// </summary>
/// <remarks>
/// What the driver wrote wrong is a <see cref="Fault"/>: the queue then stands still until it is started anew. No call allocates but
/// <see cref="TryStart"/>. The formats are sealed classes and a call takes a whole chain, never a descriptor, so that the abstraction costs
/// nothing where one format is in use.
/// </remarks>
public abstract class DeviceRing
{
    private protected DeviceRing()
    {
    }

    /// <summary>Whether the queue is started.</summary>
    public abstract bool IsStarted { get; }

    /// <summary>Queue size while started, else 0.</summary>
    public int Size { get; private protected set; }

    /// <summary>Where the queue goes on, at the next start as well.</summary>
    public abstract QueueState State { get; }

    /// <summary>Attaches the queue to a driver's rings.</summary>
    /// <param name="layout">Where the rings are.</param>
    /// <param name="map">What the device may reach; the queue holds a reference until <see cref="Stop"/>.</param>
    /// <param name="state">Where it begins.</param>
    /// <param name="fault">
    /// EINVAL for a size or an alignment that the standard forbids, or a state of another format; EFAULT for a ring that does not lie in one
    /// region.
    /// </param>
    /// <returns>Whether it is started.</returns>
    public abstract bool TryStart(in RingLayout layout, IoMap map, QueueState state, out Fault fault);

    /// <summary>Detaches the queue from the rings and lets go of the memory. Buffers that were taken and not handed back are lost.</summary>
    public abstract void Stop();

    /// <summary>Takes the next available buffer.</summary>
    /// <param name="chain">Where it goes; the previous content is gone.</param>
    /// <param name="fault">What the driver did wrong, or none when the ring is empty.</param>
    /// <returns>Whether there was one.</returns>
    public abstract bool TryTake(DescriptorChain chain, out Fault fault);

    /// <summary>Hands a buffer back that was taken; the driver sees it after <see cref="Publish"/>. Order is free.</summary>
    /// <param name="head">The chain's head.</param>
    /// <param name="written">Bytes written to its writable part, from its start.</param>
    public abstract void Complete(ushort head, uint written);

    /// <summary>Lets the driver see all completed buffers at once.</summary>
    /// <returns>Whether the driver wants to be told.</returns>
    public abstract bool Publish();

    /// <summary>Asks whether buffers are waiting; cheap enough to poll with.</summary>
    /// <returns>Whether <see cref="TryTake"/> has something to say.</returns>
    public abstract bool HasAvailable();

    /// <summary>Asks the driver not to kick: the device polls. The driver may kick anyway.</summary>
    public abstract void DisableKicks();

    /// <summary>Asks the driver to kick for the next buffer, before the device sleeps.</summary>
    /// <returns>True when buffers came meanwhile: the kick for them may never come, so the device takes them first.</returns>
    public abstract bool EnableKicks();
}
