using Virtbus.Buses.Auxiliary;
using Virtbus.Core;
using Virtbus.Platform;

[assembly: FabricModule("cli_demo", typeof(Virtbus.Tests.Cli.Module.CliDemo), Description = "Drivers for tests of the command line")]

namespace Virtbus.Tests.Cli.Module;

/// <summary>A driver that binds, one whose probe fails, and one whose probe waits for ever.</summary>
public sealed class CliDemo : IFabricModule
{
    public async ValueTask InitAsync(ModuleContext context)
    {
        var bus = context.Fabric.GetBus<AuxiliaryBus>();
        await context.RegisterDriverAsync(new PartDriver(bus));
        await context.RegisterDriverAsync(new BadDriver(bus));
        await context.RegisterDriverAsync(new LaterDriver(bus));
    }

    [AuxiliaryDeviceTable("demo.part")]
    private sealed class PartDriver(AuxiliaryBus bus) : AuxiliaryDriver<AuxiliaryDevice>(bus, "cli_demo", "part")
    {
        protected override ValueTask ProbeAsync(AuxiliaryDevice device, AuxiliaryDeviceId id, CancellationToken cancellationToken) => default;
    }

    [AuxiliaryDeviceTable("demo.bad")]
    private sealed class BadDriver(AuxiliaryBus bus) : AuxiliaryDriver<AuxiliaryDevice>(bus, "cli_demo", "bad")
    {
        protected override ValueTask ProbeAsync(AuxiliaryDevice device, AuxiliaryDeviceId id, CancellationToken cancellationToken) =>
            throw new VirtbusException(Errno.EIO, "the part does not answer.");
    }

    [AuxiliaryDeviceTable("demo.later")]
    private sealed class LaterDriver(AuxiliaryBus bus) : AuxiliaryDriver<AuxiliaryDevice>(bus, "cli_demo", "later")
    {
        protected override ValueTask ProbeAsync(AuxiliaryDevice device, AuxiliaryDeviceId id, CancellationToken cancellationToken) =>
            throw new ProbeDeferException("the clock is missing");
    }
}
