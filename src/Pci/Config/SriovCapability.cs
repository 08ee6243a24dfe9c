using System.Numerics;
using static Virtbus.Pci.PciSriov;

namespace Virtbus.Pci;

internal sealed class SriovCapability(SriovOptions options, PciBar[] bars)
    : PciCapability("SR-IOV", PciExtendedCapabilityId.PCI_EXT_CAP_ID_SRIOV, PCI_EXT_CAP_SRIOV_SIZEOF, 1)
{
    private const uint LowTypeBits = 0xF;

    internal SriovOptions Options => options;

    /// <summary>What the VFs' base address registers decode, six of them.</summary>
    internal PciBar[] Bars => bars;

    internal override uint Write(int register, ReadOnlySpan<uint> block, uint value, uint written, ref ConfigEffects effects)
    {
        effects |= ConfigEffects.Sriov;
        var enabled = (block[PCI_SRIOV_CTRL / 4] & PCI_SRIOV_CTRL_VFE) != 0;
        var before = block[register / 4];
        switch (register)
        {
            // Undefined by the standard while VF Enable is set or beyond TotalVFs: the register keeps its value.
            case PCI_SRIOV_NUM_VF:
                return enabled || (value & 0xFFFF) > options.TotalVfs ? before : value;
            case PCI_SRIOV_SYS_PGSIZE:
                return enabled || !BitOperations.IsPow2(value) || (value & options.SupportedPageSizes) == 0 ? before : value;
            case >= PCI_SRIOV_BAR and < PCI_SRIOV_VFM:
                return Align((register - PCI_SRIOV_BAR) / 4, value, block[PCI_SRIOV_SYS_PGSIZE / 4]);
            default:
                return value;
        }
    }

    private protected override void FillRegisters(ConfigImage image)
    {
        image.Set(Offset + PCI_SRIOV_CAP, 4, options.IsAriPreserved ? PCI_SRIOV_CAP_ARI_PRESERVED : 0);
        image.Set(Offset + PCI_SRIOV_CTRL, 2, 0, PCI_SRIOV_CTRL_VFE | PCI_SRIOV_CTRL_MSE | PCI_SRIOV_CTRL_ARI, 0, options.IsAriPreserved ? PCI_SRIOV_CTRL_ARI : 0u);
        image.Set(Offset + PCI_SRIOV_INITIAL_VF, 2, (uint)options.TotalVfs);
        image.Set(Offset + PCI_SRIOV_TOTAL_VF, 2, (uint)options.TotalVfs);
        image.Set(Offset + PCI_SRIOV_NUM_VF, 2, 0, 0xFFFF);
        image.Set(Offset + PCI_SRIOV_FUNC_LINK, 1, options.FunctionDependencyLink);
        image.Set(Offset + PCI_SRIOV_VF_OFFSET, 2, options.FirstVfOffset);
        image.Set(Offset + PCI_SRIOV_VF_STRIDE, 2, options.VfStride);
        image.Set(Offset + PCI_SRIOV_VF_DID, 2, options.VfDeviceId);
        image.Set(Offset + PCI_SRIOV_SUP_PGSIZE, 4, options.SupportedPageSizes);
        image.Set(Offset + PCI_SRIOV_SYS_PGSIZE, 4, 1, options.SupportedPageSizes);
        for (var i = 0; i < bars.Length; i++)
        {
            if (bars[i].Kind != PciBarKind.None)
                image.SetBar(Offset + PCI_SRIOV_BAR + (4 * i), bars[i]);
        }
    }

    // Each VF's part is at least a system page, so the registers lose the address bits below.
    private uint Align(int bar, uint value, uint systemPageSize)
    {
        var page = (ulong)systemPageSize << 12;
        if (bars[bar].Kind != PciBarKind.None)
            return value & ((uint)~(page - 1) | LowTypeBits);
        return bar > 0 && bars[bar - 1].Kind == PciBarKind.Memory64 ? value & (uint)(~(page - 1) >> 32) : value;
    }
}
