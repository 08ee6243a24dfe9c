using Virtbus.Pci;
using Virtbus.Platform;
using static Virtbus.Pci.PciCapabilityId;
using static Virtbus.Pci.PciCommand;
using static Virtbus.Pci.PciExpress;
using static Virtbus.Pci.PciExtendedCapabilityId;
using static Virtbus.Pci.PciHeader;
using static Virtbus.Pci.PciSriov;

namespace Virtbus.Buses.Pci;

/// <summary>Resets a function, with what the system put into its config space as before.</summary>
internal static class PciReset
{
    public const string FunctionLevel = "flr";
    public const string Advanced = "af_flr";
    public const string Bus = "bus";

    // Advanced Features (ECN of PCI 2.3): the reset of functions that are not PCI Express.
    private const byte AdvancedFeaturesCapability = 0x13;

    /// <summary>The methods that a function has, best first, by Linux's names.</summary>
    public static IReadOnlyList<string> MethodsOf(PciDevice device)
    {
        var methods = new List<string>();
        if (device.FindCapability(PCI_CAP_ID_EXP) is > 0 and var express
            && (device.ReadConfig32(express + PCI_EXP_DEVCAP) & PCI_EXP_DEVCAP_FLR) != 0)
        {
            methods.Add(FunctionLevel);
        }
        if (device.FindCapability(AdvancedFeaturesCapability) is > 0 and var advanced && (device.ReadConfig8(advanced + 3) & 2) != 0)
            methods.Add(Advanced);
        if (device.PciBus.Slots.IsAloneOnBus(device))
            methods.Add(Bus);
        return methods;
    }

    /// <summary>
    /// Resets a function for somebody else than its driver, which is told before and after. Virtual functions go through it with their physical
    /// one, so their drivers are told too; the functions and their number stay.
    /// </summary>
    /// <exception cref="VirtbusException">ENOTTY, ENODEV: it was not reset; EDEADLK; what a driver throws.</exception>
    public static ValueTask ResetAsync(PciDevice device) =>
        device.Fabric!.RunExclusiveAsync(device, () => ResetWithAsync(device, device.VirtualFunctions, 0));

    // Each in its own transition, which is held until the end: no driver comes or goes in the middle.
    private static async ValueTask ResetWithAsync(PciDevice device, IReadOnlyList<PciDevice> functions, int next)
    {
        if (next == functions.Count)
        {
            await ToldAsync(device, () => device.TryReset(out var fault)
                ? default
                : throw new VirtbusException(fault.Errno, $"Device {device.Name} was not reset: {fault.Message}."));
            return;
        }
        var isHeld = false;
        try
        {
            await device.Fabric!.RunExclusiveAsync(functions[next], () =>
            {
                isHeld = true;
                return ToldAsync(functions[next], () => ResetWithAsync(device, functions, next + 1));
            });
        }
        catch (VirtbusException e) when (!isHeld && e.Errno == Errno.ENODEV)
        {
            // It leaves just now, and has no driver that would have to know.
            await ResetWithAsync(device, functions, next + 1);
        }
    }

    private static async ValueTask ToldAsync(PciDevice device, Func<ValueTask> reset)
    {
        var driver = device.Driver as PciDriver;
        if (driver is not null)
            await driver.PrepareResetAsync(device);
        try
        {
            await reset();
        }
        finally
        {
            if (driver is not null)
                await driver.ResetDoneAsync(device);
        }
    }

    /// <summary>Takes the hardware of the virtual functions away and makes it anew, their devices staying in the tree.</summary>
    /// <param name="device">The physical function.</param>
    /// <param name="configure">Called in between.</param>
    public static void Renew(PciDevice device, Action configure)
    {
        if (device.VirtualFunctions.Count == 0)
        {
            configure();
            return;
        }
        var control = device.Sriov!.Capability + PCI_SRIOV_CTRL;
        var enabled = device.ReadConfig16(control);
        device.WriteConfig16(control, (ushort)(enabled & ~(PCI_SRIOV_CTRL_VFE | PCI_SRIOV_CTRL_MSE)));
        try
        {
            configure();
        }
        finally
        {
            device.WriteConfig16(control, enabled);
            PciVirtualFunctions.Reattach(device);
        }
    }

