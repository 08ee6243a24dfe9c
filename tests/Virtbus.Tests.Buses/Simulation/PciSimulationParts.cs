using Virtbus.Buses.Pci;
using Virtbus.Core;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;
using Virtbus.Subsystems.Vfio;

namespace Virtbus.Tests.Buses.Simulation;

/// <summary>What a simulated PCI driver is like.</summary>
/// <param name="Name">Its name.</param>
/// <param name="IsUser">It leaves DMA to users and offers its devices to VFIO; else it is a driver of the host that does DMA itself.</param>
/// <param name="Fails">Its probes fail at some point, more often than not.</param>
/// <param name="Ids">Device ids that it serves; without any it takes devices by override only.</param>
internal sealed record SimPciKind(string Name, bool IsUser, bool Fails, params ushort[] Ids)
{
    public PciDeviceId[] Table => [.. Ids.Select(static id => new PciDeviceId(SimLayouts.Vendor, id))];
}

internal sealed class SimPciDriver(PciSimulation sim, SimPciKind kind) : PciDriver(sim.Bus, kind.Name, kind.Table)
{
    public SimPciKind Kind => kind;

    /// <summary>From before its registration to after its unregistration.</summary>
    public bool MayProbe { get; set; } = true;

    public override bool IsDmaManagedByUser => kind.IsUser;

    public override Func<PciDevice, int, ValueTask>? ConfigureVirtualFunctions => kind.Fails ? null : sim.ConfigureAsync;

    protected override ValueTask ProbeAsync(PciDevice device, PciDeviceId id, CancellationToken cancellationToken) => sim.ProbeAsync(this, device, cancellationToken);

    protected override ValueTask RemoveAsync(PciDevice device) => sim.RemoveAsync(this, device);
}

/// <summary>Whoever has the DMA of a group for user space.</summary>
internal interface ISimOwner
{
    string Name { get; }
}

/// <summary>Another part of the program that takes the DMA of a function for a user of its own, past VFIO.</summary>
internal sealed class SimSquatter(string name) : ISimOwner
{
    public string Name { get; } = name;
}

/// <summary>Memory that a driver shares with its function. It may outlive the driver that forgot it.</summary>
internal sealed class SimBuffer(PciSimulation sim, SimNode node, DmaBuffer real) : IDisposable
{
    public SimNode Node { get; } = node;

    /// <summary>Of which binding of the device it is.</summary>
    public int Epoch { get; } = node.Epoch;

    public DmaBuffer Real { get; } = real;

    public bool IsFreed { get; private set; }

    /// <summary>The driver forgets to free it when it lets go of the device.</summary>
    public bool IsForgotten { get; set; }

    public void Dispose()
    {
        if (IsForgotten)
            sim.Forgotten.Add(this);
        else
            Free();
    }

    public void Free()
    {
        IsFreed = true;
        Node.Buffers.Remove(this);
        Real.Dispose();
    }
}

/// <summary>A range that a user mapped.</summary>
internal sealed record SimMap(ulong Start, ulong Size, ulong Offset, DmaAccess Access)
{
    public ulong Last => Start + (Size - 1);
}

/// <summary>An address space of a user, and what should be mapped in it.</summary>
internal sealed class SimSpace(string name)
{
    public string Name { get; } = name;

    public IoAddressSpace Real { get; } = new();

    public List<SimMap> Maps { get; } = [];

    public bool IsDisposed { get; private set; }

    public void Dispose()
    {
        IsDisposed = true;
        Maps.Clear();
        Real.Dispose();
    }
}

/// <summary>A device that a user has open.</summary>
internal sealed class SimOpen(SimVfioOps ops, VfioHandle handle, int patience, bool isStubborn)
{
    public SimVfioOps Ops { get; } = ops;

    public VfioHandle Handle { get; } = handle;

    /// <summary>How many requests the user lets pass before it closes.</summary>
    public int Patience { get; } = patience;

    /// <summary>It never closes before it is asked.</summary>
    public bool IsStubborn { get; } = isStubborn;

    public int Asked { get; set; }

