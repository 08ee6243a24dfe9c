using Virtbus.Hardware.Probe;
using Virtbus.Pci;
using Virtbus.Platform;

namespace Virtbus.Tests.Pci.Functions;

[Collection(nameof(Alone))]
public sealed class CostTests
{
    [Fact]
    public void Idle_virtual_function_takes_less_than_16_kib_and_no_descriptor()
    {
        using var function = new ScratchFunction(256);
        var sriov = function.ExtendedCapability(PciExtendedCapabilityId.PCI_EXT_CAP_ID_SRIOV);
        function.SetConfig(sriov + PciSriov.PCI_SRIOV_NUM_VF, 256, 2);
        var descriptors = Alone.Descriptors();
        var before = GC.GetTotalMemory(forceFullCollection: true);
        function.SetConfig(sriov + PciSriov.PCI_SRIOV_CTRL, PciSriov.PCI_SRIOV_CTRL_VFE, 2);
        var after = GC.GetTotalMemory(forceFullCollection: true);
        Assert.Equal(256, function.VirtualFunctions.Count);
        // Not less than config space either: then it would not have been counted.
        Assert.InRange((after - before) / 256, 4096, 16 * 1024);
        Assert.Equal(descriptors, Alone.Descriptors());
    }

    [Fact]
    public void Disposed_function_gives_everything_back()
    {
        var descriptors = Alone.Descriptors();
        for (var i = 0; i < 5; i++)
        {
            var function = new ScratchFunction();
            function.SetRegister(2, 0, 1);
            using var signal = new EventFd();
            Assert.True(function.TryAttachDoorbell(function.Doorbells[0], signal, out _));
            function.Dispose();
            Assert.False(function.TryAttachDoorbell(function.Doorbells[0], signal, out var fault));
            Assert.Equal(Errno.ENODEV, fault.Errno);
        }
        Assert.Equal(descriptors, Alone.Descriptors());
    }
}
