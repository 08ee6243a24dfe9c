using System.Buffers.Binary;
using Virtbus.Buses.Pci;
using Virtbus.Pci;
using static Virtbus.Pci.PciCapabilityId;
using static Virtbus.Pci.PciCommand;
using static Virtbus.Pci.PciExpress;
using static Virtbus.Pci.PciExtendedCapabilityId;
using static Virtbus.Pci.PciHeader;
using static Virtbus.Pci.PciMsi;
using static Virtbus.Pci.PciMsix;
using static Virtbus.Pci.PciPower;

namespace Virtbus.Drivers.VfioPci;

/// <summary>
/// The permission maps of one function's config space: for each bit, whether the user sees this image's or the function's, and whether the
/// user may write it. Made from the function's capabilities at open.
/// </summary>
internal sealed class VfioPciImage
{
    // Capabilities whose layout the standard gives but no constant of the PCI library does.
    private const byte CapabilitySubsystemIds = 0x0D;
    private const byte CapabilityAdvancedFeatures = 0x13;
    private const int AdvancedFeaturesSize = 6;
    private const int SubsystemIdsSize = 8;
    private const int ErrorReportingSize = 0x48;
    private const int SerialNumberSize = 12;
    private const int AriSize = 8;
    private const int MaxCapabilities = 48;
    private const int MaxExtendedCapabilities = 480;
    private const int DeviceControlPhantom = 0x0200;
    private const int DeviceControlAuxPower = 0x0400;

    // Status bits that a 1 clears.
    private const ushort StatusErrors = 0xF900;
    private const ushort DeviceStatusErrors = 0x000F;

    private readonly PciDevice _device;
    private readonly byte[] _hardware;

    public VfioPciImage(PciDevice device, bool hasLine)
    {
        _device = device;
        Size = device.ConfigSize;
        Bytes = new byte[Size];
        Emulated = new byte[Size];
        Writable = new byte[Size];
        _hardware = new byte[Size];
        device.ReadConfig(0, _hardware);
        _hardware.CopyTo(Bytes, 0);
        MakeHeader(hasLine);
        MakeCapabilities();
        MakeExtendedCapabilities();
    }

    public int Size { get; }

    public byte[] Bytes { get; }

    /// <summary>Bits that are read from <see cref="Bytes"/>; the others come from the function.</summary>
    public byte[] Emulated { get; }

    /// <summary>Bits that the user may write, into the image or the function.</summary>
    public byte[] Writable { get; }

    /// <summary>Bytes of the function that the user may write and that must be as before when it has closed.</summary>
    public List<int> Restored { get; } = [];

    /// <summary>Offsets of capabilities and registers that a write has an effect through; 0 when not there.</summary>
    public int Power { get; private set; }

    public int Express { get; private set; }

    public int AdvancedFeatures { get; private set; }

    public int Msi { get; private set; }

    public int MsiMask { get; private set; }

    public int Msix { get; private set; }

    /// <summary>The mask bits of the MSI capability, as the user wrote them; none where it has none.</summary>
    public uint UserMsiMask => MsiMask == 0 ? 0 : Read32(MsiMask);

    /// <summary>Function Mask of the MSI-X capability, as the user wrote it.</summary>
    public bool IsMsixMaskedByUser => Msix != 0 && (Read16(Msix + PCI_MSIX_FLAGS) & PCI_MSIX_FLAGS_MASKALL) != 0;

    public ushort Read16(int offset) => BinaryPrimitives.ReadUInt16LittleEndian(Bytes.AsSpan(offset));

    public uint Read32(int offset) => BinaryPrimitives.ReadUInt32LittleEndian(Bytes.AsSpan(offset));

    public void Write16(int offset, ushort value) => BinaryPrimitives.WriteUInt16LittleEndian(Bytes.AsSpan(offset), value);

    public void Write32(int offset, uint value) => BinaryPrimitives.WriteUInt32LittleEndian(Bytes.AsSpan(offset), value);

