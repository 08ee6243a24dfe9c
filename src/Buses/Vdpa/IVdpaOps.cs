using Virtbus.Memory;
using Virtbus.Platform;
using Virtbus.Virtio;
using Virtbus.Virtio.Rings;

namespace Virtbus.Buses.Vdpa;

/// <summary>
/// What a vDPA driver offers of its device to the vhost subsystem, its transports and a virtio bus driver, after the kernel's
/// vdpa_config_ops. The device serves its virtqueues itself: this is the control path only.
/// </summary>
/// <remarks>
/// Order of use, as a virtio driver has it (VIRTIO 1.2, 3.1), and enforced: map, status, features, FEATURES_OK, queues, DRIVER_OK. Queues run when they are
/// ready and DRIVER_OK is set. Calls may come from any thread; the implementation lets one through at a time. A call that stops a queue
/// returns when the queue's thread touches neither the ring nor guest memory any more. What the driver asked wrong is a <see cref="Fault"/>.
/// A queue number outside 0 to <see cref="QueueCount"/> - 1 is the caller's bug and throws <see cref="ArgumentOutOfRangeException"/>.
/// </remarks>
public interface IVdpaOps
{
    /// <summary>Virtio device type, see <see cref="VirtioDeviceId"/>.</summary>
    uint DeviceId { get; }

    /// <summary>Virtio vendor id.</summary>
    uint VendorId { get; }

    /// <summary>How many virtqueues the device has.</summary>
    int QueueCount { get; }

    /// <summary>The largest queue size that the device takes, a power of two.</summary>
    int MaxQueueSize { get; }

    /// <summary>Feature bits that the device offers (VIRTIO_F_* and those of its type): the first 64, which is what vDPA carries.</summary>
    ulong DeviceFeatures { get; }

    /// <summary>Feature bits that the driver took; 0 after a reset.</summary>
    ulong DriverFeatures { get; }

    /// <summary>Size of the configuration space in bytes.</summary>
    int ConfigSize { get; }

    /// <summary>Number that changes whenever the configuration space changes under the driver (VIRTIO 1.2, 2.5).</summary>
    uint ConfigGeneration { get; }

    /// <summary>Device status bits (VIRTIO 1.2, 2.1): see <see cref="VirtioStatus"/>.</summary>
    byte Status { get; }

    /// <summary>Takes the driver's choice of features.</summary>
    /// <param name="features">The bits.</param>
    /// <param name="fault">EINVAL for a bit that was not offered; EBUSY after FEATURES_OK.</param>
    /// <returns>Whether they were taken.</returns>
    bool TrySetDriverFeatures(ulong features, out Fault fault);

    /// <summary>Reads the configuration space.</summary>
    /// <param name="offset">Byte offset.</param>
    /// <param name="destination">Where to.</param>
    /// <param name="fault">EINVAL when the range leaves the space.</param>
    /// <returns>Whether it was read.</returns>
    bool TryGetConfig(int offset, Span<byte> destination, out Fault fault);

    /// <summary>Writes the configuration space, as a driver may.</summary>
    /// <param name="offset">Byte offset.</param>
    /// <param name="source">What.</param>
    /// <param name="fault">EINVAL when the range leaves the space; EROFS for a field that a driver may not write.</param>
    /// <returns>Whether it was written.</returns>
    bool TrySetConfig(int offset, ReadOnlySpan<byte> source, out Fault fault);

    /// <summary>Sets what is called when the configuration space or the status changed by itself.</summary>
    /// <param name="callback">The callback, on any thread, not to block; null for none.</param>
    void SetConfigCallback(Action? callback);

    /// <summary>Sets the status bits.</summary>
    /// <param name="status">All bits; 0 resets the device.</param>
    /// <param name="fault">
    /// EINVAL for a bit that comes too early or would be taken back (<see cref="VirtioStatusRules"/>), or for features that do not go together.
    /// </param>
    /// <returns>Whether they were set.</returns>
    bool TrySetStatus(byte status, out Fault fault);

    /// <summary>
    /// Stops all queues and forgets status, features and queue set-up, the index of the next buffer included: who needs that afterwards stops
    /// the queue and reads it first. Map and eventfds stay: they belong to the transport and not to the driver. Configuration that the driver
    /// wrote stays, since it relies on it.
    /// </summary>
    void Reset();

    /// <summary>
    /// Resets the device for another user of the transport, for example a front end that has just connected. Nothing that the one before set
    /// is left, but for what configuration keeps for all, like a disk's cache mode: until the new user has read which one that is, the device
    /// serves it by the safest.
    /// </summary>
    void BeginUse();

