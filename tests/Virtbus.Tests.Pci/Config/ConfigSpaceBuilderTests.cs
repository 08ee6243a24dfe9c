using Virtbus.Pci;

namespace Virtbus.Tests.Pci.Config;

public sealed class ConfigSpaceBuilderTests
{
    private static readonly PciExpressOptions _express = new();

    public static TheoryData<string, Func<ConfigSpaceBuilder, ConfigSpaceBuilder>> Mistakes { get; } = new()
    {
        { "BAR 0 of 100 bytes", b => b.MemoryBar(0, 100) },
        { "BAR 0 of 512 bytes", b => b.IoBar(0, 512) },
        { "BAR 6 does not exist", b => b.MemoryBar(6, 4096) },
        { "BAR 5 needs the next one", b => b.MemoryBar64(5, 4096) },
        { "BAR 1 is the upper half of BAR 0", b => b.MemoryBar64(0, 4096).MemoryBar(1, 4096) },
        { "BAR 2 is there already", b => b.MemoryBar(2, 4096).IoBar(2, 8) },
        { "expansion ROM of 1024 bytes", b => b.Rom(1024) },
        { "Class 0x1000000", b => b.Class(0x1000000) },
        { "Interrupt pin 5", b => b.InterruptPin(5) },
        { "MSI with 3 vectors", b => b.Msi(3) },
        { "MSI-X with 2049 vectors", b => b.Msix(2049, 0, 0, 0, 0x9000) },
        { "MSI-X: the table cannot be in BAR 0", b => b.Msix(4, 0, 0, 0, 0x800) },
        { "MSI-X: the table, 128 bytes at 0xfc0", b => b.MemoryBar(0, 4096).Msix(8, 0, 0xFC0, 0, 0) },
        { "MSI-X: the pending bits, 8 bytes at 0x1000", b => b.MemoryBar(0, 4096).Msix(8, 0, 0, 0, 0x1000) },
        { "overlap", b => b.MemoryBar(0, 4096).Msix(8, 0, 0, 0, 0x40) },
        { "MSI-X cannot name a table at 0x4", b => b.MemoryBar(0, 4096).Msix(8, 0, 4, 0, 0x400) },
        { "The MSI capability is there already", b => b.Msi().Msi() },
        { "The ARI capability needs the config space of PCI Express", b => b.Ari() },
        { "The power management of 8 bytes at 0x3c leaves", b => b.PowerManagement(at: 0x3C) },
        { "The MSI at 0x44 overlaps the power management at 0x40", b => b.PowerManagement(at: 0x40).Msi(at: 0x44) },
        { "no multiple of 4", b => b.PowerManagement(at: 0x42) },
        { "finds no room", b => b.Vendor(new byte[180]).Msi() },
        { "none at 0x100", b => b.Express(_express).Ari(at: 0x200) },
        { "Bridge or change Type", b => b.Express(_express with { Type = PciPortType.RootPort }) },
        { "payloads of 64", b => b.Express(_express with { MaxPayload = 64 }) },
        { "generation 7", b => b.Express(_express with { LinkSpeed = 7 }) },
        { "3 lanes", b => b.Express(_express with { LinkWidth = 3 }) },
        { "a queue of 33", b => b.Express(_express).Ats(33) },
        { "PASIDs of 21 bits", b => b.Express(_express).Pasid(21) },
        { "257 virtual functions", b => b.Express(_express).Sriov(new SriovOptions { TotalVfs = 257, VfDeviceId = 1 }) },
        { "less than a page", b => b.Express(_express).Sriov(new SriovOptions { TotalVfs = 1, VfDeviceId = 1, VfBars = [new PciBar(PciBarKind.Memory32, 2048)] }) },
        { "must be memory", b => b.Express(_express).Sriov(new SriovOptions { TotalVfs = 1, VfDeviceId = 1, VfBars = [new PciBar(PciBarKind.Io, 8)] }) },
        { "lack some that the standard wants", b => b.Express(_express).Sriov(new SriovOptions { TotalVfs = 1, VfDeviceId = 1, SupportedPageSizes = 1 }) },
        { "Hidden bytes at 0x41", b => b.Hidden(0x41, 1, 2, 3, 4) },
        { "overlaps the hidden bytes at 0x40", b => b.Hidden(0x40, 1, 2, 3, 4).PowerManagement(at: 0x40) },
    };

    public static TheoryData<string, Func<ConfigSpaceBuilder, ConfigSpaceBuilder>> MistakesOfVirtualFunctions { get; } = new()
    {
        { "no interrupt pin", b => b.InterruptPin(1) },
        { "VfBars", b => b.MemoryBar(0, 4096) },
        { "no expansion ROM", b => b.Rom(4096) },
        { "Leave Express out", b => b.Express(_express) },
        { "Leave Pasid out", b => b.Pasid() },
        { "Leave Class out", b => b.Class(1) },
        { "subsystem vendor id of its physical function", b => b.Subsystem(1, 1) },
        { "SR-IOV is for physical functions", b => b.Sriov(new SriovOptions { TotalVfs = 1, VfDeviceId = 1 }) },
    };

