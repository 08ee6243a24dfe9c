using Virtbus.Core;
using Virtbus.Pci;
using Virtbus.Platform;

namespace Virtbus.Buses.Pci;

/// <summary>
/// How hardware comes and goes: scan, add, remove, unplug, surprise, rescan. <see cref="PciBus"/> has the words of its calls, and
/// <see cref="PciSlots"/> what is where.
/// </summary>
internal sealed class PciHotplug(PciBus bus, PciSlots slots)
{
    internal ValueTask<PciDevice> AddPortAsync(Device parent, int? device) => AddAsync(slots.ReservePort(parent, device));

    internal ValueTask<PciDevice> AddFunctionAsync(Device parent, IPciFunction function, int? device, int functionNumber)
    {
        ArgumentNullException.ThrowIfNull(function);
        return AddAsync(slots.Reserve(parent, function, device, functionNumber));
    }

    internal async ValueTask<PciDevice> PlugAsync(IPciFunction function, string? label, Func<PciDevice, ValueTask>? prepare, bool isOwned, PciAddress? place = null)
    {
        while (true)
        {
            if (slots.ReserveEmptyPort(function, label, isOwned, place, out var host) is { } slot)
                return await AddAsync(slot, prepare);
            if (place is { } wanted && host is not null && slots.HasPortFrom(host, wanted.Bus, out var coming))
            {
                // The port that leads there is being added by somebody else; or it is taken, or passed over.
                if (coming is null)
                    place = null;
                else
                    await coming;
                continue;
            }
            // Ports that lead to numbers before it come first, and stay empty.
            host ??= await bus.AddHostBridgeAsync();
            await AddPortAsync(host, null);
        }
    }

    internal async ValueTask RemoveAsync(PciDevice device)
    {
        ArgumentNullException.ThrowIfNull(device);
        var below = slots.Below(device);
        await bus.FabricOrThrow().DeleteAsync(device);
        foreach (var one in below)
            one.Leave();
        device.Leave();
    }

    internal async ValueTask UnplugAsync(PciDevice device)
    {
        ArgumentNullException.ThrowIfNull(device);
        if (device.Slot is not { } slot)
            throw new VirtbusException(Errno.EINVAL, $"Device {device.Name} is a virtual function. Write the number wanted to sriov_numvfs of {device.PhysicalFunction?.Name}.");
        if (!slots.TryBeginLeave(slot, device))
            throw new VirtbusException(Errno.ENODEV, $"Device {device.Name} was removed, and its hardware has another device by now. Unplug that one.");
        await LeaveAsync(slot, device);
    }

    internal async ValueTask UnplugAsync(IPciFunction function)
    {
        ArgumentNullException.ThrowIfNull(function);
        while (true)
        {
            if (slots.Find(s => s.Function == function, out var device) is not { } slot)
                return;
            if (!slots.TryBeginLeave(slot, device))
            {
                // A scan gives it a device just now, or gave it another one.
                await slots.UntilDevice(slot);
                continue;
            }
            await LeaveAsync(slot, device);
            return;
        }
    }

    internal async ValueTask SurpriseRemoveAsync(PciDevice device)
    {
        ArgumentNullException.ThrowIfNull(device);
        var fabric = bus.FabricOrThrow();
        // Everything is marked before anything is waited for, so that no driver takes a part for alive.
        device.MarkLost();
        var leaves = device.Slot is { } place && slots.TryBeginLeave(place, device);
        PciDevice[] below = [.. slots.Below(device), .. device.VirtualFunctions];
        foreach (var one in below)
            one.MarkLost();
        var removals = new List<ValueTask>();
        foreach (var function in device.VirtualFunctions.Reverse())
            removals.Add(fabric.SurpriseRemoveAsync(function));
        removals.Add(fabric.SurpriseRemoveAsync(device));
        foreach (var removal in removals)
            await removal;
        // Called from a callback that a removal has to wait for: it follows.
        if (IsInTree(device) || below.Any(IsInTree))
        {
            StartSurpriseRemoval(device);
            return;
        }
        foreach (var one in below)
            one.Leave();
        device.Leave();
        if (leaves)
            slots.Empty(device.Slot!);
    }

