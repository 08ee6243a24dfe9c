namespace Virtbus.Pci;

internal sealed class MsiCapability(int vectors, bool is64Bit, bool hasMasks)
    : PciCapability("MSI", PciCapabilityId.PCI_CAP_ID_MSI, 10 + (is64Bit ? 4 : 0) + (hasMasks ? 10 : 0))
{
    internal int Vectors => vectors;

    internal bool Is64Bit => is64Bit;

    internal bool HasMasks => hasMasks;

    internal int DataOffset => is64Bit ? PciMsi.PCI_MSI_DATA_64 : PciMsi.PCI_MSI_DATA_32;

    internal int MaskOffset => is64Bit ? PciMsi.PCI_MSI_MASK_64 : PciMsi.PCI_MSI_MASK_32;

    internal int PendingOffset => MaskOffset + 4;

    internal override uint Write(int register, ReadOnlySpan<uint> block, uint value, uint written, ref ConfigEffects effects)
    {
        effects |= ConfigEffects.Msi;
        return value;
    }

    private protected override void FillRegisters(ConfigImage image)
    {
        var control = ((uint)int.Log2(vectors) << 1) | (is64Bit ? PciMsi.PCI_MSI_FLAGS_64BIT : 0u) | (hasMasks ? PciMsi.PCI_MSI_FLAGS_MASKBIT : 0u);
        image.Set(Offset + PciMsi.PCI_MSI_FLAGS, 2, control, PciMsi.PCI_MSI_FLAGS_ENABLE | PciMsi.PCI_MSI_FLAGS_QSIZE);
        image.Set(Offset + PciMsi.PCI_MSI_ADDRESS_LO, 4, 0, ~3u);
        if (is64Bit)
            image.Set(Offset + PciMsi.PCI_MSI_ADDRESS_HI, 4, 0, uint.MaxValue);
        image.Set(Offset + DataOffset, 2, 0, 0xFFFF);
        if (hasMasks)
            image.Set(Offset + MaskOffset, 4, 0, vectors == 32 ? uint.MaxValue : (1u << vectors) - 1);
    }
}

internal sealed class MsixCapability(int vectors, int tableBar, uint tableOffset, int pendingBar, uint pendingOffset)
    : PciCapability("MSI-X", PciCapabilityId.PCI_CAP_ID_MSIX, PciMsix.PCI_CAP_MSIX_SIZEOF)
{
    internal int Vectors => vectors;

    internal int TableBar => tableBar;

    internal uint TableOffset => tableOffset;

    internal uint TableSize => (uint)(vectors * PciMsix.PCI_MSIX_ENTRY_SIZE);

    internal int PendingBar => pendingBar;

    internal uint PendingOffset => pendingOffset;

    internal uint PendingSize => (uint)((vectors + 63) / 64 * 8);

    internal override uint Write(int register, ReadOnlySpan<uint> block, uint value, uint written, ref ConfigEffects effects)
    {
        effects |= ConfigEffects.MsiX;
        return value;
    }

    private protected override void FillRegisters(ConfigImage image)
    {
        image.Set(Offset + PciMsix.PCI_MSIX_FLAGS, 2, (uint)(vectors - 1), PciMsix.PCI_MSIX_FLAGS_MASKALL | PciMsix.PCI_MSIX_FLAGS_ENABLE);
        image.Set(Offset + PciMsix.PCI_MSIX_TABLE, 4, tableOffset | (uint)tableBar);
        image.Set(Offset + PciMsix.PCI_MSIX_PBA, 4, pendingOffset | (uint)pendingBar);
    }
}
