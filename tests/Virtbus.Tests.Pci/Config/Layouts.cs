using Virtbus.Hardware.Serial;
using Virtbus.Pci;

namespace Virtbus.Tests.Pci.Config;

/// <summary>A layout of each kind, and for each the bits of every register as the standards give them, written down by hand.</summary>
internal static class Layouts
{
    internal const int Power = 0x44, NumVfs = 0x168, PageSize = 0x178;

    internal static ConfigLayout Physical { get; } = ConfigSpaceBuilder.Function(0x5642, 0x1234)
        .Class(0x020000, 3)
        .Subsystem(0x5642, 0x0001)
        .InterruptPin(1)
        .MemoryBar(0, 0x4000)
        .IoBar(1, 32)
        .MemoryBar64(2, 1UL << 33)
        .MemoryBar(4, 4096, prefetchable: true)
        .Rom(0x10000)
        .PowerManagement(noSoftReset: false, hasPme: true)
        .Msi(32)
        .Msix(16, 0, 0x1000, 0, 0x2000)
        .Express(new PciExpressOptions { Type = PciPortType.LegacyEndpoint, LinkWidth = 8 })
        .Vendor([1, 2, 3, 4, 5], [0, 0xFF, 0x0F])
        .Hidden(0xF0, 0xDE, 0xAD, 0xBE, 0xEF)
        .ErrorReporting()
        .SerialNumber(0x0011_22FF_FE33_4455)
        .VendorExtended(7, 2, [1, 2, 3, 4, 5, 6, 7, 8], [0xFF, 0xFF, 0xFF, 0xFF])
        .Ari()
        .Ats(16)
        .Sriov(new SriovOptions
        {
            TotalVfs = 256,
            VfDeviceId = 0x1235,
            FirstVfOffset = 8,
            VfBars = [new PciBar(PciBarKind.Memory64, 0x4000, true), default, new PciBar(PciBarKind.Memory32, 0x2000)],
        })
        .Pasid(20, execute: true, privileged: true)
        .Build();

    internal static ConfigLayout Virtual { get; } = ConfigSpaceBuilder.VirtualFunction(Physical)
        .Msix(4, 0, 0x1000, 0, 0x2000)
        .PowerManagement()
        .ErrorReporting()
        .Ari()
        .Ats()
        .Build();

    /// <summary>Offset, bits that a write sets, bits that writing 1 clears; what is not named here is read-only.</summary>
    internal static (int Offset, uint Writable, uint Clearable)[] PhysicalBits { get; } =
    [
        (0x04, 0x00000547, 0xF9000000),
        (0x0C, 0x000000FF, 0),
        (0x10, 0xFFFFC000, 0),
        (0x14, 0xFFFFFFE0, 0),
        (0x18, 0x00000000, 0),
        (0x1C, 0xFFFFFFFE, 0),
        (0x20, 0xFFFFF000, 0),
        (0x30, 0xFFFF0001, 0),
        (0x3C, 0x000000FF, 0),
        // Power management at 0x40.
        (0x44, 0x00000103, 0x00008000),
        // MSI at 0x48.
        (0x48, 0x00710000, 0),
        (0x4C, 0xFFFFFFFC, 0),
        (0x50, 0xFFFFFFFF, 0),
        (0x54, 0x0000FFFF, 0),
        (0x58, 0xFFFFFFFF, 0),
        // MSI-X at 0x60.
        (0x60, 0xC0000000, 0),
        // PCI Express at 0x6C.
        (0x74, 0x000079FF, 0x000F0000),
        (0x7C, 0x000000CB, 0),
        (0x94, 0x00000010, 0),
        (0x9C, 0x0000FFBF, 0),
        // Vendor-specific at 0xA8.
        (0xAC, 0x00000FFF, 0),
        // Advanced error reporting at 0x100.
        (0x104, 0, 0x001FF010),
        (0x108, 0x001FF010, 0),
        (0x10C, 0x001FF010, 0),
        (0x110, 0, 0x000031C1),
        (0x114, 0x000031C1, 0),
        // Serial number at 0x12C; vendor-specific at 0x138.
        (0x140, 0xFFFFFFFF, 0),
        // ARI at 0x148; ATS at 0x150.
        (0x154, 0x801F0000, 0),
        // SR-IOV at 0x158.
        (0x160, 0x00000019, 0),
        (0x168, 0x0000FFFF, 0),
        (0x178, 0x00000553, 0),
        (0x17C, 0xFFFFC000, 0),
        (0x180, 0xFFFFFFFF, 0),
        (0x184, 0xFFFFE000, 0),
        // PASID at 0x198.
        (0x19C, 0x00070000, 0),
    ];

