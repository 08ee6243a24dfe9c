using static Virtbus.Pci.PciHeader;

namespace Virtbus.Pci;

/// <summary>The first 64 bytes.</summary>
internal sealed class HeaderBlock() : ConfigBlock("header", 0x40)
{
    // Every function has the same five error bits, set by the function and cleared by writing 1.
    private const uint StatusClearable = PciStatus.PCI_STATUS_PARITY | PciStatus.PCI_STATUS_SIG_TARGET_ABORT | PciStatus.PCI_STATUS_REC_TARGET_ABORT
        | PciStatus.PCI_STATUS_REC_MASTER_ABORT | PciStatus.PCI_STATUS_SIG_SYSTEM_ERROR | PciStatus.PCI_STATUS_DETECTED_PARITY;

    internal ushort VendorId { get; init; }

    internal ushort DeviceId { get; init; }

    internal bool IsBridge { get; init; }

    internal bool IsVirtualFunction { get; init; }

    internal bool IsMultiFunction { get; set; }

    internal uint ClassCode { get; set; }

    internal byte Revision { get; set; }

    internal ushort SubsystemVendorId { get; set; }

    internal ushort SubsystemId { get; set; }

    internal byte InterruptPin { get; set; }

    internal PciBar[] Bars { get; } = new PciBar[PciBar.Count];

    internal bool HasCapabilities { get; set; }

    internal int FirstCapability { get; set; }

    internal int RomOffset => IsBridge ? PCI_ROM_ADDRESS1 : PCI_ROM_ADDRESS;

    internal override void Fill(ConfigImage image)
    {
        image.Set(PCI_VENDOR_ID, 2, VendorId);
        image.Set(PCI_DEVICE_ID, 2, DeviceId);
        image.Set(PCI_COMMAND, 2, 0, CommandWritable());
        image.Set(PCI_STATUS, 2, HasCapabilities ? PciStatus.PCI_STATUS_CAP_LIST : 0u, 0, StatusClearable);
        image.Set(PCI_REVISION_ID, 4, Revision | (ClassCode << 8));
        image.Set(PCI_CACHE_LINE_SIZE, 1, 0, IsVirtualFunction ? 0u : 0xFF);
        image.Set(PCI_HEADER_TYPE, 1, (uint)((IsBridge ? PCI_HEADER_TYPE_BRIDGE : PCI_HEADER_TYPE_NORMAL) | (IsMultiFunction ? PCI_HEADER_TYPE_MFD : 0)));
        image.Set(PCI_CAPABILITY_LIST, 1, (uint)FirstCapability);
        if (InterruptPin != 0)
        {
            image.Set(PCI_INTERRUPT_LINE, 1, 0, 0xFF);
            image.Set(PCI_INTERRUPT_PIN, 1, InterruptPin);
        }
        if (!IsVirtualFunction)
        {
            for (var i = 0; i < PciBar.Rom; i++)
            {
                if (Bars[i].Kind != PciBarKind.None)
                    image.SetBar(PCI_BASE_ADDRESS_0 + (4 * i), Bars[i]);
            }
            image.SetBar(RomOffset, Bars[PciBar.Rom]);
        }
        if (IsBridge)
            FillBridge(image);
        else
            image.Set(PCI_SUBSYSTEM_VENDOR_ID, 4, SubsystemVendorId | ((uint)SubsystemId << 16));
    }

    internal override uint Write(int register, ReadOnlySpan<uint> block, uint value, uint written, ref ConfigEffects effects)
    {
        if (register == PCI_COMMAND)
            effects |= ConfigEffects.Command;
        else if (register == RomOffset || (register >= PCI_BASE_ADDRESS_0 && register < (IsBridge ? PCI_PRIMARY_BUS : PCI_CARDBUS_CIS)))
            effects |= ConfigEffects.BaseAddress;
        else if (IsBridge && register >= PCI_PRIMARY_BUS)
            effects |= ConfigEffects.Bridge;
        return value;
    }

    private uint CommandWritable()
    {
        // Of a virtual function's command register only the bus master bit is there; the physical function has the rest for it.
        if (IsVirtualFunction)
            return PciCommand.PCI_COMMAND_MASTER;
        var writable = (uint)(PciCommand.PCI_COMMAND_MASTER | PciCommand.PCI_COMMAND_PARITY | PciCommand.PCI_COMMAND_SERR);
        if (IsBridge || Array.Exists(Bars, b => b.Kind == PciBarKind.Io))
            writable |= PciCommand.PCI_COMMAND_IO;
        if (IsBridge || Array.Exists(Bars, b => b.Kind is PciBarKind.Memory32 or PciBarKind.Memory64 or PciBarKind.Rom))
            writable |= PciCommand.PCI_COMMAND_MEMORY;
        // A bridge's own interrupts (hot-plug, PME) count too.
        if (InterruptPin != 0)
            writable |= PciCommand.PCI_COMMAND_INTX_DISABLE;
        return writable;
    }

    private static void FillBridge(ConfigImage image)
    {
        image.Set(PCI_PRIMARY_BUS, 4, 0, 0x00FFFFFF);
        // The low four bits of each window register say how wide its addresses are: 1 for 32 bits of I/O and for 64 bits of memory.
        image.Set(PCI_IO_BASE, 1, 0x01, 0xF0);
        image.Set(PCI_IO_LIMIT, 1, 0x01, 0xF0);
        image.Set(PCI_SEC_STATUS, 2, 0, 0, StatusClearable);
        image.Set(PCI_MEMORY_BASE, 4, 0, 0xFFF0FFF0);
        image.Set(PCI_PREF_MEMORY_BASE, 4, 0x00010001, 0xFFF0FFF0);
        image.Set(PCI_PREF_BASE_UPPER32, 4, 0, uint.MaxValue);
        image.Set(PCI_PREF_LIMIT_UPPER32, 4, 0, uint.MaxValue);
        image.Set(PCI_IO_BASE_UPPER16, 4, 0, uint.MaxValue);
        image.Set(PCI_BRIDGE_CONTROL, 2, 0, PciBridgeControl.PCI_BRIDGE_CTL_PARITY | PciBridgeControl.PCI_BRIDGE_CTL_SERR | PciBridgeControl.PCI_BRIDGE_CTL_ISA
            | PciBridgeControl.PCI_BRIDGE_CTL_VGA | PciBridgeControl.PCI_BRIDGE_CTL_VGA_16BIT | PciBridgeControl.PCI_BRIDGE_CTL_BUS_RESET);
    }
}
