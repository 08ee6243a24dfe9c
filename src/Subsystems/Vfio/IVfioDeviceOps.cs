using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;

namespace Virtbus.Subsystems.Vfio;

/// <summary>
/// What a driver offers for a user to drive its device: each callback is the tool box's, wrapped, or the driver's own. Nothing of PCI is in
/// it. The core calls open and close in turns, the rest only between them.
/// </summary>
/// <remarks>Calls of one open device come one at a time, on any thread; they do not wait for the user who makes them.</remarks>
public interface IVfioDeviceOps
{
    /// <summary>The first user opened the device.</summary>
    /// <param name="user">Who it is: the driver claims the device's DMA for it (<see cref="IommuGroup.TryClaimForUser"/>).</param>
    /// <param name="fault">EBUSY: the DMA belongs to another; else why it cannot be opened.</param>
    bool TryOpen(VfioOwner user, out Fault fault);

    /// <summary>The last user is gone: whatever was set up is undone, and the device is as after a reset.</summary>
    void Close();

    /// <summary>What the device is.</summary>
    VfioDeviceInfo Info { get; }

    /// <summary>What a region is; asked once an open.</summary>
    /// <param name="index">Below <see cref="VfioDeviceInfo.Regions"/>.</param>
    VfioRegionInfo GetRegionInfo(uint index);

    /// <summary>What an interrupt index is; asked once an open.</summary>
    /// <param name="index">Below <see cref="VfioDeviceInfo.Interrupts"/>.</param>
    VfioIrqInfo GetIrqInfo(uint index);

    /// <summary>
    /// Whether the device checks the range of an access itself, because what lies behind it does (a bus, for a function on it). Where it does
    /// not, the core has checked it before a read or a write comes here.
    /// </summary>
    bool ChecksRange => false;

    /// <summary>Reads a region.</summary>
    /// <param name="region">Region index.</param>
    /// <param name="offset">First byte; the range lies inside the region, unless <see cref="ChecksRange"/>.</param>
    /// <param name="destination">Where to.</param>
    /// <param name="fault">EIO: the memory is disabled, or the device is gone; EINVAL.</param>
    bool TryRead(uint region, ulong offset, Span<byte> destination, out Fault fault);

    /// <summary>Writes a region.</summary>
    /// <param name="region">Region index.</param>
    /// <param name="offset">First byte; as for <see cref="TryRead"/>.</param>
    /// <param name="source">Where from.</param>
    /// <param name="fault">As <see cref="TryRead"/>.</param>
    bool TryWrite(uint region, ulong offset, ReadOnlySpan<byte> source, out Fault fault);

    /// <summary>Sets interrupts up. The core has checked index, range and flags.</summary>
    /// <param name="set">What is asked.</param>
    /// <param name="fault">EINVAL: not possible for that index.</param>
    bool TrySetIrqs(in VfioIrqSet set, out Fault fault);

    /// <summary>Resets the device: registers and migration state are as after open. Interrupts stay set up (as in Linux), and so does what is attached.</summary>
    /// <param name="fault">EOPNOTSUPP: it cannot.</param>
    bool TryReset(out Fault fault);

    /// <summary>The device's driver wants it back: the user is asked to let go. Repeated until it does; may come during any other call.</summary>
    /// <param name="count">How often it was asked before.</param>
    void Request(int count);

    /// <summary>Lets the device (or one PASID of it) reach an address space; null detaches.</summary>
    /// <param name="space">The address space.</param>
    /// <param name="pasid">Null for requests without a PASID.</param>
    /// <param name="fault">EBUSY, EPERM: the DMA belongs to another; EOPNOTSUPP: no PASIDs.</param>
    bool TryAttach(IoAddressSpace? space, uint? pasid, out Fault fault);

    /// <summary>Doorbells of a region that an eventfd can stand for (vfio-user GET_REGION_IO_FDS, VFIO_DEVICE_IOEVENTFD).</summary>
    /// <param name="region">Region index.</param>
    IReadOnlyList<VfioDoorbell> GetDoorbells(uint region);

    /// <summary>Lets signals of an eventfd stand for writes to a doorbell.</summary>
    /// <param name="region">Region index.</param>
    /// <param name="doorbell">One of <see cref="GetDoorbells"/>.</param>
    /// <param name="signal">The device takes a duplicate; null detaches. Close detaches all.</param>
    /// <param name="fault">ENOENT, EOPNOTSUPP.</param>
    bool TryAttachDoorbell(uint region, VfioDoorbell doorbell, EventFd? signal, out Fault fault);

    /// <summary>Its migration, or null.</summary>
    IVfioMigrationOps? Migration { get; }

    /// <summary>Its log of written pages, or null.</summary>
    IVfioDmaLoggingOps? DmaLogging { get; }
}
