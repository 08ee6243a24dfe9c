using System.Buffers.Binary;
using Virtbus.Buses.Pci;
using Virtbus.Core;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Pci;
using Virtbus.Platform;
using Virtbus.Subsystems.Vfio;

namespace Virtbus.Tests.Buses.Simulation;

/// <content>What should be true: who owns the DMA of what, which address a function reaches, which functions there are, and what is left at the end.</content>
internal sealed partial class PciSimulation
{
    // Where the host's own address spaces begin: users map the same addresses.
    private const ulong HostBase = 0x10000;
    private const int CommandRegister = 4;
    private const int BusMaster = 4;
    private static readonly TimeSpan LongestWait = TimeSpan.FromMinutes(1);
    private const long LongestWaitInSteps = 3000;

    private readonly List<SimNode> _nodes = [];
    // Without those that nobody refers to any more.
    private readonly List<SimNode> _present = [];
    private readonly Dictionary<PciDevice, SimNode> _byDevice = [];
    private ulong _written;

    public IReadOnlyList<SimNode> Nodes => _nodes;

    private SimNode NodeOf(PciDevice device)
    {
        if (!_byDevice.TryGetValue(device, out var node))
        {
            node = new SimNode(this, device);
            _byDevice.Add(device, node);
            _nodes.Add(node);
            _present.Add(node);
        }
        return node;
    }

    // Ownership.

    /// <summary>A claim for a user: it succeeds if nobody owns the DMA, and is EBUSY else.</summary>
    public bool TryClaim(SimNode node, ISimOwner user, out Fault fault)
    {
        var before = node.Group.OwnerKind;
        var isClaimed = node.Group.TryClaimForUser(user, user.Name, out fault);
        Note("claim", node.Device.Name, isClaimed ? "" : fault.Errno.ToString());
        Require(isClaimed == (before == DmaOwnerKind.None), $"the DMA of {node} belongs to {before} and {user.Name} claimed it: {fault.Errno}");
        Require(isClaimed || fault.Errno == Errno.EBUSY, $"a claim of the DMA of {node} was refused with {fault.Errno}");
        if (isClaimed)
        {
            Require(node.User is null && !Owns(node), $"the DMA of {node} has two owners");
            node.User = user;
            node.Attached.Clear();
        }
        CheckOwner(node);
        return isClaimed;
    }

    public void Release(SimNode node, ISimOwner user)
    {
        node.Group.ReleaseUser(user);
        node.User = null;
        node.Attached.Clear();
        CheckOwner(node);
        Poke(node);
    }

    private void Attach(SimNode node, ISimOwner user, SimSpace space, uint pasid)
    {
        var port = pasid == 0 ? node.Port : node.Port.ForPasid(pasid);
        var done = node.Group.TryAttach(user, port, space.Real, out var fault);
        Require(done || (fault.Errno == Errno.EINVAL && !node.Group.Ports.Contains(node.Port)), $"{user.Name} can't attach {space.Name} to {node}: {fault.Errno}");
        if (done)
            Attached(node, space, pasid);
    }

    private static void Attached(SimNode node, SimSpace? space, uint pasid)
    {
        if (space is null)
            node.Attached.Remove(pasid);
        else
            node.Attached[pasid] = (space, node.Epoch);
    }

    // A driver of the host owns it from before its probe to after its remove.
    private static bool Owns(SimNode node) => node.By is { Kind.IsUser: false };

