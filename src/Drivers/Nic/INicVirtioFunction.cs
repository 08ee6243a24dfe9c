using Virtbus.Memory;
using Virtbus.Platform;

namespace Virtbus.Drivers.Nic;

/// <summary>
/// A virtio function inside of an adapter, as its part's driver sees it: registers in a window, laid out as struct virtio_pci_common_cfg with
/// the adapter's own behind (docs/adapter-registers.md), a notification for each queue, and DMA to one address space. Any thread; who uses
/// registers that a selector stands before sees to it that no other comes in between.
/// </summary>
public interface INicVirtioFunction : IDisposable
{
    /// <summary>How many virtqueues it has.</summary>
    int QueueCount { get; }

    /// <summary>Reads registers; all ones when the adapter is gone.</summary>
    /// <param name="offset">First byte in the window.</param>
    /// <param name="destination">Where to; 1, 2, 4 or 8 bytes for one register.</param>
    void Read(int offset, Span<byte> destination);

    /// <summary>Writes registers. One that stops a queue returns when that is done.</summary>
    /// <param name="offset">First byte in the window.</param>
    /// <param name="source">Where from; 1, 2, 4 or 8 bytes for one register.</param>
    void Write(int offset, ReadOnlySpan<byte> source);

    /// <summary>Makes a queue look at its ring.</summary>
    /// <param name="queue">Queue number.</param>
    void Notify(int queue);

    /// <summary>Lets signals of an eventfd stand for notifications of a queue; they reach its thread without a detour.</summary>
    /// <param name="queue">Queue number.</param>
    /// <param name="signal">The eventfd; it may be closed afterwards. Null detaches.</param>
    /// <param name="fault">ENOENT, EOPNOTSUPP: the hardware has no such doorbell.</param>
    bool TryAttachNotify(int queue, EventFd? signal, out Fault fault);

    /// <summary>The MSI-X vector that belongs to a queue, to be written to its register.</summary>
    /// <param name="queue">Queue number.</param>
    ushort GetVector(int queue);

    /// <summary>Sets the line to the user that is signalled when the queue's vector is raised, on the thread of the queue.</summary>
    /// <param name="queue">Queue number.</param>
    /// <param name="signal">The line. The one before is signalled no more when the call returns.</param>
    void SetQueueSignal(int queue, SignalLine signal);

    /// <summary>Sets what is called when the function tells of something by itself: the number of a queue that a ring error stopped, with the error, or -1 when its configuration changed.</summary>
    /// <param name="handler">The handler, on the thread of the adapter's events, not to execute commands; null for none.</param>
    void SetEventHandler(Action<int, Errno>? handler);

    /// <summary>Lets the function's DMA reach an address space instead of what it reached before (VS-06: by a PASID of the adapter).</summary>
    /// <param name="space">The space, which stays the caller's; null for none. Its changes take effect by themselves.</param>
    /// <param name="fault">EPERM: the DMA of the adapter does not belong to the host's drivers.</param>
    bool TryAttach(IoAddressSpace? space, out Fault fault);
}
