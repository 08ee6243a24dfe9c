using Virtbus.Hardware.Probe;
using Virtbus.Pci;
using Virtbus.Tests.Pci.Config;

namespace Virtbus.Tests.Pci.Functions;

public sealed class VirtualFunctionTests
{
    private const int Sriov = 0x158, Control = Sriov + PciSriov.PCI_SRIOV_CTRL, NumVfs = Layouts.NumVfs;
    private const uint Enable = PciSriov.PCI_SRIOV_CTRL_VFE, Memory = PciSriov.PCI_SRIOV_CTRL_MSE;

    [Fact]
    public void Vf_enable_makes_as_many_as_numvfs_says_and_its_end_takes_them_away()
    {
        using var function = new TestFunction(Layouts.Physical);
        Assert.Empty(function.VirtualFunctions);
        function.SetConfig(NumVfs, 5, 2);
        Assert.Empty(function.VirtualFunctions);
        function.SetConfig(Control, Enable, 2);
        Assert.Equal(5, function.VirtualFunctions.Count);
        var third = function.VirtualFunctions[2];
        Assert.Equal(uint.MaxValue, third.Config(0));
        Assert.Equal(0x02000003u, third.Config(8));
        Assert.Equal(0x02020202u, third.Register(0, 0));
        var lost = 0;
        third.SetLostCallback(() => lost++);
        function.SetConfig(Control, 0, 2);
        Assert.Empty(function.VirtualFunctions);
        Assert.False(third.IsPresent);
        Assert.Equal(1, lost);
        Assert.Equal(uint.MaxValue, third.Register(0, 0));
    }

    [Fact]
    public void Numvfs_is_fixed_while_enabled_and_never_above_the_total()
    {
        using var function = new TestFunction(Layouts.Physical);
        function.SetConfig(NumVfs, 257, 2);
        Assert.Equal(0u, function.Config(NumVfs, 2));
        function.SetConfig(NumVfs, 256, 2);
        function.SetConfig(Control, Enable, 2);
        Assert.Equal(256, function.VirtualFunctions.Count);
        function.SetConfig(NumVfs, 3, 2);
        Assert.Equal(256u, function.Config(NumVfs, 2));
        function.SetConfig(Layouts.PageSize, 1 << 4);
        Assert.Equal(1u, function.Config(Layouts.PageSize));
        function.SetConfig(Control, Enable | Memory, 2);
        Assert.Equal(256, function.VirtualFunctions.Count);
    }

