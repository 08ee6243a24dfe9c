using Virtbus.Core;
using Virtbus.Subsystems.Vfio;

namespace Virtbus.Tests.Drivers.VfioPci;

/// <summary>Which driver a tool proposes for handing a device out (VP-05; section 7.3 of the semantics).</summary>
public sealed class VfioSuggestionTests
{
    private static readonly ModuleIndex Index = ModuleIndex.Read(AppContext.BaseDirectory);

    [Fact]
    public void Variant_comes_before_the_generic_driver_and_says_why()
    {
        var suggestions = VfioSuggestion.For(Index, "pci:v00005642d00001002sv00005642sd00000001bc02sc00i00");
        Assert.Equal(["merlin_vfio_pci", "vfio_pci"], suggestions.Select(s => s.Module.Name));
        Assert.Equal("merlin_vfio_pci is made for this device: vendor, device match (vfio_pci:v00005642d00001002sv*sd*bc*sc*i*).", suggestions[0].Reason);
        Assert.False(suggestions[0].IsGeneric);
        Assert.Equal("vfio_pci takes any PCI device (vfio_pci:v*d*sv*sd*bc*sc*i*).", suggestions[1].Reason);
        Assert.True(suggestions[1].IsGeneric);
    }

    [Theory]
    [InlineData("pci:v00005642d000000EDsv*sd*bcFFsc00i00", "scratch_vfio_pci vfio_pci")]
    [InlineData("pci:v00005642d000000EEsv*sd*bcFFsc00i00", "scratch_vfio_pci vfio_pci")]
    [InlineData("pci:v00001AF4d00001041sv*sd*bc02sc00i00", "virtio_vfio_pci vfio_pci")]
    [InlineData("pci:v00001AF4d00001042sv*sd*bc01sc00i00", "virtio_vfio_pci vfio_pci")]
    [InlineData("pci:v00001AF4d00001043sv*sd*bc07sc80i00", "vfio_pci")]
    [InlineData("pci:v00001B36d00000002sv*sd*bc07sc00i02", "vfio_pci")]
    [InlineData("auxiliary:merlin_core.vfmig", "")]
    [InlineData("vfio_pci:v00005642d000000EDsv*sd*bcFFsc00i00", "")]
    public void Device_gets_the_drivers_that_are_made_for_it(string modalias, string modules) =>
        Assert.Equal(modules, string.Join(' ', VfioSuggestion.For(Index, modalias).Select(s => s.Module.Name)));

    [Fact]
    public void Nothing_of_them_is_loaded_by_a_device_alone()
    {
        Assert.Equal(["merlin_core"], Index.FindByAlias("pci:v00005642d00001002sv00005642sd00000001bc02sc00i00").Select(m => m.Name));
        Assert.Empty(Index.FindByAlias("auxiliary:merlin_core.vfmig"));
    }
}
