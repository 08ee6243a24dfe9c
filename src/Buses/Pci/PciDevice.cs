using System.Buffers.Binary;
using Virtbus.Core;
using Virtbus.Memory.Dma;
using Virtbus.Pci;
using Virtbus.Platform;
using static Virtbus.Pci.PciCommand;
using static Virtbus.Pci.PciHeader;
using static Virtbus.Pci.PciSriov;

namespace Virtbus.Buses.Pci;

/// <summary>A PCI function on the bus, as its driver sees it: config space, regions, interrupts, DMA, virtual functions, reset.</summary>
/// <remarks>
/// Made by the bus. All members may be called from any thread; what the function behind does not answer reads as all ones. The function itself
/// (<see cref="PciHardware"/>) nobody but the bus reaches.
/// </remarks>
public sealed class PciDevice : Device, IPciIdentity
{
    // Subsystem ids of a bridge, whose header has no room for them.
    private const byte SubsystemIdsCapability = 0x0D;

    private readonly Lock _lock = new();
    private readonly PciHardware _hardware;
    private readonly PciGroup _group;
    private PciResource[] _resources = [];
    private PciRegion?[]? _regions;
    private PciInterrupts? _interrupts;
    private int _enables;

    internal PciDevice(PciBus bus, PciAddress address, Device parent, IPciFunction function, PciSegment segment, PciGroup group)
        : base(address.ToString(), parent, bus)
    {
        PciBus = bus;
        Address = address;
        Segment = segment;
        VirtualFunctionIndex = -1;
        _group = group;
        _hardware = new PciHardware(this, function, group);
    }

    internal PciDevice(PciDevice physicalFunction, int index, PciAddress address, IPciFunction function)
        : this(physicalFunction.PciBus, address, physicalFunction.Parent!, function, physicalFunction.Segment, new PciGroup(physicalFunction.PciBus).Join())
    {
        PhysicalFunction = physicalFunction;
        VirtualFunctionIndex = index;
    }

    /// <summary>Where it is.</summary>
    public PciAddress Address { get; }

    /// <summary>
    /// What people call the hardware (Linux: the label that firmware gives to a slot or an onboard device); a virtual function's is that of its
    /// physical function with v and its number. Null when there is none.
    /// </summary>
    public override string? Label => Slot?.Label ?? (PhysicalFunction?.Label is { } label ? $"{label}v{VirtualFunctionIndex}" : null);

    /// <summary>Vendor id (of the physical function for a virtual one).</summary>
    public ushort VendorId { get; private set; }

    /// <summary>Device id (as the SR-IOV capability says for a virtual function).</summary>
    public ushort DeviceId { get; private set; }

    /// <summary>Subsystem vendor id.</summary>
    public ushort SubsystemVendorId { get; private set; }

    /// <summary>Subsystem id.</summary>
    public ushort SubsystemId { get; private set; }

    /// <summary>Base class, subclass, programming interface: 24 bits.</summary>
    public uint ClassCode { get; private set; }

    /// <summary>Revision id.</summary>
    public byte Revision { get; private set; }

    /// <summary>Whether it is a bridge, with a bus of its own behind.</summary>
    public bool IsBridge { get; private set; }

    /// <summary>Bytes of config space.</summary>
    public int ConfigSize => Function.ConfigSize;

    /// <summary>
    /// Whether hardware of this host is behind it (Linux's vfio on the host hands it out): a device of that kind may do DMA by another way than
    /// <see cref="Dma"/>, where its driver lets it.
    /// </summary>
    public bool IsReal => Function.IsReal;

    /// <summary>
    /// The functions that share DMA with this one: those of its slot. Virtual functions, and what is alone in its slot, have a group of their own.
    /// </summary>
    public IommuGroup IommuGroup => Dma.Group;

    /// <summary>The function's way to memory.</summary>
    public DmaPort Dma => _hardware.Dma;

    /// <summary>The physical function that this is a virtual function of, or null.</summary>
    public PciDevice? PhysicalFunction { get; }

    /// <summary>The number of the virtual function, from 0; -1 for others.</summary>
    public int VirtualFunctionIndex { get; }

    /// <summary>The virtual functions that are enabled now.</summary>
    public IReadOnlyList<PciDevice> VirtualFunctions => Sriov?.Functions ?? [];