    [Theory]
    [MemberData(nameof(Mistakes))]
    public void Mistake_is_named_with_its_remedy(string part, Func<ConfigSpaceBuilder, ConfigSpaceBuilder> make)
    {
        var error = Assert.Throws<ArgumentException>(() => make(ConfigSpaceBuilder.Function(1, 2)).Build());
        Assert.Contains(part, error.Message, StringComparison.Ordinal);
        Assert.EndsWith(".", error.Message, StringComparison.Ordinal);
    }

    [Theory]
    [MemberData(nameof(MistakesOfVirtualFunctions))]
    public void Mistake_in_a_virtual_function_is_named_with_its_remedy(string part, Func<ConfigSpaceBuilder, ConfigSpaceBuilder> make)
    {
        var error = Assert.Throws<ArgumentException>(() => make(ConfigSpaceBuilder.VirtualFunction(Layouts.Physical)).Build());
        Assert.Contains(part, error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Capabilities_are_listed_in_the_order_of_the_calls_around_fixed_places()
    {
        var layout = ConfigSpaceBuilder.Function(1, 2)
            .Vendor([9])
            .PowerManagement(at: 0x40)
            .Express(_express, at: 0x80)
            .Msi()
            .SerialNumber(5)
            .Ari(at: 0x100)
            .Build();
        var bytes = layout.GetInitialValues();
        Assert.Equal(0x48, bytes[PciHeader.PCI_CAPABILITY_LIST]);
        Assert.Equal([PciCapabilityId.PCI_CAP_ID_VNDR, 0x40, 4], bytes[0x48..0x4B]);
        Assert.Equal([PciCapabilityId.PCI_CAP_ID_PM, 0x80], bytes[0x40..0x42]);
        Assert.Equal([PciCapabilityId.PCI_CAP_ID_EXP, 0x4C], bytes[0x80..0x82]);
        Assert.Equal([PciCapabilityId.PCI_CAP_ID_MSI, 0], bytes[0x4C..0x4E]);
        Assert.Equal(0x100, layout.FindExtendedCapability(PciExtendedCapabilityId.PCI_EXT_CAP_ID_ARI));
        Assert.Equal(0x108, layout.FindExtendedCapability(PciExtendedCapabilityId.PCI_EXT_CAP_ID_DSN));
        Assert.Equal((0x108 << 20) | (1 << 16) | 0xE, BitConverter.ToInt32(bytes, 0x100));
        Assert.Equal((1 << 16) | 3, BitConverter.ToInt32(bytes, 0x108));
        Assert.Equal(4096, layout.Size);
        Assert.Equal(PciStatus.PCI_STATUS_CAP_LIST, bytes[PciHeader.PCI_STATUS]);
    }

    [Fact]
    public void Function_without_capabilities_says_so()
    {
        var layout = ConfigSpaceBuilder.Function(1, 2).Build();
        Assert.Equal(256, layout.Size);
        Assert.Equal(0, layout.GetInitialValues()[PciHeader.PCI_STATUS]);
        Assert.Equal(0, layout.GetInitialValues()[PciHeader.PCI_CAPABILITY_LIST]);
    }

    [Fact]
    public void Virtual_function_reads_all_ones_for_its_ids_and_the_rest_as_its_physical_function()
    {
        var bytes = Layouts.Virtual.GetInitialValues();
        Assert.Equal([0xFF, 0xFF, 0xFF, 0xFF], bytes[..4]);
        Assert.Equal([3, 0, 0, 2], bytes[8..12]);
        Assert.Equal([0x42, 0x56, 0x01, 0x00], bytes[0x2C..0x30]);
        Assert.Equal(0, bytes[PciHeader.PCI_INTERRUPT_PIN]);
        // Function-level reset is there, as it must be.
        Assert.Equal(0x10, bytes[0x47] & 0x10);
    }

    [Fact]
    public void Pasid_says_that_the_function_sends_prefixes()
    {
        Assert.NotEqual(0u, BitConverter.ToUInt32(Layouts.Physical.GetInitialValues(), 0x6C + PciExpress.PCI_EXP_DEVCAP2) & PciExpress.PCI_EXP_DEVCAP2_EE_PREFIX);
        var without = ConfigSpaceBuilder.Function(1, 2).Express(_express).Build();
        Assert.Equal(0u, BitConverter.ToUInt32(without.GetInitialValues(), 0x40 + PciExpress.PCI_EXP_DEVCAP2) & PciExpress.PCI_EXP_DEVCAP2_EE_PREFIX);
    }
}