    public bool IsClosing { get; set; }

    public bool IsClosed { get; set; }

    public bool IsRevoked { get; set; }
}

/// <summary>Somebody outside the fabric, with address spaces and open devices.</summary>
internal sealed class SimUser(string name)
{
    public string Name { get; } = name;

    public List<SimSpace> Spaces { get; } = [];

    public List<SimOpen> Opens { get; } = [];
}

/// <summary>What the simulation believes of a PCI device.</summary>
internal sealed class SimNode
{
    private readonly IDisposable _observation;

    public SimNode(PciSimulation sim, PciDevice device)
    {
        Device = device;
        Port = device.Dma;
        _observation = Group.Observe(_ => Faults++, () => Told = Group.OwnerKind);
        Told = Group.OwnerKind;
        Faults = Port.Faults;
        Group.KeepsFiles = sim.Next(4) == 0;
        Map = Port.Snapshot();
        Port.SetChangeCallback(_ => TakeMap());
    }

    public PciDevice Device { get; }

    public DmaPort Port { get; }

    public IommuGroup Group => Port.Group;

    /// <summary>What its driver's callbacks were called for.</summary>
    public Bound Model { get; set; }

    public SimPciDriver? By { get; set; }

    /// <summary>The callback that runs now; two at a time are a failure.</summary>
    public string? Running { get; set; }

    /// <summary>Counts bindings, so that what one left behind is told from what the next one made.</summary>
    public int Epoch { get; set; }

    public List<SimBuffer> Buffers { get; } = [];

    /// <summary>Who has the DMA for user space.</summary>
    public ISimOwner? User { get; set; }

    /// <summary>What the owner attached: by PASID, 0 for none.</summary>
    public Dictionary<uint, (SimSpace Space, int Epoch)> Attached { get; } = [];

    public SimVfioOps? Vfio { get; set; }

    /// <summary>The kind of owner that the last notification told of.</summary>
    public DmaOwnerKind Told { get; private set; }

    public long Faults { get; private set; }

    /// <summary>Changes of its virtual functions that its driver has under way.</summary>
    public int Changes { get; set; }

    /// <summary>A virtual function that somebody took out by itself.</summary>
    public bool IsTakenOut { get; set; }

    /// <summary>A picture of what the port reaches, taken at each change, as a function does that does its DMA by itself.</summary>
    public IoMap Map { get; private set; }

    public bool IsInTree => Device is { Sequence: > 0, IsOut: false };

    public ISimFunction Function => (ISimFunction)Device.Function;

    public void Forget()
    {
        Port.SetChangeCallback(null);
        Map.Dispose();
        Map = IoMap.CreateEmpty();
        _observation.Dispose();
    }

    public override string ToString() => Device.Name;

    private void TakeMap()
    {
        Map.Dispose();
        Map = Port.Snapshot();
    }
}

/// <summary>A tool box's ops over a PCI device and its group: claim at open, attach, release at close.</summary>
internal sealed class SimVfioOps(PciSimulation sim, SimNode node) : IVfioDeviceOps, ISimOwner
{
    public const uint Registers = 0;
    public const uint Master = 1;

    public string Name => "vfio of " + node.Device.Name;

    public SimNode Node => node;

    public VfioDevice? Device { get; set; }

    public bool IsOpen { get; private set; }

    /// <summary>Its driver wants it back.</summary>
    public bool IsLeaving { get; set; }

    /// <summary>Its driver does not trust it to anybody any more.</summary>
    public bool IsRevoked { get; set; }

    public int Opens { get; private set; }

    public int Closes { get; private set; }

    /// <summary>Requests since it was opened.</summary>
    public int Requests { get; private set; }

    public TimeSpan LastRequest { get; private set; }

    public long LastRequestStep { get; private set; }

    public VfioDeviceInfo Info => new(CanReset: true, IsPci: false, Regions: 2, Interrupts: 0);

    public IVfioMigrationOps? Migration => null;

    public IVfioDmaLoggingOps? DmaLogging => null;