    private void CheckOwner(SimNode node)
    {
        var group = node.Group;
        var kind = group.OwnerKind;
        Require(node.Told == kind, $"the DMA of {node} belongs to {kind}, but {node.Told} was told");
        if (node.User is { } user)
            Require(kind == DmaOwnerKind.User && group.OwnerName == user.Name, $"{user.Name} has the DMA of {node}, which says {kind} {group.OwnerName}");
        else if (Owns(node))
            Require(kind == DmaOwnerKind.Driver && group.OwnerName == node.By!.Name, $"{node.By} has the DMA of {node}, which says {kind} {group.OwnerName}");
        else if (node.Device.Binding is { State: BindingState.Probing or BindingState.Unbinding, Driver: SimPciDriver { Kind.IsUser: false } })
            Require(kind != DmaOwnerKind.User, $"nobody has the DMA of {node}, which says {kind} {group.OwnerName}");
        else
            Require(kind == DmaOwnerKind.None, $"nobody has the DMA of {node}, which says {kind} {group.OwnerName}");
        Require(node.Vfio is not { IsOpen: true } vfio || node.User == vfio, $"{node} is open and its user does not own its DMA");
    }

    // DMA.

    /// <summary>The function tries to reach memory, as a well-made one does or past all rules, at an address that might be a lucky one.</summary>
    private void Poke(SimNode node)
    {
        var pasid = (uint)(Next(4) == 0 ? Next(3) switch { 0 => 1, 1 => 5, _ => 7 } : 0);
        var target = PickTarget(node);
        var address = target.Address + (8ul * (ulong)Next(3));
        var access = Next(2) == 0 ? DmaAccess.Read : DmaAccess.Write;
        var expected = Reach(node, pasid, address, access, out var where);
        switch (Next(4))
        {
            case 0 when node.IsInTree:
                using (var use = node.Function.Use())
                {
                    if (use.Dma is null)
                    {
                        Require(expected != Errno.None || !node.Function.IsPlugged, $"{node} may do DMA and was not let");
                        break;
                    }
                    Require(use.Dma == node.Port, $"{node.Function} found another port than that of {node}");
                    Access(node, pasid, address, access, expected, where, target);
                }
                node.Function.Raise();
                break;
            case 1 when pasid == 0:
                ReadByMap(node, address, expected, where, access);
                break;
            default:
                Access(node, pasid, address, access, expected, where, target);
                break;
        }
        Claim(node);
    }

    // A change of a space shows to every function that has it attached, at once and whichever way it looks.
    private void LookAt(SimSpace space, ulong address)
    {
        foreach (var node in _present)
        {
            if (!node.Attached.TryGetValue(0, out var attached) || attached.Space != space)
                continue;
            var expected = Reach(node, 0, address, DmaAccess.Read, out var where);
            ReadByMap(node, address, expected, where, DmaAccess.Read);
            Access(node, 0, address, DmaAccess.Read, expected, where, where);
        }
    }

    private void Access(SimNode node, uint pasid, ulong address, DmaAccess access, Errno expected, Backing where, Backing target)
    {
        var port = pasid == 0 ? node.Port : node.Port.ForPasid(pasid);
        var (faults, all) = (port.Faults, node.Faults);
        var tempting = target.IsThere ? Word(target) : 0;
        Span<byte> bytes = stackalloc byte[8];
        bool done;
        if (access == DmaAccess.Read)
        {
            done = port.TryRead(new Iova(address), bytes);
            Require(!done || expected != Errno.None || BinaryPrimitives.ReadUInt64LittleEndian(bytes) == Word(where), $"{node} reads other memory at {address:x} than is there");
        }
        else
        {
            BinaryPrimitives.WriteUInt64LittleEndian(bytes, ++_written);
            done = port.TryWrite(new Iova(address), bytes);
            Require(!done || expected != Errno.None || Word(where) == _written, $"{node} writes to other memory at {address:x} than is there");
        }
        Note("dma", port.Name, done ? "" : port.LastFault?.Fault.Errno.ToString());
        Require(!done || expected == Errno.None, $"{port.Name} did DMA at {address:x} for {access}, which should be {expected} ({Describe(node)})");
        Require(done || expected != Errno.None, $"{port.Name} was refused DMA at {address:x} for {access} with {port.LastFault?.Fault.Errno} ({Describe(node)})");
        var more = done ? 0 : 1;
        Require(port.Faults == faults + more && node.Faults == all + more, $"DMA of {port.Name} was {(done ? "done" : "refused")} and {port.Faults - faults} faults were counted, {node.Faults - all} told");
        if (done)
            return;
        Require(port.LastFault is { } fault && fault.Fault.Errno == expected && fault.Address.Value == address && fault.Access == access, $"DMA of {port.Name} at {address:x} should be {expected}, and its fault is {port.LastFault}");
        Require(!target.IsThere || Word(target) == tempting, $"refused DMA of {port.Name} at {address:x} wrote to memory");
    }

