using Virtbus.Memory.Dma;
using Virtbus.Platform;

namespace Virtbus.Remote.Pci;

/// <summary>
/// A PCI function that is elsewhere, in VFIO's words, whatever carries them: regions, interrupts by eventfds, memory, reset. Any thread. What the
/// other end answers wrong is a fault like what it refuses.
/// </summary>
internal interface IRemoteLink : IDisposable
{
    /// <summary>What the function is called in the log and in errors.</summary>
    string Name { get; }

    /// <summary>
    /// Whether another process answers: calls then wait for it, as long as it likes, and what it offers to be mapped is memory of its own.
    /// </summary>
    bool IsPeer { get; }

    /// <summary>Whether <see cref="TryReset"/> can do something.</summary>
    bool CanReset { get; }

    /// <summary>The most bytes of memory in one <see cref="TryMap"/>.</summary>
    ulong LargestMap { get; }

    /// <summary>Sets what is called, once and on any thread, when the other end is gone for good; at once when it is already.</summary>
    void SetLostCallback(Action lost);

    /// <summary>What to tell somebody who wanted this to be a PCI function, which it is not.</summary>
    VirtbusException Refuse(Fault fault);

    /// <summary>What a region is; one that is not there has no bytes. Its files belong to the link.</summary>
    bool TryGetRegion(uint index, out VfioRegionInfo info, out Fault fault);

    /// <summary>The registers of a region that an eventfd of the other end stands for; the eventfds belong to the link.</summary>
    IReadOnlyList<(VfioDoorbell Register, EventFd Signal)> GetDoorbells(uint region);

    /// <summary>How many vectors an interrupt index has; 0 for one that is not there.</summary>
    uint GetVectors(uint index);

    bool TryRead(uint region, ulong offset, Span<byte> destination, out Fault fault);

    bool TryWrite(uint region, ulong offset, ReadOnlySpan<byte> source, out Fault fault);

    bool TrySetIrqs(in VfioIrqSet set, out Fault fault);

    bool TryReset(out Fault fault);

    /// <summary>Lets the function reach memory until it is unmapped.</summary>
    bool TryMap(in RemoteMap map, out Fault fault);

    /// <summary>Takes memory away as it was mapped. When it returns, the function does not reach it any more.</summary>
    bool TryUnmap(IovaRange range, out Fault fault);

    /// <summary>Ends the link as if the other end had gone, and with it every wait for that.</summary>
    void Close(Fault reason);
}
