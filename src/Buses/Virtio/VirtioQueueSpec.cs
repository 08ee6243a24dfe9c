namespace Virtbus.Buses.Virtio;

/// <summary>A queue that a driver asks for (Linux: struct virtqueue_info).</summary>
/// <param name="Name">What it is called in logs, for example <c>input</c>.</param>
/// <param name="Used">
/// Called when the device has used buffers, and once more when the queue is broken, on the thread that interrupts: it must not block and not set up or
/// reset the device. Null for a queue that is polled: it gets no vector.
/// </param>
/// <param name="MaxSize">The most descriptors that the driver wants; where the device's queue is smaller, that counts.</param>
public readonly record struct VirtioQueueSpec(string Name, Action<VirtioQueue>? Used, int MaxSize = 256)
{
    /// <summary>Its number on the device; null for its place among those that are asked for. Queues between them that nobody asks for stay unused.</summary>
    public int? Number { get; init; }
}