    // What a function does that looks addresses up by itself.
    private void ReadByMap(SimNode node, ulong address, Errno expected, Backing where, DmaAccess access)
    {
        Span<byte> bytes = stackalloc byte[8];
        var hint = 0;
        var done = node.Map.TryTranslate(new Iova(address), 8, access, ref hint, out var run);
        Note("map of", node.Device.Name, done ? "" : expected.ToString());
        Require(done == (expected == Errno.None), $"the map that {node} keeps {(done ? "has" : "has not")} {address:x} for {access}, which should be {expected} ({Describe(node)})");
        if (done && expected == Errno.None)
        {
            run.AsSpan()[..8].CopyTo(bytes);
            Require(BinaryPrimitives.ReadUInt64LittleEndian(bytes) == Word(where), $"the map that {node} keeps leads to other memory at {address:x}");
        }
    }

    /// <summary>Whether a function reaches an address: what its owner allows now, and nothing else.</summary>
    private Errno Reach(SimNode node, uint pasid, ulong address, DmaAccess access, out Backing where)
    {
        where = default;
        if (!node.Port.IsBusMaster)
            return Errno.EPERM;
        if (!node.Group.Ports.Contains(node.Port))
            return Errno.ENODEV;
        // Seen, not believed: between a driver's remove and the end of its binding it may be either. CheckOwner says what may be seen when.
        var owner = node.Group.OwnerKind;
        if (owner == DmaOwnerKind.Driver && pasid == 0)
        {
            foreach (var buffer in node.Buffers)
            {
                if (buffer.Epoch == node.Epoch && address - buffer.Real.Address.Value < buffer.Real.Size)
                {
                    where = new Backing(buffer, address - buffer.Real.Address.Value, address);
                    return Errno.None;
                }
            }
            return Errno.EFAULT;
        }
        if (owner == DmaOwnerKind.None || !node.Attached.TryGetValue(pasid, out var attached) || (owner == DmaOwnerKind.Driver && attached.Epoch != node.Epoch))
            return Errno.ENODEV;
        foreach (var map in attached.Space.Maps)
        {
            if (address < map.Start || address > map.Last)
                continue;
            where = new Backing(null, map.Offset + (address - map.Start), address);
            return map.Access.HasFlag(access) ? Errno.None : Errno.EACCES;
        }
        return Errno.EFAULT;
    }

    private Backing PickTarget(SimNode node)
    {
        // Its own buffers, forgotten ones and those of others, what users mapped, and what nobody has.
        switch (Next(5))
        {
            case 0 or 1 when node.Buffers.Count > 0:
                return Of(node.Buffers[Next(node.Buffers.Count)]);
            case 2 when _nodes[Next(_nodes.Count)] is { Buffers: { Count: > 0 } buffers }:
                return Of(buffers[Next(buffers.Count)]);
            case 3 or 4 when SomeSpace(node) is { Maps: { Count: > 0 } maps }:
                var map = maps[Next(maps.Count)];
                return new Backing(null, map.Offset, map.Start);
            default:
                return new Backing(null, ulong.MaxValue, HostBase + (Page * (ulong)Next(16)));
        }

        static Backing Of(SimBuffer buffer) => new(buffer, 0, buffer.Real.Address.Value);
    }

