using System.Runtime.ExceptionServices;
using Virtbus.Core;
using Virtbus.Pci;
using Virtbus.Platform;
using static Virtbus.Pci.PciSriov;

namespace Virtbus.Buses.Pci;

/// <summary>SR-IOV: enables the virtual functions of a physical one, gives them their places, and takes them out.</summary>
internal sealed class PciVirtualFunctions(PciBus bus, PciSlots slots)
{
    /// <summary>Enables or removes virtual functions.</summary>
    internal async ValueTask SetAsync(PciDevice device, int count, Func<PciDevice, ValueTask>? prepare)
    {
        if (device.Sriov is not { } sriov)
            throw new VirtbusException(Errno.ENOSYS, $"Device {device.Name} has no SR-IOV capability, so it has no virtual functions.");
        if (count < 0 || count > sriov.Total)
            throw new VirtbusException(Errno.ERANGE, $"Device {device.Name} has 0 to {sriov.Total} virtual functions, not {count}.");
        if (!sriov.TryBeginChange(out _))
            throw new VirtbusException(Errno.EBUSY, $"The virtual functions of {device.Name} are being changed. Try again when that has ended.");
        try
        {
            if (count == 0)
                await RemoveEnabledAsync(device, sriov);
            else if (sriov.Functions.Length > 0)
                throw new VirtbusException(Errno.EBUSY, $"Device {device.Name} has {sriov.Functions.Length} virtual functions enabled. Set 0 before {count}.");
            else
                await EnableAsync(device, sriov, count, prepare);
        }
        finally
        {
            sriov.EndChange();
        }
    }

    /// <summary>After a reset of a physical function its virtual ones may be others.</summary>
    internal static void Reattach(PciDevice device)
    {
        var functions = device.VirtualFunctions;
        if (functions.Count == 0)
            return;
        var there = device.Function.VirtualFunctions;
        if (there.Count < functions.Count)
            PciLog.FunctionsMissing(device.PciBus.Log, device.Name, functions.Count, there.Count);
        for (var i = 0; i < functions.Count && i < there.Count; i++)
            functions[i].Replace(there[i]);
    }

    private async ValueTask EnableAsync(PciDevice device, SriovState sriov, int count, Func<PciDevice, ValueTask>? prepare)
    {
        if (!device.IsReachable)
            throw new VirtbusException(Errno.ENODEV, $"Device {device.Name} is gone.");
        if (Array.FindIndex(sriov.Resources, static r => r is { IsThere: true, IsAssigned: false }) is >= 0 and var bar)
            throw new VirtbusException(Errno.ENOSPC, $"Device {device.Name}: VF BAR {bar} has no address. Free space below {device.Parent?.Name}, remove the device and rescan.");
        var control = sriov.Capability + PCI_SRIOV_CTRL;
        device.WriteConfig16(sriov.Capability + PCI_SRIOV_NUM_VF, (ushort)count);
        // Both may depend on the number and on ARI, so they are read now.
        var offset = device.ReadConfig16(sriov.Capability + PCI_SRIOV_VF_OFFSET);
        var stride = device.ReadConfig16(sriov.Capability + PCI_SRIOV_VF_STRIDE);
        var functions = new List<PciDevice>(count);
        var fabric = bus.FabricOrThrow();
        ushort[] ids = [];
        try
        {
            ids = slots.TakeVirtualIds(device, device.Address.RoutingId + offset, stride, count);
            if (device.Segment.BridgeSlot?.Device is { } port)
                PciScan.ProgramBridge(port, device.Segment);
            device.WriteConfig16(control, (ushort)(device.ReadConfig16(control) | PCI_SRIOV_CTRL_VFE | PCI_SRIOV_CTRL_MSE));
            var there = device.Function.VirtualFunctions;
            if (there.Count < count)
            {
                PciLog.FunctionsMissing(bus.Log, device.Name, count, there.Count);
                throw new VirtbusException(Errno.EIO, $"Device {device.Name} shows {there.Count} virtual functions after {count} were enabled.");
            }
            for (var i = 0; i < count; i++)
            {
                var function = new PciDevice(device, i, PciAddress.FromRoutingId(device.Segment.Host.Domain, ids[i]), there[i]);
                functions.Add(function);
                function.Enter();
                if (prepare is not null)
                    await prepare(function);
            }
        }
        catch
        {
            foreach (var function in functions)
                function.Put();
            slots.FreeVirtualIds(device, ids.AsSpan(Math.Min(functions.Count, ids.Length)));
            Disable(device, sriov);
            throw;
        }
        sriov.Functions = [.. functions];
        // A reset while they were prepared did not know of them.
        Reattach(device);
        // In the tree in order, probed side by side.
        var adds = functions.ConvertAll(f => AddVirtualAsync(fabric, f));
        Exception? error = null;
        foreach (var add in adds)
        {
            try
            {
                await add;
            }
            catch (VirtbusException e)
            {
                error ??= e;
            }
        }
        if (error is not null)
        {
            await RemoveEnabledAsync(device, sriov);
            ExceptionDispatchInfo.Throw(error);
        }
        fabric.EmitUevent(device, UeventAction.Change, new KeyValuePair<string, string>("SRIOV_NUMVFS", $"{count}"));
    }

    private static async ValueTask AddVirtualAsync(Fabric fabric, PciDevice function)
    {
        try
        {
            await fabric.AddAsync(function);
        }
        finally
        {
            function.Put();
        }
    }

    internal async ValueTask RemoveAsync(PciDevice device)
    {
        if (device.Sriov is not { } sriov)
            return;
        while (!sriov.TryBeginChange(out var other))
            await other;
        try
        {
            await RemoveEnabledAsync(device, sriov);
        }
        finally
        {
            sriov.EndChange();
        }
    }

    private async ValueTask RemoveEnabledAsync(PciDevice device, SriovState sriov)
    {
        var fabric = bus.FabricOrThrow();
        var functions = sriov.Functions;
        if (functions.Length == 0)
            return;
        // All of them or none.
        foreach (var function in functions)
            PciBus.ThrowIfCallerWaits(function);
        var deletes = new List<ValueTask>(functions.Length);
        foreach (var function in functions.Reverse())
        {
            // One that was never added has nothing to be taken out of.
            if (function.Fabric is not null)
                deletes.Add(TakeOutAsync(function, device.IsGone));
        }
        Exception? error = null;
        foreach (var delete in deletes)
        {
            try
            {
                await delete;
            }
            catch (VirtbusException e)
            {
                error ??= e;
            }
        }
        if (error is not null)
            ExceptionDispatchInfo.Throw(error);
        foreach (var function in functions)
            function.Leave();
        Disable(device, sriov);
        sriov.Functions = [];
        if (device is { State: DeviceState.Added, IsGone: false })
            fabric.EmitUevent(device, UeventAction.Change, new KeyValuePair<string, string>("SRIOV_NUMVFS", "0"));
    }

    private static async ValueTask TakeOutAsync(PciDevice function, bool isGone)
    {
        if (isGone)
            await function.Fabric!.SurpriseRemoveAsync(function);
        await PciBus.DeleteVirtualAsync(function);
    }

    private static void Disable(PciDevice device, SriovState sriov)
    {
        var control = sriov.Capability + PCI_SRIOV_CTRL;
        device.WriteConfig16(control, (ushort)(device.ReadConfig16(control) & ~(PCI_SRIOV_CTRL_VFE | PCI_SRIOV_CTRL_MSE)));
        device.WriteConfig16(sriov.Capability + PCI_SRIOV_NUM_VF, 0);
    }
}
