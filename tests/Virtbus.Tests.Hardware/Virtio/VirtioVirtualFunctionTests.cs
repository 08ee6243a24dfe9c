using Virtbus.Block;
using Virtbus.Hardware.VirtioPci;
using Virtbus.Models.VirtioBlk;
using Virtbus.Models.VirtioRng;
using Virtbus.Pci;
using Virtbus.Platform;
using Virtbus.Virtio;
using static Virtbus.Virtio.VirtioStatus;

namespace Virtbus.Tests.Hardware.Virtio;

/// <summary>A virtio function with virtual ones: each is a device of its own.</summary>
public sealed class VirtioVirtualFunctionTests
{
    [Fact]
    public void Virtual_functions_are_devices_of_their_own_and_go_with_VF_Enable()
    {
        var made = new List<VirtioRngDevice>();
        using var slot = new FunctionSlot();
        using var physical = new VirtioFunction(new VirtioRngDevice("pf"), new VirtioFunctionOptions { VirtualFunctions = 256 }, index =>
        {
            made.Add(new VirtioRngDevice($"vf{index}"));
            return made[^1];
        });
        physical.Plug(slot);
        var registers = new VirtioPciAccess(physical);
        Assert.True(new VirtioRegisterTransport(registers).DeviceFeatures.Has(VirtioFeatures.VIRTIO_F_SR_IOV));
        var sriov = physical.ConfigLayout.FindExtendedCapability(PciExtendedCapabilityId.PCI_EXT_CAP_ID_SRIOV);
        physical.WriteConfig(sriov + PciSriov.PCI_SRIOV_NUM_VF, [0, 1]);
        physical.WriteConfig(sriov + PciSriov.PCI_SRIOV_CTRL, [PciSriov.PCI_SRIOV_CTRL_VFE | PciSriov.PCI_SRIOV_CTRL_MSE, 0]);
        Assert.Equal((256, 256), (physical.VirtualFunctions.Count, made.Count));
        var driver = new VirtioRegisterTransport(new VirtioPciAccess(physical.VirtualFunctions[255]));
        Assert.False(driver.DeviceFeatures.Has(VirtioFeatures.VIRTIO_F_SR_IOV));
        Assert.True(driver.TrySetStatus(ACKNOWLEDGE | DRIVER, out _));
        Assert.Equal((ACKNOWLEDGE | DRIVER, 0, 0), (made[255].Status, made[254].Status, physical.Device.Status));
        var last = physical.VirtualFunctions[255];
        physical.WriteConfig(sriov + PciSriov.PCI_SRIOV_CTRL, [0, 0]);
        Assert.Empty(physical.VirtualFunctions);
        Assert.False(last.IsPresent);
        Assert.Equal(0xFF, driver.Status);
    }

    [Fact]
    public void What_a_driver_of_a_virtual_function_breaks_is_told_with_its_name()
    {
        using var slot = new FunctionSlot();
        using var physical = new VirtioFunction(new VirtioRngDevice("pf"), new VirtioFunctionOptions { VirtualFunctions = 2 }, static index => new VirtioRngDevice($"vf{index}"));
        var told = new List<(string Device, int Queue, Errno Cause)>();
        physical.SetDriverFaultCallback((device, queue, fault) => told.Add((device.Name, queue, fault.Errno)));
        physical.Plug(slot);
        var sriov = physical.ConfigLayout.FindExtendedCapability(PciExtendedCapabilityId.PCI_EXT_CAP_ID_SRIOV);
        physical.WriteConfig(sriov + PciSriov.PCI_SRIOV_NUM_VF, [2, 0]);
        physical.WriteConfig(sriov + PciSriov.PCI_SRIOV_CTRL, [PciSriov.PCI_SRIOV_CTRL_VFE | PciSriov.PCI_SRIOV_CTRL_MSE, 0]);
        var driver = new VirtioRegisterTransport(new VirtioPciAccess(physical.VirtualFunctions[1]));
        driver.TrySetStatus(ACKNOWLEDGE | DRIVER, out _);
        driver.TrySetDriverFeatures(driver.DeviceFeatures, out _);
        driver.TrySetStatus(ACKNOWLEDGE | DRIVER | FEATURES_OK, out _);
        driver.Select(0);
        driver.SetQueueSize(3);
        Assert.False(driver.TryEnable());
        Assert.Equal(("vf1", 0, Errno.EINVAL), Assert.Single(told));
    }

    [Fact]
    public void Transitional_function_has_no_virtual_ones()
    {
        var error = Assert.Throws<VirtbusException>(() => new VirtioFunction(new VirtioRngDevice("pf"), new VirtioFunctionOptions { VirtualFunctions = 1, IsTransitional = true }));
        Assert.Equal(Errno.EINVAL, error.Errno);
    }

    [Fact]
    public void Notification_takes_no_memory()
    {
        using var medium = new MemoryBackend(1 << 20);
        using var card = new VirtioCard(new VirtioBlkDevice("disk", medium, "serial"));
        card.Start();
        Span<byte> value = stackalloc byte[2];
        value.Clear();
        for (var i = 0; i < 2000; i++)
            card.Function.WriteBar(4, 0x3000, value);
        var before = GC.GetAllocatedBytesForCurrentThread();
        for (var i = 0; i < 10_000; i++)
            card.Function.WriteBar(4, 0x3000, value);
        Assert.Equal(before, GC.GetAllocatedBytesForCurrentThread());
    }
}