    private SimSpace? SomeSpace(SimNode node)
    {
        if (node.Attached.Count > 0 && Next(3) > 0)
            return node.Attached.OrderBy(a => a.Key).ElementAt(Next(node.Attached.Count)).Value.Space;
        var user = _users[Next(_users.Length)];
        return user.Spaces.Count == 0 ? null : user.Spaces[Next(user.Spaces.Count)];
    }

    private ulong Word(Backing at)
    {
        if (at.Buffer is { } buffer)
            return BinaryPrimitives.ReadUInt64LittleEndian(buffer.Real.Span[(int)at.Offset..]);
        Span<byte> bytes = stackalloc byte[8];
        _memory.Read(at.Offset, bytes);
        return BinaryPrimitives.ReadUInt64LittleEndian(bytes);
    }

    // A claim against the owner, and at once.
    private void Claim(SimNode node)
    {
        if (Next(6) > 0)
            return;
        var owner = node.Group.OwnerKind;
        if (owner != DmaOwnerKind.None)
        {
            TryClaim(node, new SimSquatter("intruder"), out _);
            Require(!node.Group.TryAttach(this, node.Port, null, out var fault) && fault.Errno == Errno.EPERM, $"somebody who does not own the DMA of {node} detached it: {fault.Errno}");
        }
        if (owner == DmaOwnerKind.User)
        {
            Require(!node.Group.TryClaimForDriver("intruder", out var fault) && fault.Errno == Errno.EBUSY, $"a driver took the DMA of {node} from {node.User?.Name}: {fault.Errno}");
            Require(!node.Group.TryAllocate(Page, out _, out fault) && fault.Errno == Errno.EPERM, $"a driver got memory of {node} while {node.User?.Name} owns it: {fault.Errno}");
            Require(!node.Group.TryAttachPasid(node.Port.ForPasid(1), null, out fault) && fault.Errno == Errno.EPERM, $"a driver attached a PASID of {node} while {node.User?.Name} owns it: {fault.Errno}");
        }
    }

    private static string Describe(SimNode node) =>
        $"owner {node.Group.OwnerKind} {node.Group.OwnerName}, user {node.User?.Name}, {node.Model} with {node.By}, {node.Buffers.Count} buffers, {node.Attached.Count} attached, {node.Device.State}";

    // All devices, seen between two steps.
    private void Check()
    {
        foreach (var device in Bus.Devices.Cast<PciDevice>())
        {
            if (!device.IsBridge)
                NodeOf(device);
        }
        foreach (var node in _present)
            Check(node);
        _present.RemoveAll(static n => n.Device.State == DeviceState.Released && n.User is null);
        CheckEvents();
        for (var i = _beside.Count - 1; i >= 0; i--)
        {
            if (_beside[i].IsCompletedSuccessfully)
                _beside.RemoveAt(i);
        }
    }

    private void Check(SimNode node)
    {
        var device = node.Device;
        var binding = device.Binding;
        CheckOwner(node);
        if (binding.State == BindingState.Bound)
            Require(node.Model == Bound.Yes && node.By == binding.Driver, $"{node} is bound to {binding.Driver}, but the callbacks say {node.Model} {node.By}");
        if (binding.State == BindingState.Unbound)
        {
            Require(node is { Model: Bound.No, Vfio: null }, $"{node} is unbound, but the callbacks say {node.Model} {node.By}");
            Require(node.Buffers.TrueForAll(b => b.IsForgotten), $"{node} is unbound and has buffers");
            Require(device.Vectors.Count == 0, $"{node} is unbound and has interrupt vectors");
        }
        if (node.Vfio is { Device: { } vfio } ops)
            Require(vfio.IsOpen == ops.IsOpen, $"{vfio} is {(vfio.IsOpen ? "" : "not ")}open, but its driver was called otherwise");
        Require(node.Port.Faults == node.Faults, $"{node} counted {node.Port.Faults} faults and told {node.Faults}");
        if (!node.IsInTree)
            return;
        if (device is { IsReachable: true } && node.Function.IsPresent)
        {
            Span<byte> command = stackalloc byte[2];
            node.Function.ReadConfig(CommandRegister, command);
            Require(node.Port.IsBusMaster == ((command[0] & BusMaster) != 0), $"bus mastering of {node} is {node.Port.IsBusMaster}, and its command register says otherwise");
            Require(node.Function.IsPlugged, $"{node} is in the tree and its function is in no slot");
        }
        if (device.PhysicalFunction is { } physical)
            CheckVirtual(node, physical);
        else if (device is { State: DeviceState.Added, IsGone: false, IsLost: false })
            Require(device.Slot is { IsEmpty: false } slot && slot.Device == device, $"{node} is in the tree, but not in a slot");
        if (device.TotalVirtualFunctions > 0)
            CheckPhysical(node);
    }