    private void MakeHeader(bool hasLine)
    {
        // All of it is the image's, but for the bits that the function changes by itself.
        Emulate(0, PCI_STATUS, writable: 0);
        Allow16(PCI_STATUS, StatusErrors);
        Emulate(PCI_REVISION_ID, 4, writable: 0);
        PassRestored(PCI_CACHE_LINE_SIZE, 2, 0xFF);
        Emulate(PCI_HEADER_TYPE, PCI_CARDBUS_CIS - PCI_HEADER_TYPE, writable: 0);
        Emulate(PCI_SUBSYSTEM_VENDOR_ID, PCI_MIN_GNT - PCI_SUBSYSTEM_VENDOR_ID, writable: 0);
        Write16(PCI_VENDOR_ID, _device.VendorId);
        Write16(PCI_DEVICE_ID, _device.DeviceId);
        Write16(PCI_SUBSYSTEM_VENDOR_ID, _device.SubsystemVendorId);
        Write16(PCI_SUBSYSTEM_ID, _device.SubsystemId);
        Write32(PCI_REVISION_ID, (_device.ClassCode << 8) | Bytes[PCI_REVISION_ID]);
        Bytes[PCI_BIST] = 0;
        MakeBars(out var hasIo, out var hasMemory);
        Writable[PCI_INTERRUPT_LINE] = 0xFF;
        if (!hasLine)
            Bytes[PCI_INTERRUPT_PIN] = 0;
        var command = PCI_COMMAND_MASTER | PCI_COMMAND_PARITY | PCI_COMMAND_SERR;
        command |= (hasIo ? PCI_COMMAND_IO : 0) | (hasMemory ? PCI_COMMAND_MEMORY : 0) | (hasLine ? PCI_COMMAND_INTX_DISABLE : 0);
        Allow16(PCI_COMMAND, (ushort)command);
        // The driver has enabled the function; that of a virtual one, which has no such bit, is kept here.
        Write16(PCI_COMMAND, (ushort)(command & (PCI_COMMAND_IO | PCI_COMMAND_MEMORY)));
    }

    // The user sizes and places BARs of its own; the function's are the system's.
    private void MakeBars(out bool hasIo, out bool hasMemory)
    {
        hasIo = hasMemory = false;
        for (var i = 0; i < PciBar.Count; i++)
        {
            var offset = i == PciBar.Rom ? PCI_ROM_ADDRESS : PCI_BASE_ADDRESS_0 + (4 * i);
            var region = _device.GetRegion(i);
            var bar = region.Bar;
            // The upper half of a 64-bit one is written with the lower.
            if (i is > 0 and < PciBar.Rom && _device.GetRegion(i - 1).Bar is { Kind: PciBarKind.Memory64, Size: > 0 })
                continue;
            Write32(offset, 0);
            if (bar.Size == 0)
                continue;
            hasIo |= bar.Kind == PciBarKind.Io;
            hasMemory |= bar.Kind != PciBarKind.Io;
            var type = bar.Kind switch
            {
                PciBarKind.Io => (uint)PCI_BASE_ADDRESS_SPACE_IO,
                PciBarKind.Memory64 => (uint)PCI_BASE_ADDRESS_MEM_TYPE_64,
                _ => 0u,
            };
            if (bar.IsPrefetchable && bar.Kind is PciBarKind.Memory32 or PciBarKind.Memory64)
                type |= PCI_BASE_ADDRESS_MEM_PREFETCH;
            var address = ~(bar.Size - 1);
            var start = region.Start & address;
            Write32(offset, (uint)start | type);
            Allow32(offset, bar.Kind switch
            {
                PciBarKind.Io => (uint)address & ~3u,
                PciBarKind.Rom => ((uint)address & ~0x7FFu) | PCI_ROM_ADDRESS_ENABLE,
                _ => (uint)address & ~0xFu,
            });
            if (bar.Kind == PciBarKind.Memory64 && i + 1 < PciBar.Rom)
            {
                Write32(offset + 4, (uint)(start >> 32));
                Allow32(offset + 4, (uint)(address >> 32));
            }
        }
    }

    // Bytes that belong to nothing known are read from the function and never written.
    private void MakeCapabilities()
    {
        var before = PCI_CAPABILITY_LIST;
        Bytes[before] = 0;
        if ((_hardware[PCI_STATUS] & PciStatus.PCI_STATUS_CAP_LIST) == 0)
            return;
        var seen = new HashSet<int>();
        for (var at = _hardware[PCI_CAPABILITY_LIST] & 0xFC; at >= 0x40 && seen.Count < MaxCapabilities && seen.Add(at); at = _hardware[at + PCI_CAP_LIST_NEXT] & 0xFC)
        {
            var size = MakeCapability(_hardware[at], at);
            if (size == 0)
            {
                Hide(at, 2);
                continue;
            }
            // The list leads from one that is shown to the next that is.
            Emulate(at, 2, writable: 0);
            Bytes[at] = _hardware[at];
            Bytes[at + PCI_CAP_LIST_NEXT] = 0;
            Bytes[before] = (byte)at;
            before = at + PCI_CAP_LIST_NEXT;
        }
    }

