using Virtbus.Core;
using Virtbus.Pci;
using Virtbus.Platform;

namespace Virtbus.Buses.Pci;

/// <summary>
/// What hardware is in which slot, on which bus number, and which addresses and numbers are free: the state of the topology and its one lock.
/// How hardware comes and goes is <see cref="PciHotplug"/>'s.
/// </summary>
internal sealed class PciSlots(PciBus bus)
{
    // Two bus numbers a port: one for its slot and one for virtual functions that do not fit there.
    private const int NumbersOfPort = 2;

    private readonly SortedDictionary<ushort, PciHostBridge> _hosts = [];
    private readonly IdAllocator _ports = new(255);
    // Somebody waits for what a scan makes of a slot.
    private TaskCompletionSource? _changed;

    /// <summary>Guards all that is here, and what slots, segments and host bridges say is guarded by it.</summary>
    internal Lock Topology { get; } = new();

    internal PciHostBridge[] Hosts
    {
        get
        {
            lock (Topology)
                return [.. _hosts.Values];
        }
    }

    internal void AddHost(PciHostBridge host)
    {
        lock (Topology)
            _hosts[host.Domain] = host;
    }

    /// <summary>Takes a place for a new root port.</summary>
    internal PciSlot ReservePort(Device parent, int? device)
    {
        var segment = FindSegment(parent);
        lock (Topology)
        {
            var number = device ?? LowestFree(segment, parent);
            var port = (byte)_ports.Allocate();
            try
            {
                var slot = Reserve(segment, number, 0, new PciRootPort((byte)(port + 1)));
                slot.Port = port;
                slot.IsOwned = true;
                return slot;
            }
            catch
            {
                _ports.Free(port);
                throw;
            }
        }
    }

    /// <summary>Takes a place below a bridge for a function.</summary>
    internal PciSlot Reserve(Device parent, IPciFunction function, int? device, int functionNumber)
    {
        var segment = FindSegment(parent);
        lock (Topology)
            return Reserve(segment, device ?? LowestFree(segment, parent), functionNumber, function);
    }

    /// <summary>
    /// Takes the slot of the first port that is empty, or of the one that leads to a place; null when none is. A port can be added to the host bridge then, if there is one at least.
    /// </summary>
    internal PciSlot? ReserveEmptyPort(IPciFunction function, string? label, bool isOwned, PciAddress? place, out PciHostBridge? host)
    {
        lock (Topology)
        {
            host = _hosts.Values.FirstOrDefault(static h => h.State == DeviceState.Added);
            if (label is not null && FindInGate(s => s.Label == label) is { } other)
                throw new VirtbusException(Errno.EEXIST, $"The function at {other.Address} is called '{label}' already. Choose another name.");
            foreach (var port in host?.Root.Slots.Values ?? Enumerable.Empty<PciSlot>())
            {
                if (port is not { Secondary: { Slots.Count: 0 } behind, Device.State: DeviceState.Added } || (place is { } wanted && wanted.Bus != behind.Number))
                    continue;
                var slot = Reserve(behind, 0, 0, function, label);
                slot.IsOwned = isOwned;
                return slot;
            }
            return null;
        }
    }

    /// <summary>
    /// Whether a port of a host bridge leads to a bus of that number, or of a higher one: no port that is added leads there then. When it is empty and has no
    /// device yet, it is coming: it is there, or another one has come, when the task ends.
    /// </summary>
    internal bool HasPortFrom(PciHostBridge host, int number, out Task? coming)
    {
        lock (Topology)
        {
            coming = null;
            var isFrom = false;
            foreach (var port in host.Root.Slots.Values.Where(static p => p.Port is not null))
            {
                isFrom |= port.Secondary is { } there && there.Number >= number;
                var isWanted = port.Secondary is null || (port.Secondary.Number == number && port.Secondary.Slots.Count == 0);
                // It came since somebody looked for it.
                if (isWanted && port.Device?.State == DeviceState.Added)
                    coming = Task.CompletedTask;
                else if (isWanted && port.IsScanning)
                    coming ??= NextChange();
            }
            return isFrom || coming is not null;
        }
    }