    private void CheckVirtual(SimNode node, PciDevice physical)
    {
        Require(!physical.IsOut, $"{node} is in the tree, but its physical function {physical} is not");
        Require(physical.Binding.State != BindingState.Unbound, $"{node} is in the tree, but its physical function {physical} has no driver");
        Require(physical.VirtualFunctions.Contains(node.Device), $"{node} is in the tree, but {physical} has no such virtual function");
    }

    // While nothing changes: the functions that are enabled are those in the tree, and those of the hardware.
    private void CheckPhysical(SimNode node)
    {
        var device = node.Device;
        if (node.Changes > 0 || device is not { State: DeviceState.Added, IsReachable: true, Parent.State: DeviceState.Added, Function.IsPresent: true }
            || device.Binding.State is BindingState.Probing or BindingState.Unbinding)
        {
            return;
        }
        var enabled = device.VirtualFunctions;
        var hardware = device.Function.VirtualFunctions;
        Require(enabled.Count == hardware.Count, $"{node} has {enabled.Count} virtual functions enabled, and its hardware {hardware.Count}");
        for (var i = 0; i < enabled.Count && i < hardware.Count; i++)
        {
            var function = NodeOf(enabled[i]);
            Require(function.IsInTree || function.IsTakenOut, $"{function} is enabled, but not in the tree");
            Require(!function.IsInTree || enabled[i].Function == hardware[i], $"{function} stands for another function than the hardware has");
        }
    }

    // Requests repeat: a user who keeps a device that its driver wants back hears of it again.
    private void CheckRequests()
    {
        foreach (var node in _present)
        {
            if (node.Vfio is { IsLeaving: true, IsOpen: true } vfio && !node.Device.IsGone)
            {
                Require(
                    Time.Now - vfio.LastRequest < LongestWait || Step - vfio.LastRequestStep < LongestWaitInSteps,
                    $"{node} is wanted back, and its user was last asked {Time.Now - vfio.LastRequest} ago");
            }
        }
    }

    // A dead handle does nothing, whatever is asked.
    private void CheckDead(SimOpen open)
    {
        var handle = open.Handle;
        Span<byte> bytes = stackalloc byte[8];
        Fault fault;
        var done = Next(6) switch
        {
            0 => handle.TryRead(SimVfioOps.Registers, 0, bytes, out fault),
            1 => handle.TryWrite(SimVfioOps.Registers, 0, bytes, out fault),
            2 => handle.TryReset(out fault),
            3 => handle.TryAttach(null, null, out fault),
            4 => handle.TryGetRegionInfo(0, out _, out fault),
            _ => handle.TryAttachDoorbell(0, default, null, out fault),
        };
        Require(!done && fault.Errno == Errno.ENODEV, $"a handle of {open.Ops.Node} that is closed still works: {fault.Errno}");
        Require(handle.GetDoorbells(0).Count == 0, $"a handle of {open.Ops.Node} that is closed still has doorbells");
    }