    public static bool TryReset(PciDevice device, out Fault fault)
    {
        if (!device.IsReachable)
        {
            fault = new Fault(Errno.ENODEV, "the function is gone");
            return false;
        }
        var methods = MethodsOf(device);
        if ((device.ChosenResets ?? methods).FirstOrDefault(methods.Contains) is not { } method)
        {
            fault = new Fault(Errno.ENOTTY, "the function has no reset of its own");
            return false;
        }
        var saved = Save(device);
        // Nothing is decoded and nothing leaves while it is reset.
        device.WriteConfig16(PCI_COMMAND, PCI_COMMAND_INTX_DISABLE);
        switch (method)
        {
            case FunctionLevel:
                var control = device.FindCapability(PCI_CAP_ID_EXP) + PCI_EXP_DEVCTL;
                device.WriteConfig16(control, (ushort)(device.ReadConfig16(control) | PCI_EXP_DEVCTL_BCR_FLR));
                break;
            case Advanced:
                device.WriteConfig8(device.FindCapability(AdvancedFeaturesCapability) + 4, 1);
                break;
            default:
                PciBus.ResetBus(device);
                break;
        }
        Restore(device, saved);
        fault = Fault.None;
        return true;
    }

    /// <summary>What has to be written again after a reset: registers that the system or the driver wrote, in the order of restoring.</summary>
    public static List<(int Offset, int Size, uint Value)> Save(PciDevice device)
    {
        var saved = new List<(int, int, uint)>();
        if (device.FindCapability(PCI_CAP_ID_EXP) is > 0 and var express)
        {
            Keep(express + PCI_EXP_DEVCTL, 2);
            Keep(express + PCI_EXP_LNKCTL, 2);
            // The second registers came with version 2 of the capability.
            if ((device.ReadConfig8(express + 2) & 0xF) >= 2)
            {
                Keep(express + PCI_EXP_DEVCTL2, 2);
                Keep(express + PCI_EXP_LNKCTL2, 2);
            }
        }
        foreach (var (id, offset, size) in Extended)
        {
            if (device.FindExtendedCapability(id) is > 0 and var at)
                Keep(at + offset, size);
        }
        Keep(0x0C, 2);
        var bars = device.IsBridge ? 2 : 6;
        for (var i = 0; i < bars; i++)
            Keep(PCI_BASE_ADDRESS_0 + (4 * i), 4);
        Keep(device.IsBridge ? PCI_ROM_ADDRESS1 : PCI_ROM_ADDRESS, 4);
        Keep(PCI_INTERRUPT_LINE, 1);
        if (device.IsBridge)
        {
            for (var at = PCI_PRIMARY_BUS; at < 0x34; at += 4)
                Keep(at, 4);
            Keep(PCI_BRIDGE_CONTROL, 2);
        }
        // Also while they are prepared, before the device shows them.
        if (device.Sriov is { } sriov && (device.ReadConfig16(sriov.Capability + PCI_SRIOV_CTRL) & PCI_SRIOV_CTRL_VFE) != 0)
        {
            Keep(sriov.Capability + PCI_SRIOV_SYS_PGSIZE, 4);
            for (var i = 0; i < 6; i++)
                Keep(sriov.Capability + PCI_SRIOV_BAR + (4 * i), 4);
            Keep(sriov.Capability + PCI_SRIOV_NUM_VF, 2);
            Keep(sriov.Capability + PCI_SRIOV_CTRL, 2);
        }
        Keep(PCI_COMMAND, 2);
        return saved;

        void Keep(int offset, int size) => saved.Add((offset, size, size switch
        {
            1 => device.ReadConfig8(offset),
            2 => device.ReadConfig16(offset),
            _ => device.ReadConfig32(offset),
        }));
    }

    public static void Restore(PciDevice device, List<(int Offset, int Size, uint Value)> saved)
    {
        foreach (var (offset, size, value) in saved)
        {
            switch (size)
            {
                case 1:
                    device.WriteConfig8(offset, (byte)value);
                    break;
                case 2:
                    device.WriteConfig16(offset, (ushort)value);
                    break;
                default:
                    device.WriteConfig32(offset, value);
                    break;
            }
        }
        PciVirtualFunctions.Reattach(device);
        device.RestoreInterrupts();
    }

    private static readonly (ushort Id, int Offset, int Size)[] Extended =
    [
        (PCI_EXT_CAP_ID_ATS, 6, 2),
        (PCI_EXT_CAP_ID_ARI, 6, 2),
        (PCI_EXT_CAP_ID_PASID, 6, 2),
    ];
}
