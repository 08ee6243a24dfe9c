using System.Collections.Concurrent;
using Microsoft.Extensions.Logging;
using Virtbus.Buses.Auxiliary;
using Virtbus.Core;
using Virtbus.Platform;

namespace Virtbus.Tests;

/// <summary>A fabric with an auxiliary bus, a parent device, and a log of what drivers were called for.</summary>
internal sealed class World
{
    private readonly ConcurrentQueue<string> _calls = new();

    public World(FabricOptions? options = null)
    {
        Lines = new RecordedLog();
        Fabric = new Fabric(options ?? new FabricOptions { LoggerFactory = Lines });
        Bus = Fabric.RegisterBus(new AuxiliaryBus());
        Parent = new Device("parent");
    }

    public Fabric Fabric { get; }

    public AuxiliaryBus Bus { get; }

    public Device Parent { get; }

    public RecordedLog Lines { get; }

    /// <summary>What drivers were called for, in order.</summary>
    public string[] Calls => [.. _calls];

    public static async Task<World> NewAsync(FabricOptions? options = null)
    {
        var world = new World(options);
        await world.Fabric.AddAsync(world.Parent);
        return world;
    }

    public void Say(string call) => _calls.Enqueue(call);

    public void ClearCalls() => _calls.Clear();

    /// <summary>A driver for devices of the match name <c>mod.PART</c>, each PART with driver data 1, 2, …</summary>
    public TestDriver Driver(string name, params string[] parts) =>
        new(this, name, [.. parts.Select((p, i) => new AuxiliaryDeviceId("mod." + p, (ulong)i + 1))]);

    public async Task<TestDriver> RegisterAsync(string name, params string[] parts)
    {
        var driver = Driver(name, parts);
        await Fabric.RegisterDriverAsync(driver);
        return driver;
    }

    public AuxiliaryDevice New(string part, uint id, Device? parent = null, Action<Device>? release = null) =>
        new(Bus, "mod", part, id, parent ?? Parent) { Release = release };

    public async Task<AuxiliaryDevice> AddAsync(string part, uint id, Device? parent = null)
    {
        var device = New(part, id, parent);
        await Fabric.AddAsync(device);
        return device;
    }

    /// <summary>The events since a number as <c>action name</c>.</summary>
    public string[] Events(long after = 0) => [.. Fabric.Uevents.History(after).Select(e => $"{e.ActionName} {e.DevPath[(e.DevPath.LastIndexOf('/') + 1)..]}")];
}

/// <summary>A driver whose callbacks a test writes.</summary>
internal sealed class TestDriver(World world, string name, params AuxiliaryDeviceId[] ids) : AuxiliaryDriver<AuxiliaryDevice>(world.Bus, "test", name, ids)
{
    public Func<AuxiliaryDevice, AuxiliaryDeviceId, CancellationToken, ValueTask>? OnProbe { get; set; }

    public Func<AuxiliaryDevice, ValueTask>? OnRemove { get; set; }

    public IPowerOps? Power { get; set; }

    protected override async ValueTask ProbeAsync(AuxiliaryDevice device, AuxiliaryDeviceId id, CancellationToken cancellationToken)
    {
        world.Say($"{Name} probe {device.Name} {id.DriverData}");
        if (OnProbe is not null)
            await OnProbe(device, id, cancellationToken);
    }

    protected override async ValueTask RemoveAsync(AuxiliaryDevice device)
    {
        world.Say($"{Name} remove {device.Name}");
        if (OnRemove is not null)
            await OnRemove(device);
    }

    protected override ValueTask ShutdownAsync(AuxiliaryDevice device)
    {
        world.Say($"{Name} shutdown {device.Name}");
        return default;
    }

    protected internal override IPowerOps? PowerOps => Power;
}