    /// <returns>Bytes of the capability; 0 for one that the user is not shown.</returns>
    private int MakeCapability(byte id, int at)
    {
        switch (id)
        {
            case PCI_CAP_ID_PM when Fits(at, PCI_PM_SIZEOF):
                // No power events, and a state of its own.
                Power = at;
                Emulate(at + PCI_PM_PMC, PCI_PM_SIZEOF - PCI_PM_PMC, writable: 0);
                Write16(at + PCI_PM_PMC, (ushort)(Read16(at + PCI_PM_PMC) & 0x07FF));
                Write16(at + PCI_PM_CTRL, (ushort)(Read16(at + PCI_PM_CTRL) & PCI_PM_CTRL_NO_SOFT_RESET));
                Allow16(at + PCI_PM_CTRL, PCI_PM_CTRL_STATE_MASK);
                return PCI_PM_SIZEOF;
            case PCI_CAP_ID_MSI:
                return MakeMsi(at);
            case PCI_CAP_ID_MSIX when Fits(at, PCI_CAP_MSIX_SIZEOF):
                // Vectors are set up by SET_IRQS: Enable is the user's note, the mask counts.
                Msix = at;
                Emulate(at + PCI_MSIX_FLAGS, 2, writable: 0);
                Write16(at + PCI_MSIX_FLAGS, (ushort)(Read16(at + PCI_MSIX_FLAGS) & PCI_MSIX_FLAGS_QSIZE));
                Allow16(at + PCI_MSIX_FLAGS, unchecked((ushort)(PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL)));
                return PCI_CAP_MSIX_SIZEOF;
            case PCI_CAP_ID_EXP:
                return MakeExpress(at);
            case PCI_CAP_ID_VNDR when _hardware[at + PCI_CAP_LENGTH] > PCI_CAP_LENGTH && Fits(at, _hardware[at + PCI_CAP_LENGTH]):
                Pass(at + PCI_CAP_LENGTH + 1, _hardware[at + PCI_CAP_LENGTH] - PCI_CAP_LENGTH - 1, 0xFF);
                return _hardware[at + PCI_CAP_LENGTH];
            case CapabilitySubsystemIds when Fits(at, SubsystemIdsSize):
                return SubsystemIdsSize;
            case CapabilityAdvancedFeatures when Fits(at, AdvancedFeaturesSize):
                AdvancedFeatures = at;
                Emulate(at + 4, 1, writable: 1);
                Bytes[at + 4] = 0;
                return AdvancedFeaturesSize;
            default:
                return 0;
        }
    }

    private int MakeMsi(int at)
    {
        var flags = Read16(at + PCI_MSI_FLAGS);
        var is64 = (flags & PCI_MSI_FLAGS_64BIT) != 0;
        var data = at + (is64 ? PCI_MSI_DATA_64 : PCI_MSI_DATA_32);
        var mask = at + (is64 ? PCI_MSI_MASK_64 : PCI_MSI_MASK_32);
        var hasMasks = (flags & PCI_MSI_FLAGS_MASKBIT) != 0;
        var size = hasMasks ? mask + 8 - at : data + 2 - at;
        if (!Fits(at, size))
            return 0;
        Msi = at;
        // Address and data are the user's notes; the message that the function sends is the system's. Pending bits are the function's.
        Emulate(at + PCI_MSI_FLAGS, data + 2 - at - PCI_MSI_FLAGS, writable: 0);
        Bytes.AsSpan(at + PCI_MSI_ADDRESS_LO, data + 2 - at - PCI_MSI_ADDRESS_LO).Clear();
        Write16(at + PCI_MSI_FLAGS, (ushort)(flags & ~(PCI_MSI_FLAGS_ENABLE | PCI_MSI_FLAGS_QSIZE)));
        Allow16(at + PCI_MSI_FLAGS, PCI_MSI_FLAGS_ENABLE | PCI_MSI_FLAGS_QSIZE);
        Allow32(at + PCI_MSI_ADDRESS_LO, ~3u);
        if (is64)
            Allow32(at + PCI_MSI_ADDRESS_HI, uint.MaxValue);
        Allow16(data, ushort.MaxValue);
        if (hasMasks)
        {
            MsiMask = mask;
            Emulate(mask, 4, writable: 0);
            Allow32(mask, (uint)((1UL << (1 << Math.Min((flags & PCI_MSI_FLAGS_QMASK) >> 1, 5))) - 1));
            Write32(mask, 0);
        }
        return size;
    }

