using Virtbus.Platform;
using Virtbus.Virtio.Rings;

namespace Virtbus.Virtio;

/// <summary>
/// What a device model does with one of its queues. All calls but <see cref="Counters"/> come from the poll thread that the queue is on while it
/// runs, another one after a move, and from the control thread before it starts and after it has ended, <see cref="Drain"/> among them. No call
/// allocates but <see cref="Start"/>.
/// What only a model with requests in flight needs is answered for one that has none.
/// </summary>
public interface IQueueProcessor : IDisposable
{
    /// <summary>Readable when <see cref="Process"/> has something to do although the ring has not; null when that never happens.</summary>
    FileDescriptor? Completion => null;

    /// <summary>Whether <see cref="Process"/> may wait for the host, a disk for one: the queue then has a thread of its own.</summary>
    bool MayBlock => false;

    /// <summary>Whether requests are in flight, whose end <see cref="Completion"/> tells.</summary>
    bool IsWaiting => false;

    /// <summary>Whether it takes no more buffers until one of those in flight is done.</summary>
    bool IsFull => false;

    /// <summary>The counters of the requests; readable from any thread.</summary>
    (ulong Requests, ulong Bytes, ulong Errors) Counters { get; }

    /// <summary>Which ways requests went: on the queue's thread, by io_uring, by a worker; readable from any thread.</summary>
    (ulong InPlace, ulong Uring, ulong Worker) Ways => default;

    /// <summary>The queue was attached to a driver's rings.</summary>
    /// <param name="ring">The ring, until the next start.</param>
    /// <param name="features">What the driver took.</param>
    void Start(DeviceRing ring, VirtioFeatures features);

    /// <summary>Does one batch: takes buffers, works on them, completes those that are done. The caller publishes.</summary>
    /// <param name="fault">How the driver broke the ring; none when it did not.</param>
    /// <returns>Whether there was anything to do; false with a fault when the driver broke the ring.</returns>
    bool Process(out Fault fault);

    /// <summary>Finishes and completes what is in work. The caller publishes.</summary>
    void Drain();

    /// <summary>
    /// A call of this object threw, or the host has no room for the queue that it was started for: what is in work is not finished. When this returns nothing
    /// of it touches the driver's memory any more, and nothing is taken in for it. On the thread of that call.
    /// </summary>
    void Abandon()
    {
    }
}