    internal async ValueTask RescanAsync(PciSegment segment)
    {
        foreach (var slot in slots.SlotsOf(segment))
        {
            var isNew = slots.TryBeginRescan(slot, out var isLost);
            // Lost while it had no device, so nobody was told.
            if (isLost)
                slots.Empty(slot);
            if (isNew)
            {
                try
                {
                    await ScanAsync(slot);
                }
                catch (VirtbusException e)
                {
                    // One function's trouble must not keep the others away.
                    PciLog.RescanFailed(bus.Log, $"{slot.Address}", e.Message);
                }
            }
            if (slot.Secondary is { } behind)
                await RescanAsync(behind);
        }
    }

    /// <summary>The hardware of a slot without a device is lost.</summary>
    internal void EmptyLost(PciSlot slot)
    {
        if (!slot.IsOwned)
        {
            slots.Empty(slot);
            return;
        }
        // Called on a thread of the hardware, whose end waits for that thread.
        bus.FabricOrThrow().StartWork($"end of what was at {slot.Address}", () =>
        {
            slots.Empty(slot);
            return Task.CompletedTask;
        });
    }

    private async ValueTask<PciDevice> AddAsync(PciSlot slot, Func<PciDevice, ValueTask>? prepare = null)
    {
        try
        {
            return await ScanAsync(slot, prepare)
                ?? throw new VirtbusException(Errno.ENODEV, $"Nothing answers at {slot.Address}: the function's vendor id reads as none.");
        }
        catch
        {
            slots.Empty(slot);
            throw;
        }
    }

    // Behind a TryBeginLeave that said yes.
    private async ValueTask LeaveAsync(PciSlot slot, PciDevice? device)
    {
        try
        {
            if (device is not null)
                await RemoveAsync(device);
        }
        catch
        {
            slots.EndLeave(slot);
            throw;
        }
        slots.Empty(slot);
    }

    private async ValueTask<PciDevice?> ScanAsync(PciSlot slot, Func<PciDevice, ValueTask>? prepare = null)
    {
        var fabric = bus.FabricOrThrow();
        PciDevice? device = null;
        try
        {
            var group = slots.BeginScan(slot, out var parent);
            device = new PciDevice(bus, slot.Address, parent, slot.Function, slot.Segment, group) { Slot = slot };
            if (!device.Enter())
                return null;
            PciScan.Size(device);
            Assign(device, slot);
            slot.Function.SetLostCallback(() => Lost(device));
            if (prepare is not null)
                await prepare(device);
            await fabric.AddAsync(device);
            // Lost before it was in the tree: nothing could be taken out then.
            if (device.IsLost || !slot.Function.IsPresent)
                StartSurpriseRemoval(device);
            return device;
        }
        finally
        {
            slots.EndScan(slot);
            device?.Put();
        }
    }

    private void Assign(PciDevice device, PciSlot slot)
    {
        foreach (var bar in slots.Assign(device, slot))
        {
            var resource = bar < PciBar.Count ? device.Bars[bar] : device.Sriov!.Resources[bar - PciBar.Count];
            PciLog.NoAddress(bus.Log, device.Name, bar, resource.Size, device.Parent?.Name ?? "");
        }
        PciScan.Program(device);
        if (slot.Secondary is { } behind)
        {
            PciScan.ProgramBridge(device, behind);
            device.Enable();
            device.SetMaster(true);
        }
        // What it needs may have opened windows or taken numbers all the way up.
        for (var above = slot.Segment; above.BridgeSlot?.Device is { } bridge; above = above.Above!)
            PciScan.ProgramBridge(bridge, above);
    }

    private void Lost(PciDevice device)
    {
        if (device.IsLost)
            return;
        PciLog.Lost(bus.Log, device.Name);
        device.MarkLost();
        if (device.Fabric is not null)
            StartSurpriseRemoval(device);
    }

    private bool IsInTree(PciDevice device) => bus.TryGetDevice(device.Name, out var there) && there == device;

    private void StartSurpriseRemoval(PciDevice device) =>
        bus.FabricOrThrow().StartWork("surprise removal of " + device.Name, () => SurpriseRemoveAsync(device).AsTask());
}
