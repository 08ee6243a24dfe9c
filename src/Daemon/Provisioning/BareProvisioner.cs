using Virtbus.Core;
using Virtbus.Daemon.Manifest;

namespace Virtbus.Daemon.Provisioning;

/// <summary>Gives each adapter a device without hardware behind it, and disks nothing.</summary>
internal sealed class BareProvisioner(ProvisioningContext context) : IProvisioner
{
    private readonly Stack<Device> _devices = new();

    public IReadOnlyList<DeviceSocket> Sockets => [];

    public async ValueTask<Device> ProvisionAdapterAsync(AdapterManifest adapter, CancellationToken cancellationToken)
    {
        var device = new Device(adapter.Name);
        try
        {
            await context.Fabric.AddAsync(device);
        }
        catch
        {
            device.Put();
            throw;
        }
        _devices.Push(device);
        return device;
    }

    public ValueTask ProvisionDiskAsync(DiskManifest disk, CancellationToken cancellationToken) => default;

    public async ValueTask DisposeAsync()
    {
        while (_devices.TryPop(out var device))
            await context.Fabric.UnregisterAsync(device);
    }
}