    /// <summary>How many virtual functions it can have; 0 without SR-IOV.</summary>
    public int TotalVirtualFunctions => Sriov?.Total ?? 0;

    /// <summary>Whether decoding was asked for (<see cref="Enable"/>) more often than given back.</summary>
    public bool IsEnabled => Volatile.Read(ref _enables) > 0;

    /// <summary>The vectors that are allocated now.</summary>
    public IReadOnlyList<PciVector> Vectors => Volatile.Read(ref _interrupts)?.Vectors ?? [];

    /// <summary>Reads config space; all ones when the device is gone.</summary>
    /// <remarks>The ids of a virtual function, which its own config space does not have, are those of its physical function.</remarks>
    /// <param name="offset">First byte.</param>
    /// <param name="destination">Where to; what lies behind the end reads as all ones.</param>
    public void ReadConfig(int offset, Span<byte> destination)
    {
        _hardware.ReadConfig(offset, destination);
        if (PhysicalFunction is not null && offset < 4 && IsReachable)
        {
            Span<byte> ids = stackalloc byte[4];
            BinaryPrimitives.WriteUInt32LittleEndian(ids, ((uint)DeviceId << 16) | VendorId);
            ids = ids[offset..];
            ids[..Math.Min(ids.Length, destination.Length)].CopyTo(destination);
        }
    }

    /// <summary>Writes config space.</summary>
    /// <param name="offset">First byte.</param>
    /// <param name="source">Where from; what lies behind the end is lost.</param>
    public void WriteConfig(int offset, ReadOnlySpan<byte> source) => _hardware.WriteConfig(offset, source);

    /// <summary>Reads an 8-bit register of config space.</summary>
    /// <param name="offset">Byte offset.</param>
    public byte ReadConfig8(int offset)
    {
        Span<byte> bytes = stackalloc byte[1];
        ReadConfig(offset, bytes);
        return bytes[0];
    }

    /// <summary>Writes an 8-bit register of config space.</summary>
    /// <param name="offset">Byte offset.</param>
    /// <param name="value">The value.</param>
    public void WriteConfig8(int offset, byte value) => WriteConfig(offset, [value]);

    /// <summary>Reads a 16-bit register of config space.</summary>
    /// <param name="offset">Byte offset.</param>
    public ushort ReadConfig16(int offset)
    {
        Span<byte> bytes = stackalloc byte[2];
        ReadConfig(offset, bytes);
        return BinaryPrimitives.ReadUInt16LittleEndian(bytes);
    }

    /// <summary>Writes a 16-bit register of config space.</summary>
    /// <param name="offset">Byte offset.</param>
    /// <param name="value">The value.</param>
    public void WriteConfig16(int offset, ushort value)
    {
        Span<byte> bytes = stackalloc byte[2];
        BinaryPrimitives.WriteUInt16LittleEndian(bytes, value);
        WriteConfig(offset, bytes);
    }

    /// <summary>Reads a 32-bit register of config space.</summary>
    /// <param name="offset">Byte offset.</param>
    public uint ReadConfig32(int offset)
    {
        Span<byte> bytes = stackalloc byte[4];
        ReadConfig(offset, bytes);
        return BinaryPrimitives.ReadUInt32LittleEndian(bytes);
    }

    /// <summary>Writes a 32-bit register of config space.</summary>
    /// <param name="offset">Byte offset.</param>
    /// <param name="value">The value.</param>
    public void WriteConfig32(int offset, uint value)
    {
        Span<byte> bytes = stackalloc byte[4];
        BinaryPrimitives.WriteUInt32LittleEndian(bytes, value);
        WriteConfig(offset, bytes);
    }

    /// <summary>Offset of a capability in config space; 0 when there is none.</summary>
    /// <param name="id">Capability id.</param>
    public int FindCapability(byte id)
    {
        // A list that a function made into a circle must end all the same: 48 capabilities fill the space.
        var at = ReadConfig8(PCI_CAPABILITY_LIST) & 0xFC;
        for (var hops = 0; at >= 0x40 && hops < 48; hops++)
        {
            var header = ReadConfig16(at);
            if (header == 0xFFFF)
                return 0;
            if ((byte)header == id)
                return at;
            at = (header >> 8) & 0xFC;
        }
        return 0;
    }

