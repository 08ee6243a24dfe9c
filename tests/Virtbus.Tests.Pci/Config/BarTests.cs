using Virtbus.Pci;

namespace Virtbus.Tests.Pci.Config;

public sealed class BarTests
{
    [Fact]
    public void All_ones_read_back_as_size_and_kind()
    {
        using var function = Layouts.All[0].Make();
        Assert.Equal((0u, 0x4000u), Size(function, 0));
        Assert.Equal((1u, 32u), Size(function, 1));
        Assert.Equal(0xCu, function.Config(0x18) & 0xF);
        function.SetConfig(0x18, uint.MaxValue);
        function.SetConfig(0x1C, uint.MaxValue);
        var wide = (function.Config(0x18) & ~0xFu) | ((ulong)function.Config(0x1C) << 32);
        Assert.Equal(1UL << 33, ~wide + 1);
        Assert.Equal((8u, 0x1000u), Size(function, 4));
        Assert.Equal((0u, 0u), Size(function, 5));
        function.SetConfig(PciHeader.PCI_ROM_ADDRESS, ~1u);
        Assert.Equal(0xFFFF0000, function.Config(PciHeader.PCI_ROM_ADDRESS));
    }

    [Fact]
    public void Addresses_read_back_and_decoding_follows_the_command_register()
    {
        using var function = Layouts.All[0].Make();
        function.SetConfig(0x10, 0xFEB01234);
        function.SetConfig(0x14, 0xC0FF);
        function.SetConfig(0x18, 0);
        function.SetConfig(0x1C, 0x42);
        function.SetConfig(0x30, 0xFEC00001);
        Assert.Equal(0xFEB00000UL, function.GetBarAddress(0));
        Assert.Equal(0xC0E0UL, function.GetBarAddress(1));
        Assert.Equal(0x42_0000_0000UL, function.GetBarAddress(2));
        Assert.Equal(0xFEC00000UL, function.GetBarAddress(PciBar.Rom));
        Assert.DoesNotContain(Enumerable.Range(0, PciBar.Count), function.IsDecoding);
        function.SetConfig(PciHeader.PCI_COMMAND, PciCommand.PCI_COMMAND_MEMORY, 2);
        Assert.Equal([0, 2, 4, PciBar.Rom], Enumerable.Range(0, PciBar.Count).Where(function.IsDecoding));
        function.SetConfig(PciHeader.PCI_COMMAND, PciCommand.PCI_COMMAND_IO, 2);
        Assert.Equal([1], Enumerable.Range(0, PciBar.Count).Where(function.IsDecoding));
        function.SetConfig(PciHeader.PCI_COMMAND, PciCommand.PCI_COMMAND_MEMORY, 2);
        function.SetConfig(0x30, 0xFEC00000);
        Assert.False(function.IsDecoding(PciBar.Rom));
    }

    [Fact]
    public void Virtual_bars_are_in_the_physical_function_and_grow_with_the_system_page()
    {
        using var function = Layouts.All[0].Make();
        function.SetConfig(0x17C, uint.MaxValue);
        function.SetConfig(0x180, uint.MaxValue);
        function.SetConfig(0x184, uint.MaxValue);
        Assert.Equal(0xFFFFC00Cu, function.Config(0x17C));
        Assert.Equal(uint.MaxValue, function.Config(0x180));
        Assert.Equal(0xFFFFE000u, function.Config(0x184));
        // A page of 64 KiB is more than either BAR.
        function.SetConfig(Layouts.PageSize, 1 << 4);
        function.SetConfig(0x17C, uint.MaxValue);
        function.SetConfig(0x184, uint.MaxValue);
        Assert.Equal(0xFFFF000Cu, function.Config(0x17C));
        Assert.Equal(0xFFFF0000u, function.Config(0x184));
    }

    [Fact]
    public void Own_bars_of_a_virtual_function_read_as_zero()
    {
        using var function = Layouts.All[1].Make();
        for (var offset = 0x10; offset <= 0x30; offset += 4)
        {
            function.SetConfig(offset, uint.MaxValue);
            Assert.Equal(offset == 0x2C ? 0x00015642u : 0, function.Config(offset));
        }
        Assert.Equal(0x4000UL, function.GetBar(0).Size);
        Assert.Equal(PciBarKind.Memory64, function.GetBar(0).Kind);
        Assert.Equal(0x2000UL, function.GetBar(2).Size);
    }

    [Fact]
    public void Page_size_takes_one_supported_bit_only()
    {
        using var function = Layouts.All[0].Make();
        foreach (var (written, expected) in new (uint, uint)[] { (3, 1), (1 << 2, 1), (0, 1), (1 << 4, 1 << 4), (1 << 10, 1 << 10) })
        {
            function.SetConfig(Layouts.PageSize, written);
            Assert.Equal(expected, function.Config(Layouts.PageSize));
        }
    }

    private static (uint Kind, uint Size) Size(IPciFunction function, int bar)
    {
        var offset = PciHeader.PCI_BASE_ADDRESS_0 + (4 * bar);
        var before = function.Config(offset);
        function.SetConfig(offset, uint.MaxValue);
        var value = function.Config(offset);
        function.SetConfig(offset, before);
        Assert.Equal(before, function.Config(offset));
        var typeBits = (before & 1) != 0 ? 3u : 0xFu;
        return (before & typeBits, ~(value & ~typeBits) + 1);
    }
}