    /// <summary>
    /// Lets the device's DMA reach another address space. Running queues stand still meanwhile. One whose ring is not reachable any more waits
    /// until a later space, or a later change of this one, brings it back.
    /// </summary>
    /// <param name="space">The space, which stays the caller's; its changes take effect by themselves. Null for none.</param>
    void SetAddressSpace(IoAddressSpace? space);

    /// <summary>Says where a queue's rings are.</summary>
    /// <param name="queue">Queue number.</param>
    /// <param name="descriptorArea">Descriptor table.</param>
    /// <param name="driverArea">Available ring.</param>
    /// <param name="deviceArea">Used ring.</param>
    /// <param name="fault">EBUSY while the queue is ready.</param>
    /// <returns>Whether it was taken; whether the addresses make sense turns out when the queue is made ready.</returns>
    bool TrySetQueueAddress(int queue, Iova descriptorArea, Iova driverArea, Iova deviceArea, out Fault fault);

    /// <summary>Sets the number of descriptors of a queue.</summary>
    /// <param name="queue">Queue number.</param>
    /// <param name="size">Up to <see cref="MaxQueueSize"/>; a power of two, unless VIRTIO_F_RING_PACKED was taken.</param>
    /// <param name="fault">EINVAL; EBUSY while the queue is ready.</param>
    /// <returns>Whether it was taken.</returns>
    bool TrySetQueueSize(int queue, int size, out Fault fault);

    /// <summary>
    /// Makes a queue ready, or stops it: requests in work are finished and handed back before the call returns. A ready queue runs once
    /// DRIVER_OK is set, and looks at its ring at once, without a kick.
    /// </summary>
    /// <param name="queue">Queue number.</param>
    /// <param name="ready">Whether it shall be.</param>
    /// <param name="fault">EFAULT, EINVAL when the rings do not lie in mapped memory or are not aligned.</param>
    /// <returns>Whether it was done; stopping always is.</returns>
    bool TrySetQueueReady(int queue, bool ready, out Fault fault);

    /// <summary>Whether a queue is ready.</summary>
    /// <param name="queue">Queue number.</param>
    /// <returns>True as well while it waits for DRIVER_OK or for its memory, and when a ring error stopped it.</returns>
    bool IsQueueReady(int queue);

    /// <summary>Sets where a queue begins.</summary>
    /// <param name="queue">Queue number.</param>
    /// <param name="state">
    /// The place; one of the other ring format is refused, here or when the queue is made ready. The default value is the beginning of either format.
    /// </param>
    /// <param name="fault">EBUSY while the queue is ready.</param>
    /// <returns>Whether it was taken.</returns>
    bool TrySetQueueState(int queue, QueueState state, out Fault fault);

    /// <summary>Reads where a queue goes on; settled while the queue is not ready.</summary>
    /// <param name="queue">Queue number.</param>
    /// <returns>The place.</returns>
    QueueState GetQueueState(int queue);

    /// <summary>Sets the eventfd by which the driver wakes a queue.</summary>
    /// <param name="queue">Queue number.</param>
    /// <param name="kick">The eventfd, open until it is replaced; null makes the device poll the ring.</param>
    void SetQueueKick(int queue, EventFd? kick);

    /// <summary>Sets the eventfd by which the device tells the driver of used buffers, also while the queue runs.</summary>
    /// <param name="queue">Queue number.</param>
    /// <param name="call">The eventfd, open until it is replaced; null for none.</param>
    void SetQueueCall(int queue, EventFd? call);

    /// <summary>Sets the eventfd that the device signals when a ring error stopped a queue.</summary>
    /// <param name="queue">Queue number.</param>
    /// <param name="error">The eventfd, open until it is replaced; null for none.</param>
    void SetQueueError(int queue, EventFd? error);

    /// <summary>Makes a queue look at its ring, for a user without eventfds.</summary>
    /// <param name="queue">Queue number.</param>
    void KickQueue(int queue);

    /// <summary>Sets what is called when a ring error stopped a queue.</summary>
    /// <param name="callback">Queue number and cause; on the queue's thread, not to block and not to call the device; null for none.</param>
    void SetQueueFaultCallback(Action<int, Fault>? callback);

    /// <summary>Reads a queue's counters.</summary>
    /// <param name="queue">Queue number.</param>
    /// <returns>The counters, each of them up to date, not all of the same moment.</returns>
    QueueCounters GetQueueCounters(int queue);

    /// <summary>
    /// Says where bugs of the device's model are told, once, before it is used. One whose model has a place of its own, as a PCI function has, needs none.
    /// </summary>
    /// <param name="faults">The source of this device.</param>
    void SetFaultSource(FaultSource faults)
    {
    }
}