    internal static (int Offset, uint Writable, uint Clearable)[] VirtualBits { get; } =
    [
        (0x04, 0x00000004, 0xF9000000),
        // PCI Express at 0x40.
        (0x48, 0, 0x000F0000),
        // MSI-X at 0x7C.
        (0x7C, 0xC0000000, 0),
        // Power management at 0x88.
        (0x8C, 0x00000003, 0),
        // Advanced error reporting at 0x100.
        (0x104, 0, 0x0011D000),
        (0x110, 0, 0x00002000),
        // ARI at 0x12C; ATS at 0x134.
        (0x138, 0x80000000, 0),
    ];

    internal static (int Offset, uint Writable, uint Clearable)[] RootPortBits { get; } =
    [
        (0x04, 0x00000547, 0xF9000000),
        (0x0C, 0x000000FF, 0),
        (0x18, 0x00FFFFFF, 0),
        (0x1C, 0x0000F0F0, 0xF9000000),
        (0x20, 0xFFF0FFF0, 0),
        (0x24, 0xFFF0FFF0, 0),
        (0x28, 0xFFFFFFFF, 0),
        (0x2C, 0xFFFFFFFF, 0),
        (0x30, 0xFFFFFFFF, 0),
        (0x3C, 0x005F00FF, 0),
        // Power management at 0x40.
        (0x44, 0x00000103, 0x00008000),
        // MSI at 0x48.
        (0x48, 0x00710000, 0),
        (0x4C, 0xFFFFFFFC, 0),
        (0x50, 0xFFFFFFFF, 0),
        (0x54, 0x0000FFFF, 0),
        (0x58, 0x00000001, 0),
        // PCI Express at 0x60.
        (0x68, 0x000079FF, 0x000F0000),
        (0x70, 0x00000CD3, 0xC0000000),
        (0x78, 0x000013C0, 0x01080000),
        (0x7C, 0x0000001F, 0),
        (0x80, 0, 0x00010000),
        (0x88, 0x00000030, 0),
        (0x90, 0x0000FFBF, 0),
        // Advanced error reporting at 0x100.
        (0x104, 0, 0x001FF010),
        (0x108, 0x001FF010, 0),
        (0x10C, 0x001FF010, 0),
        (0x110, 0, 0x000031C1),
        (0x114, 0x000031C1, 0),
        (0x12C, 0x00000007, 0),
        (0x130, 0, 0x0000007F),
    ];

    internal static (int Offset, uint Writable, uint Clearable)[] SerialBits { get; } =
    [
        (0x04, 0x00000545, 0xF9000000),
        (0x0C, 0x000000FF, 0),
        (0x10, 0xFFFFFFF8, 0),
        (0x3C, 0x000000FF, 0),
    ];

    /// <summary>Functions that have these layouts and no behaviour to speak of.</summary>
    internal static (string Name, Func<PciFunction> Make, (int Offset, uint Writable, uint Clearable)[] Bits)[] All { get; } =
    [
        ("physical", () => new PlainFunction(Physical), PhysicalBits),
        ("virtual", () => new PlainFunction(Virtual), VirtualBits),
        ("root port", () => new PciRootPort(3), RootPortBits),
        ("serial", () => new SerialFunction(), SerialBits),
    ];

    /// <summary>A function with nothing behind its BARs.</summary>
    internal sealed class PlainFunction(ConfigLayout layout) : PciFunction(layout)
    {
        protected override void ReadRegister(int bar, ulong offset, Span<byte> destination) => destination.Clear();

        protected override void WriteRegister(int bar, ulong offset, ReadOnlySpan<byte> source)
        {
        }

        protected override void OnReset(PciResetKind kind)
        {
        }
    }
}
