using System.Collections.Concurrent;
using Microsoft.Extensions.Logging;
using Virtbus.Buses.Auxiliary;
using Virtbus.Core;
using Virtbus.Subsystems.Vfio;

namespace Virtbus.Tests;

/// <summary>
/// A fabric with one device on the virtual bus, whose driver registers it with VFIO: the subsystem knows nothing of PCI (VS-12).
/// </summary>
internal sealed class VfioWorld
{
    private VfioWorld(FabricScheduler? scheduler)
    {
        Fabric = new Fabric(new FabricOptions { LoggerFactory = Lines, Time = Time, Scheduler = scheduler ?? FabricScheduler.ThreadPool });
        Bus = Fabric.RegisterBus(new AuxiliaryBus());
        Driver = new FakeDriver(this);
    }

    public ManualTime Time { get; } = new();

    public RecordedLog Lines { get; } = new();

    public Fabric Fabric { get; }

    public AuxiliaryBus Bus { get; }

    public FakeOps Ops { get; private init; } = new();

    public FakeDriver Driver { get; }

    public AuxiliaryDevice Parent { get; private set; } = null!;

    public VfioDevice Device => Driver.Registered!;

    public static async Task<VfioWorld> NewAsync(FakeOps? ops = null, FabricScheduler? scheduler = null)
    {
        var world = new VfioWorld(scheduler) { Ops = ops ?? new FakeOps() };
        var root = new Device("root");
        await world.Fabric.AddAsync(root);
        await world.Fabric.RegisterDriverAsync(world.Driver);
        world.Parent = new AuxiliaryDevice(world.Bus, "mod", "part", 0, root);
        await world.Fabric.AddAsync(world.Parent);
        return world;
    }

    public VfioHandle Open(string user = "web1")
    {
        Assert.True(Device.TryOpen(user, out var handle, out var fault), fault.Message);
        return handle!;
    }

    /// <summary>The next request of a driver that wants its device back.</summary>
    public Task NextRequest()
    {
        var came = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        Ops.OnRequest = _ => came.TrySetResult();
        return came.Task.In();
    }

    internal sealed class FakeDriver(VfioWorld world) : AuxiliaryDriver<AuxiliaryDevice>(world.Bus, "test", "vfio-test", new AuxiliaryDeviceId("mod.part"))
    {
        public VfioDevice? Registered { get; private set; }

        protected override async ValueTask ProbeAsync(AuxiliaryDevice device, AuxiliaryDeviceId id, CancellationToken cancellationToken) =>
            Registered = await VfioSubsystem.Of(world.Fabric).RegisterAsync(device, device.Name, world.Ops);

        protected override ValueTask RemoveAsync(AuxiliaryDevice device) => VfioSubsystem.Of(world.Fabric).UnregisterAsync(Registered!);
    }
}
