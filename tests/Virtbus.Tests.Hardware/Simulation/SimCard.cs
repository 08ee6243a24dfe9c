using Virtbus.Pci;
using Virtbus.Virtio;

namespace Virtbus.Tests.Hardware.Simulation;

/// <summary>A physical function, and those that may be cut from it.</summary>
internal sealed class SimCard(SimGuest physical, SimGuest[] virtuals)
{
    private readonly VirtioDevice?[] _made = new VirtioDevice?[virtuals.Length];
    private int _enabled;

    public SimGuest Physical => physical;

    public bool HasVirtuals => _enabled > 0;

    public VirtioDevice MakeVirtual(int index) => _made[index] = virtuals[index] switch
    {
        NetGuest net => net.MakeDevice(),
        DiskGuest disk => DiskGuest.MakeDevice(disk.Name, disk.Disk),
        _ => throw new InvalidOperationException("Such a card has no virtual functions."),
    };

    /// <summary>Other virtual functions, or none.</summary>
    public void SwitchVirtuals(VirtioSimulation sim)
    {
        if (virtuals.Length == 0 || !physical.IsThere)
            return;
        if (_enabled > 0)
        {
            DropVirtuals();
            if (sim.Next(2) == 0)
                return;
        }

        var count = 1 + sim.Next(virtuals.Length);
        sim.Tell($"{count} virtual functions", physical.Name);
        Set(PciSriov.PCI_SRIOV_NUM_VF, (uint)count);
        Set(PciSriov.PCI_SRIOV_CTRL, PciSriov.PCI_SRIOV_CTRL_VFE | PciSriov.PCI_SRIOV_CTRL_MSE);
        sim.Require(physical.Function!.VirtualFunctions.Count == count, $"{physical} has {physical.Function.VirtualFunctions.Count} virtual functions of {count}");
        _enabled = physical.Function.VirtualFunctions.Count;
        for (var i = 0; i < _enabled; i++)
            virtuals[i].Insert((PciFunction)physical.Function.VirtualFunctions[i], _made[i]!);
    }

    public void DropVirtuals()
    {
        if (_enabled == 0)
            return;
        Set(PciSriov.PCI_SRIOV_CTRL, 0);
        Gone();
    }

    /// <summary>Resets the physical function, and the virtual ones go with it.</summary>
    public void Reset()
    {
        physical.ResetFunction();
        Gone();
    }

    private void Gone()
    {
        for (; _enabled > 0; _enabled--)
            virtuals[_enabled - 1].Vanished();
    }

    private void Set(int register, uint value) =>
        physical.Function!.SetConfig(physical.Function!.ExtendedCapability(PciExtendedCapabilityId.PCI_EXT_CAP_ID_SRIOV) + register, value, 2);
}