    // The end.
    private async Task TakeDownAsync()
    {
        await Task.WhenAll(_beside);
        await Fabric.SettleAsync();
        Check();
        // What was removed but is in its slot comes back, so that it can be taken out.
        await Bus.RescanAsync();
        await Fabric.SettleAsync();
        Check();
        foreach (var node in _nodes.Where(n => n is { IsInTree: true, Device.PhysicalFunction: null }).ToArray())
            await (Next(2) == 0 ? Bus.UnplugAsync(node.Device) : Bus.UnplugAsync(node.Device.Function));
        foreach (var bridge in Bus.Devices.Cast<PciDevice>().Reverse())
            await Bus.UnplugAsync(bridge);
        foreach (var user in _users)
        {
            foreach (var open in user.Opens.ToArray())
                Close(user, open);
        }
        await Task.WhenAll(_beside);
        Check();
        Require(!Slots().Any(), "hardware is left in a slot");
        foreach (var host in Bus.HostBridges)
            await Fabric.DeleteAsync(host);
        foreach (var driver in Bus.Drivers.ToArray())
            await Fabric.UnregisterDriverAsync(driver);
        await Fabric.RemoveClassObserverAsync(_vfio.Class, _transport);
        await Fabric.SettleAsync();
        Check();
    }

    private void CheckNothingLeft()
    {
        foreach (var buffer in Forgotten)
            buffer.Free();
        foreach (var space in _users.SelectMany(u => u.Spaces))
            space.Dispose();
        foreach (var card in _cards)
        {
            Require(!card.IsPlugged, $"{card} is left in a slot");
            card.Dispose();
        }
        Require(!Fabric.AllDevices.Any(), "devices are left in the tree");
        Require(Fabric.DeferredDevices.Count == 0, "devices are left deferred");
        Require(Fabric.Transitions.Waiting == 0, "transitions are waited for");
        Require(Fabric.WorkCount == 0, "work is left");
        Require(Time.Timers == 0, "timers are left");
        Require(_transport.Known.Count == 0, "the transport was not told of a removal");
        Require(VirtualFunctionsAlive == 0, $"{VirtualFunctionsAlive} virtual functions are left");
        foreach (var vfio in _registered)
            Require(vfio is { State: DeviceState.Released, IsOpen: false }, $"{vfio} is left");
        foreach (var node in _nodes)
        {
            Require(node.Device.State == DeviceState.Released, $"{node} is left with {node.Device.References} references");
            Require(node.Group is { OwnerKind: DmaOwnerKind.None, Ports.Count: 0 }, $"the DMA of {node} belongs to {node.Group.OwnerKind} {node.Group.OwnerName}, and it has {node.Group.Ports.Count} ports");
            Require(node.Buffers.Count == 0, $"buffers of {node} are left");
            Require(LastEvent(node.Device.DevPath) is "remove" or null, $"the last event of {node} is not remove");
            node.Forget();
        }
        // The lowest free ones are given first, so they are all of them when none is out.
        for (var i = 0u; i <= (uint)_nodes.Count; i++)
            Require(Bus.AllocateGroup() == i, "a group's number is left");
        Fabric.UnregisterBus(Bus);
        Require(IsLastReference(_memory), "users' memory is mapped by somebody");
    }

    private static bool IsLastReference(HostMemory memory)
    {
        memory.Dispose();
        try
        {
            memory.Acquire();
        }
        catch (ObjectDisposedException)
        {
            return true;
        }
        return false;
    }

    /// <summary>Memory that an address leads to, or might.</summary>
    /// <param name="Buffer">A driver's; null for the users' memory.</param>
    /// <param name="Offset">Where in it.</param>
    /// <param name="Address">The address.</param>
    private readonly record struct Backing(SimBuffer? Buffer, ulong Offset, ulong Address)
    {
        public bool IsThere => Buffer is not null || (Address != 0 && Offset < MemorySize);
    }
}
