using static Virtbus.Pci.PciPower;

namespace Virtbus.Pci;

internal sealed class PowerCapability(bool noSoftReset, bool hasPme)
    : PciCapability("power management", PciCapabilityId.PCI_CAP_ID_PM, PCI_PM_SIZEOF)
{
    // D1 and D2 are optional and not there.
    private const uint D0 = 0;
    private const uint D3Hot = 3;

    internal override uint Write(int register, ReadOnlySpan<uint> block, uint value, uint written, ref ConfigEffects effects)
    {
        if (register != PCI_PM_CTRL)
            return value;
        var before = block[register / 4] & PCI_PM_CTRL_STATE_MASK;
        var after = value & PCI_PM_CTRL_STATE_MASK;
        // A state that is not there: the write completes, the state stays (Base specification 7.5.2.2).
        if (after is not D0 and not D3Hot)
            return (value & ~(uint)PCI_PM_CTRL_STATE_MASK) | before;
        if (after != before)
            effects |= ConfigEffects.Power | (after == D0 && !noSoftReset ? ConfigEffects.Reset : ConfigEffects.None);
        return value;
    }

    private protected override void FillRegisters(ConfigImage image)
    {
        const uint Version3 = 3;
        const uint PmeFromD0AndD3Hot = 0x4800;
        image.Set(Offset + PCI_PM_PMC, 2, Version3 | (hasPme ? PmeFromD0AndD3Hot : 0));
        // The PME bits are sticky.
        image.Set(Offset + PCI_PM_CTRL, 2, noSoftReset ? PCI_PM_CTRL_NO_SOFT_RESET : 0u, PCI_PM_CTRL_STATE_MASK | (hasPme ? PCI_PM_CTRL_PME_ENABLE : 0u),
            hasPme ? PCI_PM_CTRL_PME_STATUS : 0u, hasPme ? PCI_PM_CTRL_PME_ENABLE | PCI_PM_CTRL_PME_STATUS : 0u);
    }
}
