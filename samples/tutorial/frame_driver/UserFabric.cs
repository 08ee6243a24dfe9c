using Virtbus.Buses.Auxiliary;
using Virtbus.Buses.Pci;
using Virtbus.Buses.Virtio;
using Virtbus.Core;
using Virtbus.Platform;
using Virtbus.Remote.Pci.HostVfio;
using Virtbus.Remote.Pci.VfioUser;
using Virtbus.Subsystems.Net;

namespace FrameDriver;

/// <summary>A fabric of this program's own, for PCI functions that are elsewhere and the drivers that a folder of modules has for them.</summary>
internal sealed class UserFabric : IAsyncDisposable
{
    private readonly ModuleLoader _modules;

    /// <param name="modules">The folder of the drivers.</param>
    /// <exception cref="VirtbusException">Others can write the folder.</exception>
    public UserFabric(string modules)
    {
        Fabric.RegisterBus(new AuxiliaryBus());
        Pci = Fabric.RegisterBus(new PciBus());
        Fabric.RegisterBus(new VirtioBus());
        Pci.AddProvider(new HostFunctionProvider());
        Pci.AddProvider(new VfioUserFunctionProvider());
        _modules = new ModuleLoader(Fabric, modules, watch: false);
    }

    public Fabric Fabric { get; } = new();

    public PciBus Pci { get; }

    /// <summary>Takes a function and lets the drivers have it.</summary>
    /// <param name="provider">Where it comes from: <c>vfio-user</c> or <c>host</c>.</param>
    /// <param name="function">Its name there: the path of a socket, or the address of a function that the host's vfio-pci has.</param>
    /// <exception cref="VirtbusException">It can't be opened, or no driver has it.</exception>
    public async Task<PciDevice> OpenAsync(string provider, string function)
    {
        if (Pci.HostBridges.Count == 0)
            await Pci.AddHostBridgeAsync();
        var device = await Pci.PlugAsync(provider, function);
        // The module comes by the function's ids, its driver probes, and so on up to what the function is.
        await Fabric.SettleAsync();
        return device.Driver is not null
            ? device
            : throw new VirtbusException(Errno.ENODEV, device.ProbeFailure ?? $"Function '{function}' is a {device.VendorId:x4}:{device.DeviceId:x4}, for which no module has a driver.");
    }

    /// <summary>The interface that a function is.</summary>
    /// <exception cref="VirtbusException">It is none.</exception>
    public NetDevice InterfaceOf(PciDevice function) =>
        NetSubsystem.Of(Fabric).Class.Devices.OfType<NetDevice>().FirstOrDefault(d => d.DevPath.StartsWith(function.DevPath + "/", StringComparison.Ordinal))
        ?? throw new VirtbusException(Errno.ENODEV, $"Function {function.Name} is no network interface.");

    /// <summary>Gives the functions back, which are reset.</summary>
    public async ValueTask DisposeAsync()
    {
        _modules.Dispose();
        await Pci.UnplugOpenedAsync();
        foreach (var device in Fabric.RootDevices)
            await Fabric.DeleteAsync(device);
    }
}
