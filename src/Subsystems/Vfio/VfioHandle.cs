using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;

namespace Virtbus.Subsystems.Vfio;

/// <summary>
/// A device that a user has open (Linux: the device's descriptor). It checks what the user asks, so that ops get only what makes sense, and
/// it goes dead when the device is taken away: everything is ENODEV then. One call at a time; <see cref="Dispose"/> from any thread.
/// </summary>
public sealed class VfioHandle : IDisposable
{
    internal VfioHandle(VfioDevice device) => Device = device;

    /// <summary>The device.</summary>
    public VfioDevice Device { get; }

    /// <summary>What the device is.</summary>
    public VfioDeviceInfo Info => throw new NotSupportedException();

    /// <summary>What a region is.</summary>
    /// <param name="index">Region index.</param>
    /// <param name="info">What it is.</param>
    /// <param name="fault">EINVAL: no such region.</param>
    public bool TryGetRegionInfo(uint index, out VfioRegionInfo? info, out Fault fault) => throw new NotSupportedException();

    /// <summary>What an interrupt index is.</summary>
    /// <param name="index">Interrupt index.</param>
    /// <param name="info">What it is.</param>
    /// <param name="fault">EINVAL: no such index.</param>
    public bool TryGetIrqInfo(uint index, out VfioIrqInfo info, out Fault fault) => throw new NotSupportedException();

    /// <summary>Reads a region.</summary>
    /// <param name="region">Region index.</param>
    /// <param name="offset">First byte.</param>
    /// <param name="destination">Where to.</param>
    /// <param name="fault">EINVAL: outside, or not readable; EIO.</param>
    public bool TryRead(uint region, ulong offset, Span<byte> destination, out Fault fault) => throw new NotSupportedException();

    /// <summary>Writes a region.</summary>
    /// <param name="region">Region index.</param>
    /// <param name="offset">First byte.</param>
    /// <param name="source">Where from.</param>
    /// <param name="fault">As <see cref="TryRead"/>.</param>
    public bool TryWrite(uint region, ulong offset, ReadOnlySpan<byte> source, out Fault fault) => throw new NotSupportedException();

    /// <summary>Sets interrupts up; the request is checked by the rules of VFIO_DEVICE_SET_IRQS first.</summary>
    /// <param name="set">What is asked.</param>
    /// <param name="fault">EINVAL: flags, range, number of eventfds.</param>
    public bool TrySetIrqs(in VfioIrqSet set, out Fault fault) => throw new NotSupportedException();

    /// <summary>Resets the device.</summary>
    /// <param name="fault">EOPNOTSUPP: it cannot be reset.</param>
    public bool TryReset(out Fault fault) => throw new NotSupportedException();

    /// <summary>Lets the device reach an address space; null detaches.</summary>
    /// <param name="space">The address space.</param>
    /// <param name="pasid">Null for requests without a PASID.</param>
    /// <param name="fault">EBUSY: the DMA belongs to another.</param>
    public bool TryAttach(IoAddressSpace? space, uint? pasid, out Fault fault) => throw new NotSupportedException();

    /// <summary>Doorbells of a region.</summary>
    /// <param name="region">Region index.</param>
    public IReadOnlyList<VfioDoorbell> GetDoorbells(uint region) => throw new NotSupportedException();

    /// <summary>Lets signals of an eventfd stand for writes to a doorbell.</summary>
    /// <param name="region">Region index.</param>
    /// <param name="doorbell">The doorbell.</param>
    /// <param name="signal">The eventfd; null detaches.</param>
    /// <param name="fault">ENOENT, EOPNOTSUPP.</param>
    public bool TryAttachDoorbell(uint region, VfioDoorbell doorbell, EventFd? signal, out Fault fault) => throw new NotSupportedException();

    /// <summary>The device's migration, or null.</summary>
    public IVfioMigrationOps? Migration => throw new NotSupportedException();

    /// <summary>The device's log of written pages, or null.</summary>
    public IVfioDmaLoggingOps? DmaLogging => throw new NotSupportedException();

    /// <summary>
    /// Called on a thread of the control plane when the device's driver wants the device back (again and again), or when the device was taken
    /// away (once, with <c>revoked</c>): the handle is dead then and only wants to be disposed. It must not block.
    /// </summary>
    /// <param name="requested">The handler, told whether the device is taken away already; null takes it off.</param>
    public void SetRequestCallback(Action<bool>? requested) => throw new NotSupportedException();

    /// <summary>Closes the device; the last close undoes all that users set up.</summary>
    public void Dispose() => throw new NotSupportedException();
}
