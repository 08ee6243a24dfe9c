using Virtbus.Buses.Virtio;
using Virtbus.Core;
using Virtbus.Drivers.VirtioConsole;

[assembly: FabricModule("virtio_console", typeof(VirtioConsoleModule), Description = "Consoles on the virtio bus")]

namespace Virtbus.Drivers.VirtioConsole;

/// <summary>Registers the driver.</summary>
public sealed class VirtioConsoleModule : IFabricModule
{
    /// <inheritdoc/>
    public ValueTask InitAsync(ModuleContext context)
    {
        ArgumentNullException.ThrowIfNull(context);
        return context.RegisterDriverAsync(new VirtioConsoleDriver(context.Fabric.GetBus<VirtioBus>(), context.Name));
    }
}
