using Virtbus.Core;
using Virtbus.Platform;

namespace Virtbus.Tests.Core.Simulation;

internal interface ISimIdentity : IDeviceIdentity
{
    int Kind { get; }
}

internal sealed class SimDevice(string name, uint id, int kind, Device? parent, Bus? bus, Class? @class) : Device(name, parent, bus, @class), ISimIdentity
{
    public uint Id { get; } = id;

    public int Kind { get; } = kind;

    public Bound Model { get; set; }

    public SimDriver? By { get; set; }

    /// <summary>The callback that runs now; two at a time are a failure.</summary>
    public string? Running { get; set; }

    public bool RuntimeRunning { get; set; }

    public Stack<int> Kept { get; } = new();

    public int Configured { get; set; }

    public int Powered { get; set; }

    public int Sleep { get; set; }

    public bool CreatorHolds { get; set; } = true;

    public int Held { get; set; }

    public int Releases { get; set; }

    public bool EverRemoved { get; set; }

    public bool EverOverridden { get; set; }

    public int Uses { get; set; }

    public long AddedAt { get; set; }
}

internal sealed record SimId(int Kind) : DeviceId((ulong)Kind);

internal sealed class SimBus(Simulation sim, string name, bool keyed) : Bus(name), IPowerDomain
{
    public override bool HasDriverOverride => true;

    public override DeviceId? Match(IDeviceIdentity device, Driver driver) =>
        device is ISimIdentity sim && driver is SimDriver d && d.Kinds.Contains(sim.Kind) ? new SimId(sim.Kind) : null;

    protected internal override DeviceId? MatchOverride(IDeviceIdentity device, Driver driver) => device is ISimIdentity sim ? new SimId(sim.Kind) : null;

    protected internal override string? MatchKey(IDeviceIdentity device) => keyed ? ((ISimIdentity)device).Kind.ToString() : null;

    protected internal override IReadOnlyCollection<string>? MatchKeys(Driver driver) =>
        keyed ? [.. ((SimDriver)driver).Kinds.Select(k => k.ToString())] : null;

    // For two kinds there is a module.
    protected internal override string? GetModalias(Device device) => device is SimDevice { Kind: <= 2 } sim ? $"{Name}:{sim.Kind}" : null;

    protected internal override async ValueTask ConfigureAsync(Device device, Driver driver)
    {
        sim.Configure(device);
        await sim.PauseAsync();
        if (sim.Chance(40))
        {
            sim.RefusedByBus((SimDevice)device);
            throw new VirtbusException(Errno.EBUSY, "configure");
        }
        ((SimDevice)device).Configured++;
    }

    protected internal override ValueTask UnconfigureAsync(Device device, Driver driver)
    {
        ((SimDevice)device).Configured--;
        return sim.Chance(40) ? throw new InvalidOperationException("unconfigure") : default;
    }

    protected internal override IPowerDomain? GetPowerDomain(Device device) => ((SimDevice)device).Kind % 2 == 0 ? this : null;

    public ValueTask AttachAsync(Device device)
    {
        if (sim.Chance(40))
        {
            sim.RefusedByBus((SimDevice)device);
            throw new VirtbusException(Errno.EIO, "power");
        }
        ((SimDevice)device).Powered++;
        return default;
    }

    public ValueTask DetachAsync(Device device)
    {
        ((SimDevice)device).Powered--;
        return sim.Chance(40) ? throw new InvalidOperationException("detach") : default;
    }
}

internal sealed class SimDriver(Simulation sim, SimBus bus, string name, int[] kinds) : Driver(name), IPowerOps
{
    public override Bus Bus { get; } = bus;

    public int[] Kinds { get; } = kinds;

    /// <summary>Its probes neither fail nor ask to be tried again, except for what they need.</summary>
    public bool IsReliable { get; init; }

    /// <summary>The kind of which a device must be bound somewhere; 0 for none.</summary>
    public int Needs { get; init; }

    public bool MakesChildren { get; init; }

    /// <summary>From before its registration to after its unregistration.</summary>
    public bool MayProbe { get; set; }

    protected internal override ValueTask ProbeAsync(Device device, DeviceId id, CancellationToken cancellationToken) =>
        sim.ProbeAsync(this, (SimDevice)device, (SimId)id, cancellationToken);

    protected internal override ValueTask RemoveAsync(Device device) => sim.RemoveAsync(this, (SimDevice)device);

    protected internal override IPowerOps? PowerOps => this;

    public ValueTask PrepareAsync(Device device) => sim.SleepAsync(this, (SimDevice)device, 0, 1);

    public ValueTask SuspendAsync(Device device) => sim.SleepAsync(this, (SimDevice)device, 1, 2);

    public ValueTask SuspendLateAsync(Device device) => sim.SleepAsync(this, (SimDevice)device, 2, 3);

    public ValueTask SuspendNoIrqAsync(Device device) => sim.SleepAsync(this, (SimDevice)device, 3, 4);

    public ValueTask ResumeNoIrqAsync(Device device) => sim.SleepAsync(this, (SimDevice)device, 4, 3);

    public ValueTask ResumeEarlyAsync(Device device) => sim.SleepAsync(this, (SimDevice)device, 3, 2);

    public ValueTask ResumeAsync(Device device) => sim.SleepAsync(this, (SimDevice)device, 2, 1);

    public ValueTask CompleteAsync(Device device) => sim.SleepAsync(this, (SimDevice)device, 1, 0);

    public ValueTask RuntimeSuspendAsync(Device device) => sim.RuntimeAsync((SimDevice)device);

    public ValueTask RuntimeResumeAsync(Device device) => sim.RuntimeAsync((SimDevice)device);
}

/// <summary>Told of class devices; each comes once and goes once.</summary>
internal sealed class SimObserver(Simulation sim) : IClassObserver
{
    private readonly HashSet<Device> _known = [];
    private readonly HashSet<Device> _running = [];

    public int Known => _known.Count;

    public async ValueTask DeviceAddedAsync(Device device)
    {
        sim.Require(_running.Add(device), $"{device} is announced while it is announced or taken back");
        sim.Require(_known.Add(device), $"{device} is announced twice");
        await sim.PauseAsync();
        _running.Remove(device);
    }

    public async ValueTask DeviceRemovedAsync(Device device)
    {
        sim.Require(_running.Add(device), $"{device} is taken back while it is announced or taken back");
        sim.Require(_known.Remove(device), $"{device} is taken back but was not announced");
        await sim.PauseAsync();
        _running.Remove(device);
    }
}
