namespace Virtbus.Pci;

/// <summary>What a write to config space asks of the function, beyond the new value of a register.</summary>
[Flags]
public enum ConfigEffects
{
    /// <summary>Nothing.</summary>
    None = 0,
    /// <summary>The command register was written.</summary>
    Command = 1 << 0,
    /// <summary>A base address register was written, the ROM's included.</summary>
    BaseAddress = 1 << 1,
    /// <summary>The MSI capability was written.</summary>
    Msi = 1 << 2,
    /// <summary>The control register of MSI-X was written.</summary>
    MsiX = 1 << 3,
    /// <summary>The power state changed.</summary>
    Power = 1 << 4,
    /// <summary>A function-level reset was asked for, or the function left D3hot and resets itself then.</summary>
    Reset = 1 << 5,
    /// <summary>The SR-IOV capability was written.</summary>
    Sriov = 1 << 6,
    /// <summary>A bridge's bus numbers, windows or control register were written.</summary>
    Bridge = 1 << 7,
    /// <summary>The ATS or the PASID control register was written.</summary>
    Translation = 1 << 8,
    /// <summary>A vendor-specific capability was written.</summary>
    Vendor = 1 << 9,
}
