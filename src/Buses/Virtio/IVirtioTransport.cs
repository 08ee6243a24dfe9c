using Virtbus.Memory.Dma;
using Virtbus.Platform;
using Virtbus.Virtio;

namespace Virtbus.Buses.Virtio;

/// <summary>
/// What a transport driver offers of a virtio device to the bus (Linux: struct virtio_config_ops): registers, queues, reset, and nothing of the order in
/// which they are used, which is the bus's. Calls come one at a time, but for <see cref="Status"/> and the configuration, which any thread reads.
/// </summary>
/// <remarks>It believes the device nothing. What is wrong with a device is a <see cref="Fault"/>, or when queues are made a <see cref="VirtbusException"/>.</remarks>
public interface IVirtioTransport
{
    /// <summary>Virtio device type.</summary>
    uint VirtioType { get; }

    /// <summary>Virtio vendor id.</summary>
    uint VendorId { get; }

    /// <summary>Features that the device offers, as they were when it was found.</summary>
    VirtioFeatures DeviceFeatures { get; }

    /// <summary>Features of transport and rings that are taken where they are offered, whatever the driver is.</summary>
    VirtioFeatures TransportFeatures { get; }

    /// <summary>Whether the device is driven as those from before version 1.0 of the standard.</summary>
    bool IsLegacy { get; }

    /// <summary>Device status; all ones when the device is gone.</summary>
    byte Status { get; }

    /// <summary>Whose memory the device reaches.</summary>
    IommuGroup Group { get; }

    /// <summary>Sets status bits.</summary>
    /// <param name="status">All bits, not 0.</param>
    /// <param name="fault">EINVAL: a bit comes too early; ENODEV: the device is gone.</param>
    /// <returns>Whether the device has them.</returns>
    bool TrySetStatus(byte status, out Fault fault);

    /// <summary>Tells the device which features the driver takes, and settles them (FEATURES_OK, where there is such a bit).</summary>
    /// <param name="features">The features.</param>
    /// <param name="fault">EINVAL: the device does not take them together, or a feature needs a register that it has not; ENODEV.</param>
    /// <returns>Whether they are settled.</returns>
    bool TrySettleFeatures(VirtioFeatures features, out Fault fault);

    /// <summary>Resets the device. Before that handlers of interrupts are taken off, and none runs when it returns. Queues are to be deleted afterwards.</summary>
    /// <param name="fault">ETIMEDOUT: it does not get there; ENODEV: it is gone. No interrupt of it is taken any more all the same.</param>
    /// <returns>Whether it is reset: it uses no memory any more.</returns>
    bool TryReset(out Fault fault);

    /// <summary>Reads the configuration space in one piece: what the device changes meanwhile is read again.</summary>
    /// <param name="offset">First byte.</param>
    /// <param name="destination">Where to.</param>
    /// <param name="fault">EINVAL: the space ends before; EAGAIN: it changes all the time; ENODEV.</param>
    /// <returns>Whether what was read is of one moment.</returns>
    bool TryReadConfig(int offset, Span<byte> destination, out Fault fault);

    /// <summary>Writes the configuration space.</summary>
    /// <param name="offset">First byte.</param>
    /// <param name="source">Where from: 1, 2 or 4 bytes.</param>
    void WriteConfig(int offset, ReadOnlySpan<byte> source);

    /// <summary>Makes queues of the device, with rings and interrupts, once after each reset.</summary>
    /// <param name="specs">What the driver asks for.</param>
    /// <param name="features">What was settled.</param>
    /// <param name="broken">Told once of each queue that the device breaks; on any thread.</param>
    /// <returns>The queues.</returns>
    /// <exception cref="VirtbusException">
    /// ENOENT: the device has not that many; EINVAL: what it says of one makes no sense; ENOSPC: no interrupt; ENOMEM. Nothing is left behind but what a
    /// reset takes back.
    /// </exception>
    VirtioQueue[] CreateQueues(ReadOnlySpan<VirtioQueueSpec> specs, VirtioFeatures features, Action<VirtioQueue, Fault> broken);

    /// <summary>Frees queues and interrupts; the device is reset, or gone.</summary>
    void DeleteQueues();

    /// <summary>The device failed, or is gone: ends what waits for queues that the transport keeps for itself, which are none of the driver's. Any thread.</summary>
    /// <param name="fault">EIO or ENODEV.</param>
    void BreakOwn(Fault fault);

    /// <summary>Sets who is told of changes of configuration and status.</summary>
    /// <param name="changed">Called on the thread that interrupts; null for nobody.</param>
    void SetConfigCallback(Action? changed);
}