    /// <summary>Ends when a slot that is being scanned may have its device, or is scanned no more; at once when it has one or is not scanned.</summary>
    internal Task UntilDevice(PciSlot slot)
    {
        lock (Topology)
            return slot is { IsScanning: true, Device: null, IsEmpty: false } ? NextChange() : Task.CompletedTask;
    }

    // Under the topology lock, as what tells of it.
    private Task NextChange() => (_changed ??= new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously)).Task;

    private void TellChange()
    {
        _changed?.SetResult();
        _changed = null;
    }

    /// <summary>The slot that a function is in, with the device that stands for it now.</summary>
    internal PciSlot? Find(Func<PciSlot, bool> isWanted, out PciDevice? device)
    {
        lock (Topology)
        {
            var slot = FindInGate(isWanted);
            device = slot?.Device;
            return slot;
        }
    }

    /// <summary>A device left: its place and its addresses are free again.</summary>
    internal void Forget(PciDevice device)
    {
        lock (Topology)
        {
            if (device.PhysicalFunction is not null)
            {
                device.Segment.Host.VirtualIds.Remove(device.Address.RoutingId);
                return;
            }
            PciScan.Release(device);
            device.Segment.Withdraw();
            if (device.Slot is not { } slot)
                return;
            if (slot.Device == device)
                slot.Device = null;
            if (slot.Device is null)
                slot.Group = null;
        }
    }

    internal bool IsAloneOnBus(PciDevice device)
    {
        if (device.PhysicalFunction is not null || device.IsBridge || device.VirtualFunctions.Count > 0)
            return false;
        lock (Topology)
        {
            // On a root bus every slot has a reset line of its own.
            var isRoot = device.Segment.BridgeSlot is null;
            return device.Segment.Slots.Values.All(s => s == device.Slot || (isRoot && s.DevFn >> 3 != device.Address.Device));
        }
    }

    /// <summary>Takes the routing ids of virtual functions, from that of the first one on.</summary>
    /// <exception cref="VirtbusException">ENOSPC, EEXIST: one is not free; none is taken then.</exception>
    internal ushort[] TakeVirtualIds(PciDevice device, int first, int stride, int count)
    {
        var ids = new ushort[count];
        var host = device.Segment.Host;
        lock (Topology)
        {
            for (var i = 0; i < count; i++)
            {
                try
                {
                    ids[i] = TakeVirtualId(device, first + (stride * i), i);
                }
                catch
                {
                    host.VirtualIds.ExceptWith(ids[..i]);
                    throw;
                }
            }
        }
        return ids;
    }

    internal void FreeVirtualIds(PciDevice device, ReadOnlySpan<ushort> ids)
    {
        lock (Topology)
            device.Segment.Host.VirtualIds.ExceptWith(ids.ToArray());
    }

    /// <summary>From now on no scan gives the hardware a new device. False when another one stands for it already.</summary>
    internal bool TryBeginLeave(PciSlot slot, PciDevice? device)
    {
        lock (Topology)
        {
            if (slot.Device is { } now ? now != device : slot.IsScanning)
                return false;
            slot.Leaves++;
            return true;
        }
    }

    /// <summary>The hardware stays after all.</summary>
    internal void EndLeave(PciSlot slot)
    {
        lock (Topology)
            slot.Leaves--;
    }

    /// <summary>The hardware is out of its slot, and all that is behind it.</summary>
    internal void Empty(PciSlot slot)
    {
        var owned = new List<IPciFunction>();
        lock (Topology)
            Empty(slot, owned);
        // Under no lock: one that another process serves waits for who is in a call to it.
        foreach (var function in owned)
            function.Dispose();
    }

    // Under the topology lock.
    private void Empty(PciSlot slot, List<IPciFunction> owned)
    {
        if (slot.IsEmpty)
            return;
        slot.IsEmpty = true;
        TellChange();
        slot.Function.SetLostCallback(null);
        slot.Segment.Slots.Remove(slot.DevFn);
        if (slot.Segment.Slots.Count == 0)
            ShowPresence(slot.Segment, false);
        if (slot.IsOwned)
            owned.Add(slot.Function);
        if (slot.Port is { } port)
            _ports.Free((uint)port);
        if (slot.Secondary is not { } behind)
            return;
        foreach (var inner in behind.Slots.Values.ToArray())
            Empty(inner, owned);
        for (var n = behind.Number; n <= behind.Subordinate; n++)
        {
            if (behind.Host.Owners[n] == behind)
                behind.Host.Owners[n] = slot.Segment.BridgeSlot is null ? null : slot.Segment;
        }
    }

    /// <summary>Begins to make the device of a slot, below the bridge above and in the IOMMU group of what is beside it.</summary>
    /// <exception cref="VirtbusException">ENODEV: the bridge above has no device.</exception>
    internal PciGroup BeginScan(PciSlot slot, out Device parent)
    {
        lock (Topology)
        {
            slot.IsScanning = true;
            parent = slot.Segment.Parent
                ?? throw new VirtbusException(Errno.ENODEV, $"Slot {slot.Address} can't be scanned: the bridge above has no device. Rescan the bus above first.");
            var group = slot.Segment.Slots.Values.FirstOrDefault(s => s.Group is not null && s.DevFn >> 3 == slot.DevFn >> 3)?.Group ?? new PciGroup(bus);
            return slot.Group = group.Join();
        }
    }

    internal void EndScan(PciSlot slot)
    {
        lock (Topology)
        {
            slot.IsScanning = false;
            TellChange();
        }
    }

    /// <summary>Gives a device its addresses, and a bridge its bus numbers; the device stands for the slot from here on.</summary>
    /// <returns>The indexes of what got no address, as <see cref="PciScan.Assign"/> says.</returns>
    internal List<int> Assign(PciDevice device, PciSlot slot)
    {
        lock (Topology)
        {
            if (device.IsBridge && slot.Secondary is null)
            {
                var wanted = slot.Segment.BridgeSlot is null ? NumbersOfPort : 1;
                if (!slot.Segment.TryTakeNumbers(wanted, out var first))
                    throw new VirtbusException(Errno.ENOSPC, $"Bridge {device.Name} gets no bus number: all of {slot.Segment.Parent?.Name} are taken. Unplug a bridge first.");
                slot.Secondary = new PciSegment(slot.Segment.Host, slot, first, first + wanted - 1);
                for (var n = first; n < first + wanted; n++)
                    slot.Segment.Host.Owners[n] = slot.Secondary;
            }
            var without = PciScan.Assign(device);
            slot.Device = device;
            TellChange();
            return without;
        }
    }

    internal PciSlot[] SlotsOf(PciSegment segment)
    {
        lock (Topology)
            return [.. segment.Slots.Values];
    }

    /// <summary>Whether a rescan has to make the device of a slot; the scan has begun then. Its hardware may have gone while it had no device.</summary>
    internal bool TryBeginRescan(PciSlot slot, out bool isLost)
    {
        lock (Topology)
        {
            var isFree = slot is { Device: null, IsScanning: false, IsEmpty: false, Leaves: 0 };
            isLost = isFree && !slot.Function.IsPresent;
            var isNew = isFree && !isLost && slot.Segment.Parent is { State: DeviceState.Added };
            slot.IsScanning |= isNew;
            return isNew;
        }
    }

    /// <summary>The devices behind a bridge, nearest first, with their virtual functions.</summary>
    internal List<PciDevice> Below(PciDevice device)
    {
        var found = new List<PciDevice>();
        lock (Topology)
            Collect(device.Slot?.Secondary);
        return found;

        void Collect(PciSegment? segment)
        {
            foreach (var slot in segment?.Slots.Values ?? Enumerable.Empty<PciSlot>())
            {
                if (slot.Device is { } there)
                    found.AddRange([there, .. there.VirtualFunctions]);
                Collect(slot.Secondary);
            }
        }
    }

    private static ushort TakeVirtualId(PciDevice device, int id, int index)
    {
        var host = device.Segment.Host;
        var bus = id >> 8;
        if (bus != device.Segment.Number && !device.Segment.TryReach(bus))
            throw new VirtbusException(Errno.ENOSPC, $"Device {device.Name}: virtual function {index} would be on bus {bus:x2}, which is not free. Plug the device behind another port.");
        if ((bus == device.Segment.Number && device.Segment.Slots.ContainsKey(id & 0xFF)) || !host.VirtualIds.Add((ushort)id))
            throw new VirtbusException(Errno.EEXIST, $"Device {device.Name}: virtual function {index} would be at {PciAddress.FromRoutingId(host.Domain, (ushort)id)}, which is taken. Plug the device behind a port of its own.");
        return (ushort)id;
    }

    private PciSegment FindSegment(Device parent)
    {
        ArgumentNullException.ThrowIfNull(parent);
        lock (Topology)
        {
            return parent switch
            {
                PciHostBridge host when _hosts.TryGetValue(host.Domain, out var there) && there == host => host.Root,
                PciDevice { Slot.Secondary: { } behind } bridge when bridge.PciBus == bus => behind,
                _ => throw new VirtbusException(Errno.EINVAL, $"Device {parent.Name} is no bridge of this PCI bus. Name a host bridge or a port."),
            };
        }
    }

    // Device 0 of a root bus is where a PC has its host bridge.
    private static int LowestFree(PciSegment segment, Device parent)
    {
        for (var number = segment.BridgeSlot is null ? 1 : 0; number < 32; number++)
        {
            if (Enumerable.Range(number << 3, 8).All(d => !IsTaken(segment, d)))
                return number;
            // One link leads to one device; other numbers behind a port are functions of it.
            if (segment.BridgeSlot is not null)
                break;
        }
        throw new VirtbusException(Errno.ENOSPC, $"Every slot of {parent.Name} is taken. Unplug a device or add a port.");
    }

    private static bool IsTaken(PciSegment segment, int devfn) =>
        segment.Slots.ContainsKey(devfn) || segment.Host.VirtualIds.Contains((ushort)((segment.Number << 8) | devfn));

    private static PciSlot Reserve(PciSegment segment, int device, int functionNumber, IPciFunction function, string? label = null)
    {
        if (device is < 0 or > 31 || functionNumber is < 0 or > 7)
            throw new VirtbusException(Errno.EINVAL, $"{device:x2}.{functionNumber:x} is no place on a bus: devices are 0 to 31, functions 0 to 7.");
        var slot = new PciSlot(segment, (device << 3) | functionNumber, function) { IsScanning = true, Label = label };
        if (IsTaken(segment, slot.DevFn))
            throw new VirtbusException(Errno.EEXIST, $"Slot {slot.Address} is taken. Unplug what is there or choose another one.");
        segment.Slots.Add(slot.DevFn, slot);
        ShowPresence(segment, true);
        return slot;
    }

    // A port of the bus's own kind shows whether its slot is taken.
    private static void ShowPresence(PciSegment segment, bool present) => (segment.BridgeSlot?.Function as PciRootPort)?.SetPresence(present);

    // Under the topology lock.
    private PciSlot? FindInGate(Func<PciSlot, bool> isWanted) => _hosts.Values.Select(h => FindIn(h.Root, isWanted)).FirstOrDefault(static s => s is not null);

    private static PciSlot? FindIn(PciSegment segment, Func<PciSlot, bool> isWanted)
    {
        foreach (var slot in segment.Slots.Values)
        {
            if (isWanted(slot))
                return slot;
            if (slot.Secondary is { } behind && FindIn(behind, isWanted) is { } inner)
                return inner;
        }
        return null;
    }
}