    /// <summary>Offset of an extended capability; 0 when there is none.</summary>
    /// <param name="id">Extended capability id.</param>
    public int FindExtendedCapability(ushort id)
    {
        var at = 0x100;
        for (var hops = 0; at >= 0x100 && at + 4 <= ConfigSize && hops < 480; hops++)
        {
            var header = ReadConfig32(at);
            if (header is 0 or 0xFFFFFFFF)
                return 0;
            if ((ushort)header == id)
                return at;
            at = (int)(header >> 20) & 0xFFC;
        }
        return 0;
    }

    /// <summary>A BAR.</summary>
    /// <param name="bar">0 to 5, or <see cref="PciBar.Rom"/>.</param>
    public PciRegion GetRegion(int bar)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(bar);
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual(bar, PciBar.Count);
        var regions = LazyInitializer.EnsureInitialized(ref _regions, static () => new PciRegion?[PciBar.Count]);
        return LazyInitializer.EnsureInitialized(ref regions[bar], () => new PciRegion(this, bar))!;
    }

    /// <summary>The doorbells that an eventfd can stand for.</summary>
    public IReadOnlyList<PciDoorbell> Doorbells => Function.Doorbells;

    /// <summary>Lets signals of an eventfd stand for writes to a doorbell. Any thread.</summary>
    /// <param name="doorbell">One of <see cref="Doorbells"/>.</param>
    /// <param name="signal">The function takes a duplicate; null detaches.</param>
    /// <param name="fault">ENOENT: no such doorbell; EOPNOTSUPP.</param>
    public bool TryAttachDoorbell(in PciDoorbell doorbell, EventFd? signal, out Fault fault) => Function.TryAttachDoorbell(doorbell, signal, out fault);

    /// <summary>Turns decoding on. Counts: as many <see cref="Disable"/> turn it off. Linux: pci_enable_device.</summary>
    /// <remarks>A virtual function decodes memory when its physical function says so; there is nothing to turn on.</remarks>
    /// <exception cref="VirtbusException">EINVAL: a BAR has no address, because the window that it belongs into is full.</exception>
    public void Enable()
    {
        lock (_lock)
        {
            if (_enables == 0 && PhysicalFunction is null)
                WriteConfig8(PCI_COMMAND, (byte)(ReadConfig8(PCI_COMMAND) | DecodeBits()));
            _enables++;
        }
    }

    /// <summary>The counterpart of <see cref="Enable"/>; the last one turns bus mastering off too.</summary>
    public void Disable()
    {
        lock (_lock)
        {
            if (_enables == 0 || --_enables > 0)
                return;
            const byte off = PCI_COMMAND_MASTER | PCI_COMMAND_MEMORY | PCI_COMMAND_IO;
            WriteConfig8(PCI_COMMAND, (byte)(ReadConfig8(PCI_COMMAND) & ~off));
        }
    }

    /// <summary>Lets the function do DMA and send messages, or stops it.</summary>
    /// <param name="enabled">Whether it may.</param>
    public void SetMaster(bool enabled)
    {
        lock (_lock)
        {
            var command = ReadConfig8(PCI_COMMAND);
            WriteConfig8(PCI_COMMAND, (byte)(enabled ? command | PCI_COMMAND_MASTER : command & ~PCI_COMMAND_MASTER));
        }
    }

    /// <summary>Allocates interrupt vectors of one kind, the best that is allowed and there: MSI-X, MSI, INTx.</summary>
    /// <param name="min">At least as many.</param>
    /// <param name="max">At most as many.</param>
    /// <param name="kinds">What is allowed.</param>
    /// <exception cref="VirtbusException">
    /// ENOSPC: fewer than <paramref name="min"/> are there; EBUSY: vectors are allocated already; EIO: the BAR with the MSI-X table is not decoded.
    /// </exception>
    public IReadOnlyList<PciVector> AllocateVectors(int min, int max, PciInterruptKinds kinds = PciInterruptKinds.All) => Interrupts.Allocate(min, max, kinds);

    /// <summary>Frees the vectors; no handler runs after the return. Without effect when there are none.</summary>
    public void FreeVectors() => Volatile.Read(ref _interrupts)?.Free();

    /// <summary>Enables this many virtual functions, adds them to the tree and probes them; 0 removes all. For the driver of the physical function.</summary>
    /// <param name="count">How many.</param>
    /// <exception cref="VirtbusException">ENOSYS: no SR-IOV; ERANGE; EBUSY: others are enabled.</exception>
    public ValueTask SetVirtualFunctionsAsync(int count) => SetVirtualFunctionsAsync(count, null);

    /// <summary>As the other one; each function is prepared before anything sees it, so a driver's probe finds it ready (PV-01, PV-02).</summary>
    /// <param name="count">How many.</param>
    /// <param name="prepare">Called for each, in order, before any is added to the tree; for example to set its driver_override.</param>
    /// <exception cref="VirtbusException">As the other one; or what <paramref name="prepare"/> throws: none is enabled then.</exception>
    public ValueTask SetVirtualFunctionsAsync(int count, Func<PciDevice, ValueTask>? prepare) => PciBus.VirtualFunctions.SetAsync(this, count, prepare);

    /// <summary>
    /// For the driver of a physical function after a reset: makes the hardware of its virtual functions anew, while their devices, with their
    /// drivers and users, stay. What they are is said in between, when the hardware takes it.
    /// </summary>
    /// <param name="configure">Says it. Called once, also when there are no virtual functions.</param>
    public void RenewVirtualFunctions(Action configure)
    {
        ArgumentNullException.ThrowIfNull(configure);
        PciReset.Renew(this, configure);
    }

    /// <summary>
    /// Resets the function by the best way that it has (function-level, else the slot's), with its config space as it was before. Its virtual
    /// functions and their number stay; they are as the reset leaves them, as after power-on.
    /// </summary>
    /// <param name="fault">ENOTTY: it has no reset of its own; ENODEV: it is gone.</param>
    public bool TryReset(out Fault fault)
    {
        lock (_lock)
            return PciReset.TryReset(this, out fault);
    }

    /// <inheritdoc/>
    protected override IEnumerable<TreeLink> TreeLinks
    {
        get
        {
            yield return new TreeLink("iommu_group", $"/kernel/iommu_groups/{_group.Number}");
            if (PhysicalFunction is { } physical)
                yield return new TreeLink("physfn", physical.DevPath);
            foreach (var function in VirtualFunctions)
                yield return new TreeLink($"virtfn{function.VirtualFunctionIndex}", function.DevPath);
        }
    }

    /// <inheritdoc/>
    protected override IReadOnlyList<Device> Dependents => VirtualFunctions;

    /// <inheritdoc/>
    protected override void OnGone() => MarkLost();

    /// <inheritdoc/>
    protected override ValueTask OnLeavingAsync() => VirtualFunctions.Count > 0 ? PciBus.VirtualFunctions.RemoveAsync(this) : default;

    /// <inheritdoc/>
    protected override void OnRelease()
    {
        Leave();
        _group.Part();
    }

    internal PciBus PciBus { get; }

    internal PciSegment Segment { get; }

    /// <summary>The place of its hardware; null for a virtual function.</summary>
    internal PciSlot? Slot { get; init; }

    internal SriovState? Sriov { get; set; }

    internal PciGroup Group => _group;

    internal PciHardware Hardware => _hardware;

    internal IPciFunction Function => _hardware.Function;

    internal DmaPort? DmaOrNull => _hardware.DmaOrNull;

    internal long FaultCount => _hardware.FaultCount;

    internal PciInterrupts Interrupts => Volatile.Read(ref _interrupts) ?? LazyInitializer.EnsureInitialized(ref _interrupts, () => new PciInterrupts(this));

    internal PciInterrupts? InterruptsOrNull => Volatile.Read(ref _interrupts);

    internal int Enables => Volatile.Read(ref _enables);

    internal bool IsReachable => _hardware.IsReachable;

    internal bool IsLost => _hardware.IsLost;

    internal PciResource[] Bars
    {
        get => _resources;
        set
        {
            _resources = value;
            _regions = null;
        }
    }

    /// <summary>The methods of reset that somebody chose, in order; null for all that there are.</summary>
    internal IReadOnlyList<string>? ChosenResets { get; set; }

    internal PciResource GetResource(int index)
    {
        if (PhysicalFunction is not { Sriov: { } sriov })
            return index < _resources.Length ? _resources[index] : default;
        if (index >= sriov.Resources.Length)
            return default;
        var first = sriov.Resources[index];
        return first.IsAssigned ? first with { Start = first.Start + (first.Size * (ulong)VirtualFunctionIndex) } : first;
    }

    /// <summary>Puts the function in and reads who it is.</summary>
    /// <returns>False when nothing answers.</returns>
    internal bool Enter()
    {
        _hardware.Plug();
        Span<byte> header = stackalloc byte[0x40];
        Function.ReadConfig(0, header);
        var word = BinaryPrimitives.ReadUInt16LittleEndian(header[PCI_SUBSYSTEM_VENDOR_ID..]);
        SubsystemId = BinaryPrimitives.ReadUInt16LittleEndian(header[PCI_SUBSYSTEM_ID..]);
        SubsystemVendorId = word;
        ClassCode = BinaryPrimitives.ReadUInt32LittleEndian(header[PCI_REVISION_ID..]) >> 8;
        Revision = header[PCI_REVISION_ID];
        if (PhysicalFunction is { } physical)
        {
            VendorId = physical.VendorId;
            DeviceId = physical.Sriov!.DeviceId;
            if (SubsystemVendorId is 0 or 0xFFFF)
                (SubsystemVendorId, SubsystemId) = (physical.SubsystemVendorId, physical.SubsystemId);
            if (ClassCode is 0 or 0xFFFFFF)
                (ClassCode, Revision) = (physical.ClassCode, physical.Revision);
            _hardware.RefreshCommand();
            return Function.IsPresent;
        }
        VendorId = BinaryPrimitives.ReadUInt16LittleEndian(header);
        DeviceId = BinaryPrimitives.ReadUInt16LittleEndian(header[PCI_DEVICE_ID..]);
        if (VendorId is 0 or 0xFFFF)
            return false;
        IsBridge = (header[PCI_HEADER_TYPE] & 0x7F) == 1;
        if (IsBridge)
        {
            var ids = FindCapability(SubsystemIdsCapability);
            (SubsystemVendorId, SubsystemId) = ids == 0 ? default : (ReadConfig16(ids + 4), ReadConfig16(ids + 6));
        }
        _hardware.RefreshCommand();
        return true;
    }

    /// <summary>Takes the function out, with everything that the bus holds for it. Once; later calls do nothing.</summary>
    internal void Leave()
    {
        if (_hardware.TryLeave(FreeVectors))
            PciBus.Slots.Forget(this);
    }

    /// <summary>From now on nothing answers.</summary>
    internal void MarkLost()
    {
        _hardware.IsLost = true;
        foreach (var function in VirtualFunctions)
            function._hardware.IsLost = true;
    }

    /// <summary>A reset of the physical function may have made its virtual functions anew.</summary>
    internal void Replace(IPciFunction function)
    {
        // Vectors belong to the system: whoever holds some finds them as they were.
        if (_hardware.TryReplace(function))
            RestoreInterrupts();
    }

    /// <summary>Sets or clears Interrupt Disable: the upper byte of the register, so that it does not meet with those who turn decoding on and off.</summary>
    internal void SetInterruptDisable(bool disabled)
    {
        const byte bit = PCI_COMMAND_INTX_DISABLE >> 8;
        var now = (byte)(_hardware.Command >> 8);
        WriteConfig8(PCI_COMMAND + 1, (byte)(disabled ? now | bit : now & ~bit));
    }

    internal void RestoreInterrupts() => Volatile.Read(ref _interrupts)?.Restore();

    private byte DecodeBits()
    {
        var bits = 0;
        for (var i = 0; i < Bars.Length; i++)
        {
            if (!Bars[i].IsThere || Bars[i].Kind == PciBarKind.Rom)
                continue;
            if (!Bars[i].IsAssigned)
            {
                throw new VirtbusException(
                    Errno.EINVAL, $"Device {Name} can't be enabled: BAR {i} of {Bars[i].Size} bytes has no address. Free space below {Parent?.Name} or plug it elsewhere.");
            }
            bits |= Bars[i].Kind == PciBarKind.Io ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY;
        }
        return (byte)(IsBridge ? PCI_COMMAND_IO | PCI_COMMAND_MEMORY : bits);
    }
}
