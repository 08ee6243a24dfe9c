using Virtbus.Core;
using Virtbus.Memory.Dma;
using Virtbus.Pci;
using Virtbus.Platform;

namespace Virtbus.Buses.Pci;

/// <summary>A PCI function on the bus, as its driver sees it: config space, regions, interrupts, DMA, virtual functions, reset.</summary>
public sealed class PciDevice : Device
{
    internal PciDevice(PciBus bus, PciAddress address, Device parent, IPciFunction function)
        : base(address.ToString(), parent, bus)
    {
        Address = address;
        Function = function;
    }

    /// <summary>Where it is.</summary>
    public PciAddress Address { get; }

    /// <summary>The hardware behind. For the tool boxes that stand on PCI; drivers use the members of this class.</summary>
    public IPciFunction Function { get; }

    /// <summary>Vendor id (of the physical function for a virtual one).</summary>
    public ushort VendorId => throw new NotSupportedException();

    /// <summary>Device id (as the SR-IOV capability says for a virtual function).</summary>
    public ushort DeviceId => throw new NotSupportedException();

    /// <summary>Subsystem vendor id.</summary>
    public ushort SubsystemVendorId => throw new NotSupportedException();

    /// <summary>Subsystem id.</summary>
    public ushort SubsystemId => throw new NotSupportedException();

    /// <summary>Base class, subclass, programming interface: 24 bits.</summary>
    public uint ClassCode => throw new NotSupportedException();

    /// <summary>Bytes of config space.</summary>
    public int ConfigSize => Function.ConfigSize;

    /// <summary>The functions that share DMA with this one.</summary>
    public IommuGroup IommuGroup => throw new NotSupportedException();

    /// <summary>The function's way to memory.</summary>
    public DmaPort Dma => throw new NotSupportedException();

    /// <summary>The physical function that this is a virtual function of, or null.</summary>
    public PciDevice? PhysicalFunction => throw new NotSupportedException();

    /// <summary>The number of the virtual function, from 0; -1 for others.</summary>
    public int VirtualFunctionIndex => throw new NotSupportedException();

    /// <summary>The virtual functions that are enabled now.</summary>
    public IReadOnlyList<PciDevice> VirtualFunctions => throw new NotSupportedException();

    /// <summary>Reads config space; all ones when the device is gone.</summary>
    /// <param name="offset">First byte.</param>
    /// <param name="destination">Where to.</param>
    public void ReadConfig(int offset, Span<byte> destination) => throw new NotSupportedException();

    /// <summary>Writes config space.</summary>
    /// <param name="offset">First byte.</param>
    /// <param name="source">Where from.</param>
    public void WriteConfig(int offset, ReadOnlySpan<byte> source) => throw new NotSupportedException();

    /// <summary>Reads a 16-bit register of config space.</summary>
    /// <param name="offset">Byte offset.</param>
    public ushort ReadConfig16(int offset) => throw new NotSupportedException();

    /// <summary>Writes a 16-bit register of config space.</summary>
    /// <param name="offset">Byte offset.</param>
    /// <param name="value">The value.</param>
    public void WriteConfig16(int offset, ushort value) => throw new NotSupportedException();

    /// <summary>Reads a 32-bit register of config space.</summary>
    /// <param name="offset">Byte offset.</param>
    public uint ReadConfig32(int offset) => throw new NotSupportedException();

    /// <summary>Writes a 32-bit register of config space.</summary>
    /// <param name="offset">Byte offset.</param>
    /// <param name="value">The value.</param>
    public void WriteConfig32(int offset, uint value) => throw new NotSupportedException();

    /// <summary>Offset of a capability in config space; 0 when there is none.</summary>
    /// <param name="id">Capability id.</param>
    public int FindCapability(byte id) => throw new NotSupportedException();

    /// <summary>Offset of an extended capability; 0 when there is none.</summary>
    /// <param name="id">Extended capability id.</param>
    public int FindExtendedCapability(ushort id) => throw new NotSupportedException();

    /// <summary>A BAR.</summary>
    /// <param name="bar">0 to 5, or <see cref="PciBar.Rom"/>.</param>
    public PciRegion GetRegion(int bar) => throw new NotSupportedException();

    /// <summary>Turns decoding on. Counts: as many <see cref="Disable"/> turn it off. Linux: pci_enable_device.</summary>
    public void Enable() => throw new NotSupportedException();

    /// <summary>The counterpart of <see cref="Enable"/>; the last one turns bus mastering off too.</summary>
    public void Disable() => throw new NotSupportedException();

    /// <summary>Lets the function do DMA and send messages, or stops it.</summary>
    /// <param name="enabled">Whether it may.</param>
    public void SetMaster(bool enabled) => throw new NotSupportedException();

    /// <summary>Allocates interrupt vectors of one kind, the best that is allowed and there: MSI-X, MSI, INTx.</summary>
    /// <param name="min">At least as many.</param>
    /// <param name="max">At most as many.</param>
    /// <param name="kinds">What is allowed.</param>
    /// <exception cref="VirtbusException">ENOSPC: fewer than <paramref name="min"/> are there; EBUSY: vectors are allocated already.</exception>
    public IReadOnlyList<PciVector> AllocateVectors(int min, int max, PciInterruptKinds kinds = PciInterruptKinds.All) => throw new NotSupportedException();

    /// <summary>Frees the vectors; no handler runs after the return. Without effect when there are none.</summary>
    public void FreeVectors() => throw new NotSupportedException();

    /// <summary>Enables this many virtual functions, adds them to the tree and probes them; 0 removes all. For the driver of the physical function.</summary>
    /// <param name="count">How many.</param>
    /// <exception cref="VirtbusException">ENOSYS: no SR-IOV; ERANGE; EBUSY: others are enabled.</exception>
    public ValueTask SetVirtualFunctionsAsync(int count) => throw new NotSupportedException();

    /// <summary>Resets the function by the best way that it has (function-level, else the slot's), with its config space as it was before.</summary>
    /// <param name="fault">ENOTTY: it has no reset of its own; ENODEV: it is gone.</param>
    public bool TryReset(out Fault fault) => throw new NotSupportedException();
}
