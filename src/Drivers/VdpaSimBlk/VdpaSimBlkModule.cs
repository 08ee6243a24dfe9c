using Virtbus.Buses.Vdpa;
using Virtbus.Core;
using Virtbus.Drivers.VdpaSimBlk;

[assembly: FabricModule("vdpa_sim_blk", typeof(VdpaSimBlkModule), Description = "vDPA disks in memory, with no hardware below")]

namespace Virtbus.Drivers.VdpaSimBlk;

/// <summary>Registers a management device that makes simulated disks. It has no alias: it is loaded by name.</summary>
public sealed class VdpaSimBlkModule : IFabricModule
{
    private Device? _device;
    private VdpaManagement? _management;

    /// <inheritdoc/>
    public async ValueTask InitAsync(ModuleContext context)
    {
        ArgumentNullException.ThrowIfNull(context);
        var bus = context.Fabric.GetBus<VdpaBus>();
        _device = await context.Fabric.RegisterAsync(new Device("vdpasim_blk"));
        _management = bus.RegisterManagement(_device, new VdpaSimBlkOps());
    }

    /// <inheritdoc/>
    public async ValueTask ExitAsync()
    {
        // Its disks go first, with the users that have them open.
        if (_management is not null)
            await _management.Bus.UnregisterManagementAsync(_management);
        if (_device is not null)
            await _device.Fabric!.UnregisterAsync(_device);
    }
}