    private int MakeExpress(int at)
    {
        var flags = (ushort)(_hardware[at + PCI_EXP_FLAGS] | (_hardware[at + PCI_EXP_FLAGS + 1] << 8));
        var isVersion2 = (flags & 0xF) >= 2;
        var size = isVersion2 ? PCI_EXP_SIZEOF : PCI_EXP_SLTCAP;
        if (!Fits(at, size))
            return 0;
        Express = at;
        // Sizes of requests belong to the system, which knows the way to memory; the user may note its own.
        const int noted = PCI_EXP_DEVCTL_PAYLOAD | PCI_EXP_DEVCTL_READRQ | PCI_EXP_DEVCTL_BCR_FLR;
        var control = at + PCI_EXP_DEVCTL;
        Emulated[control] |= noted & 0xFF;
        Emulated[control + 1] |= noted >> 8;
        Allow16(control, unchecked((ushort)~(DeviceControlPhantom | DeviceControlAuxPower)));
        Restored.Add(control);
        Restored.Add(control + 1);
        Write16(control, (ushort)(Read16(control) & ~PCI_EXP_DEVCTL_BCR_FLR));
        Allow16(at + PCI_EXP_DEVSTA, DeviceStatusErrors);
        if (isVersion2)
        {
            Allow16(at + PCI_EXP_DEVCTL2, unchecked((ushort)~PCI_EXP_DEVCTL2_ARI));
            Restored.Add(at + PCI_EXP_DEVCTL2);
            Restored.Add(at + PCI_EXP_DEVCTL2 + 1);
        }
        return size;
    }

    private void MakeExtendedCapabilities()
    {
        var before = 0;
        var seen = new HashSet<int>();
        for (var at = PCI_CFG_SPACE_SIZE; at >= PCI_CFG_SPACE_SIZE && at + 4 <= Size && seen.Count < MaxExtendedCapabilities && seen.Add(at);)
        {
            var header = BinaryPrimitives.ReadUInt32LittleEndian(_hardware.AsSpan(at));
            if (header is 0 or uint.MaxValue)
                break;
            var size = MakeExtendedCapability((ushort)header, at);
            if (size == 0)
                HideExtended(at);
            if (size > 0 || at == PCI_CFG_SPACE_SIZE)
            {
                // The first stays in the list even when it is hidden, without an id: the list begins there.
                Emulate(at, 4, writable: 0);
                Write32(at, size > 0 ? header & 0xFFFFF : 0);
                if (before != 0)
                    Write32(before, (Read32(before) & 0xFFFFF) | ((uint)at << 20));
                before = at;
            }
            at = (int)(header >> 20) & 0xFFC;
        }
    }

    /// <returns>Bytes of the capability; 0 for one that the user is not shown: SR-IOV, address translation, PASIDs, what is not known.</returns>
    private int MakeExtendedCapability(ushort id, int at)
    {
        var size = id switch
        {
            PCI_EXT_CAP_ID_ERR => ErrorReportingSize,
            PCI_EXT_CAP_ID_DSN => SerialNumberSize,
            PCI_EXT_CAP_ID_ARI => AriSize,
            PCI_EXT_CAP_ID_VNDR when at + 8 <= Size => (int)(BinaryPrimitives.ReadUInt32LittleEndian(_hardware.AsSpan(at + 4)) >> 20),
            _ => 0,
        };
        if (size == 0 || at + size > Size)
            return 0;
        if (id == PCI_EXT_CAP_ID_ERR)
        {
            // Status registers are cleared by 1; masks, severity and control are the user's while it has the function.
            Pass(at + 0x04, 4, 0xFF);
            PassRestored(at + 0x08, 8, 0xFF);
            Pass(at + 0x10, 4, 0xFF);
            PassRestored(at + 0x14, 4, 0xFF);
        }
        return size;
    }

    // Of a capability that is not shown nothing is, up to where another one may begin.
    private void HideExtended(int at)
    {
        var end = Size;
        for (var next = PCI_CFG_SPACE_SIZE; next >= PCI_CFG_SPACE_SIZE && next + 4 <= Size;)
        {
            if (next > at && next < end)
                end = next;
            var following = (int)(BinaryPrimitives.ReadUInt32LittleEndian(_hardware.AsSpan(next)) >> 20) & 0xFFC;
            if (following <= next)
                break;
            next = following;
        }
        Hide(at, end - at);
    }

    private void Hide(int at, int length)
    {
        Emulate(at, length, writable: 0);
        Bytes.AsSpan(at, length).Clear();
    }

    private void Emulate(int at, int length, byte writable)
    {
        Emulated.AsSpan(at, length).Fill(0xFF);
        Writable.AsSpan(at, length).Fill(writable);
    }

    private void Pass(int at, int length, byte mask) => Writable.AsSpan(at, length).Fill(mask);

    private void PassRestored(int at, int length, byte mask)
    {
        Pass(at, length, mask);
        Restored.AddRange(Enumerable.Range(at, length));
    }

    private void Allow16(int at, ushort mask) => BinaryPrimitives.WriteUInt16LittleEndian(Writable.AsSpan(at), mask);

    private void Allow32(int at, uint mask) => BinaryPrimitives.WriteUInt32LittleEndian(Writable.AsSpan(at), mask);

    private static bool Fits(int at, int size) => at + size <= PCI_CFG_SPACE_SIZE;
}
