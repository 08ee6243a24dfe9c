using Virtbus.Pci;

namespace Virtbus.Tests.Pci.Functions;

public sealed class PciRootPortTests
{
    [Fact]
    public void Bus_numbers_and_ari_forwarding_are_what_software_wrote()
    {
        using var port = new PciRootPort(1);
        Assert.Equal(1u, port.Config(PciHeader.PCI_HEADER_TYPE, 1));
        port.SetConfig(PciHeader.PCI_PRIMARY_BUS, 0xFF070500);
        Assert.Equal((5, 7), (port.SecondaryBus, port.SubordinateBus));
        Assert.Equal(0x00070500u, port.Config(PciHeader.PCI_PRIMARY_BUS));
        Assert.False(port.IsAriForwarding);
        port.SetConfig(port.Capability(PciCapabilityId.PCI_CAP_ID_EXP) + PciExpress.PCI_EXP_DEVCTL2, PciExpress.PCI_EXP_DEVCTL2_ARI, 2);
        Assert.True(port.IsAriForwarding);
    }

    [Fact]
    public void Secondary_bus_reset_is_told_when_it_begins_and_ends()
    {
        using var port = new PciRootPort(1);
        var told = new List<bool>();
        port.SetSecondaryResetCallback(told.Add);
        port.SetConfig(PciHeader.PCI_BRIDGE_CONTROL, PciBridgeControl.PCI_BRIDGE_CTL_BUS_RESET, 2);
        port.SetConfig(PciHeader.PCI_BRIDGE_CONTROL, PciBridgeControl.PCI_BRIDGE_CTL_BUS_RESET | PciBridgeControl.PCI_BRIDGE_CTL_SERR, 2);
        Assert.True(port.IsSecondaryInReset);
        port.SetConfig(PciHeader.PCI_BRIDGE_CONTROL, 0, 2);
        Assert.Equal([true, false], told);
        port.SetConfig(PciHeader.PCI_BRIDGE_CONTROL, PciBridgeControl.PCI_BRIDGE_CTL_BUS_RESET, 2);
        port.Reset();
        Assert.Equal([true, false, true, false], told);
    }

    [Fact]
    public void Card_in_the_slot_shows_in_slot_and_link_status()
    {
        using var port = new PciRootPort(9);
        var express = port.Capability(PciCapabilityId.PCI_CAP_ID_EXP);
        Assert.Equal(9u, port.Config(express + PciExpress.PCI_EXP_SLTCAP) >> 19);
        port.SetPresence(true);
        Assert.Equal(0x0148u, port.Config(express + PciExpress.PCI_EXP_SLTSTA, 2));
        Assert.NotEqual(0u, port.Config(express + PciExpress.PCI_EXP_LNKSTA, 2) & PciExpress.PCI_EXP_LNKSTA_DLLLA);
        port.SetConfig(express + PciExpress.PCI_EXP_SLTSTA, 0x0108, 2);
        Assert.Equal(0x0040u, port.Config(express + PciExpress.PCI_EXP_SLTSTA, 2));
        port.SetPresence(true);
        Assert.Equal(0x0040u, port.Config(express + PciExpress.PCI_EXP_SLTSTA, 2));
        port.SetPresence(false);
        Assert.Equal(0x0108u, port.Config(express + PciExpress.PCI_EXP_SLTSTA, 2));
        Assert.Equal(0u, port.Config(express + PciExpress.PCI_EXP_LNKSTA, 2) & PciExpress.PCI_EXP_LNKSTA_DLLLA);
    }
}