    [Fact]
    public void Memory_of_virtual_functions_is_enabled_by_the_physical_one()
    {
        using var function = new TestFunction(Layouts.Physical);
        function.SetConfig(Sriov + PciSriov.PCI_SRIOV_BAR, 0x8000_0000);
        function.SetConfig(Sriov + PciSriov.PCI_SRIOV_BAR + 4, 0x10);
        function.SetConfig(NumVfs, 3, 2);
        function.SetConfig(Control, Enable, 2);
        var last = (PciVirtualFunction)function.VirtualFunctions[2];
        last.SetConfig(PciHeader.PCI_COMMAND, uint.MaxValue, 2);
        Assert.Equal((uint)PciCommand.PCI_COMMAND_MASTER, last.Config(PciHeader.PCI_COMMAND, 2));
        Assert.False(last.IsDecoding(0));
        function.SetConfig(Control, Enable | Memory, 2);
        Assert.True(last.IsDecoding(0));
        Assert.False(last.IsDecoding(1));
        Assert.Equal(0x10_8000_8000UL, last.GetBarAddress(0));
        Assert.Equal(0x10_8000_0000UL, function.GetVirtualBarAddress(0));
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void Reset_of_the_physical_function_takes_them_away(bool isFunctionLevel)
    {
        using var function = new TestFunction(Layouts.Physical);
        function.SetConfig(NumVfs, 3, 2);
        function.SetConfig(Control, Enable | PciSriov.PCI_SRIOV_CTRL_ARI, 2);
        var first = function.VirtualFunctions[0];
        if (isFunctionLevel)
            function.SetConfig(0x6C + 8, PciExpress.PCI_EXP_DEVCTL_BCR_FLR, 2);
        else
            function.Reset();
        Assert.Empty(function.VirtualFunctions);
        Assert.False(first.IsPresent);
        Assert.Equal(0u, function.Config(NumVfs, 2));
        Assert.Equal(isFunctionLevel ? (uint)PciSriov.PCI_SRIOV_CTRL_ARI : 0, function.Config(Control, 2));
    }

    [Fact]
    public void Vf_enable_goes_back_when_the_host_has_no_room()
    {
        using var function = new TestFunction(Layouts.Physical) { RefusesVirtualFunctions = true };
        function.SetConfig(NumVfs, 3, 2);
        function.SetConfig(Control, Enable | Memory, 2);
        Assert.Empty(function.VirtualFunctions);
        Assert.Equal(Memory, function.Config(Control, 2));
        function.SetConfig(NumVfs, 2, 2);
        function.SetConfig(Control, Enable, 2);
        Assert.Equal(2, function.VirtualFunctions.Count);
    }

    [Fact]
    public void Reset_of_one_leaves_the_others_alone()
    {
        using var function = new ScratchFunction(4);
        var (one, two) = EnableTwo(function);
        one.SetRegister(0, ScratchRegister.Memory, 11);
        two.SetRegister(0, ScratchRegister.Memory, 22);
        var express = one.Capability(PciCapabilityId.PCI_CAP_ID_EXP);
        one.SetConfig(express + PciExpress.PCI_EXP_DEVCTL, PciExpress.PCI_EXP_DEVCTL_BCR_FLR, 2);
        Assert.Equal(0u, one.Register(0, ScratchRegister.Memory));
        Assert.Equal(1u, one.Register(0, ScratchRegister.ResetCount));
        Assert.Equal(22u, two.Register(0, ScratchRegister.Memory));
        Assert.True(one.IsPresent);
    }

    [Fact]
    public void Virtual_functions_interrupt_and_do_dma_by_their_own_port()
    {
        using var function = new ScratchFunction(4);
        var (one, two) = EnableTwo(function);
        using var port = new FunctionSlot();
        two.Plug(port);
        two.SetConfig(PciHeader.PCI_COMMAND, PciCommand.PCI_COMMAND_MASTER, 2);
        two.SetRegister(0, 0x2000, 0xFEE00000);
        two.SetRegister(0, 0x2008, 0x99);
        two.SetRegister(0, 0x200C, 0);
        two.SetConfig(two.Capability(PciCapabilityId.PCI_CAP_ID_MSIX) + 2, PciMsix.PCI_MSIX_FLAGS_ENABLE, 2);
        two.SetRegister(0, ScratchRegister.InterruptEnable, 1);
        two.SetRegister(2, 0, 0xCAFE);
        two.SetRegister(0, ScratchRegister.DmaAddressHigh, 1);
        two.SetRegister(0, ScratchRegister.DmaLength, 4);
        two.SetRegister(0, ScratchRegister.DmaCommand, 2);
        Deadline.Until(() => !port.Messages.IsEmpty, "the message of the transfer");
        Assert.Equal([(0xFEE00000UL, 0x99u)], port.Messages);
        var value = new byte[2];
        port.Memory.Read(0, value);
        Assert.Equal([0xFE, 0xCA], value);
        Assert.Equal(0u, one.Register(0, ScratchRegister.DmaStatus));
        // Gone with the rest, while it is plugged.
        function.SetConfig(function.ExtendedCapability(PciExtendedCapabilityId.PCI_EXT_CAP_ID_SRIOV) + PciSriov.PCI_SRIOV_CTRL, 0, 2);
        Assert.False(two.IsPresent);
    }

    private static (IPciFunction One, IPciFunction Two) EnableTwo(ScratchFunction function)
    {
        var sriov = function.ExtendedCapability(PciExtendedCapabilityId.PCI_EXT_CAP_ID_SRIOV);
        function.SetConfig(sriov + PciSriov.PCI_SRIOV_NUM_VF, 2, 2);
        function.SetConfig(sriov + PciSriov.PCI_SRIOV_CTRL, Enable | Memory, 2);
        Assert.Equal(2, function.VirtualFunctions.Count);
        return (function.VirtualFunctions[0], function.VirtualFunctions[1]);
    }
}