    public bool TryOpen(VfioOwner user, out Fault fault)
    {
        sim.Require(!IsOpen, $"{node} is opened while it is open");
        if (sim.Chance(12))
        {
            fault = new Fault(Errno.EIO, "no answer");
            return false;
        }
        if (!sim.TryClaim(node, this, out fault))
            return false;
        IsOpen = true;
        Opens++;
        Requests = 0;
        node.Device.Enable();
        if (sim.Next(4) > 0)
            node.Device.SetMaster(true);
        if (sim.Chance(40))
            sim.Revoke(this);
        fault = Fault.None;
        return true;
    }

    public void Close()
    {
        sim.Require(IsOpen, $"{node} is closed while it is not open");
        IsOpen = false;
        Closes++;
        node.Device.SetMaster(false);
        node.Device.TryReset(out _);
        node.Device.Disable();
        sim.Release(node, this);
    }

    public VfioRegionInfo GetRegionInfo(uint index) => new(VfioRegionFlags.Read | VfioRegionFlags.Write, index == Registers ? ISimFunction.RegisterCount * 8u : 1);

    public VfioIrqInfo GetIrqInfo(uint index) => default;

    public bool TryRead(uint region, ulong offset, Span<byte> destination, out Fault fault)
    {
        Used();
        if (region == Master)
            destination[0] = (byte)(node.Port.IsBusMaster ? 1 : 0);
        var done = region == Master || node.Device.GetRegion(0).Read(offset, destination);
        fault = done ? Fault.None : new Fault(Errno.EIO, "not decoded");
        return done;
    }

    public bool TryWrite(uint region, ulong offset, ReadOnlySpan<byte> source, out Fault fault)
    {
        Used();
        if (region == Master)
            node.Device.SetMaster(source[0] != 0);
        var done = region == Master || node.Device.GetRegion(0).Write(offset, source);
        fault = done ? Fault.None : new Fault(Errno.EIO, "not decoded");
        return done;
    }

    public bool TrySetIrqs(in VfioIrqSet set, out Fault fault)
    {
        fault = new Fault(Errno.EINVAL, "no interrupts");
        return false;
    }

    public bool TryReset(out Fault fault)
    {
        Used();
        return node.Device.TryReset(out fault);
    }

    public void Request(int count)
    {
        sim.Require(IsOpen, $"{node} is asked back while nobody has it");
        sim.Require(count == Requests, $"{node} is asked back for the {count + 1}. time after {Requests} times");
        sim.Require(count == 0 || sim.Time.Now - LastRequest >= VfioDevice.RequestInterval, $"{node} is asked back too soon");
        Requests++;
        LastRequest = sim.Time.Now;
        LastRequestStep = sim.Step;
    }

    public bool TryAttach(IoAddressSpace? space, uint? pasid, out Fault fault)
    {
        Used();
        return node.Group.TryAttach(this, pasid is { } number ? node.Port.ForPasid(number) : node.Port, space, out fault);
    }

    public IReadOnlyList<VfioDoorbell> GetDoorbells(uint region)
    {
        Used();
        return [];
    }

    public bool TryAttachDoorbell(uint region, VfioDoorbell doorbell, EventFd? signal, out Fault fault)
    {
        fault = new Fault(Errno.ENOENT, "no doorbells");
        return false;
    }

    private void Used() => sim.Require(IsOpen, $"a call of a user reached {node} while it is not open");
}

/// <summary>Stands for a transport: the devices that users can find.</summary>
internal sealed class SimTransport(PciSimulation sim) : IClassObserver
{
    public List<VfioDevice> Known { get; } = [];

    public async ValueTask DeviceAddedAsync(Device device)
    {
        var vfio = (VfioDevice)device;
        ((SimVfioOps)vfio.Ops).Device = vfio;
        Known.Add(vfio);
        await sim.PauseAsync();
    }

    public async ValueTask DeviceRemovedAsync(Device device)
    {
        sim.Require(Known.Remove((VfioDevice)device), $"{device} goes but was not known");
        sim.Require(!((VfioDevice)device).IsOpen, $"{device} goes while a user has it open");
        await sim.PauseAsync();
    }
}
