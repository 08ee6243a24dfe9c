using Virtbus.Buses.Auxiliary;
using Virtbus.Core;
using Virtbus.Daemon.Manifest;

namespace Virtbus.Daemon.Provisioning;

/// <summary>The plain devices that a manifest puts on the virtual bus.</summary>
internal sealed class DeviceGroups(Fabric fabric, AuxiliaryBus bus) : IAsyncDisposable
{
    private const uint DevicesAStep = 10_000;
    private readonly Dictionary<string, Device> _roots = [];
    private readonly Stack<Device> _made = new();

    /// <summary>Makes the devices of a group.</summary>
    /// <param name="group">The group.</param>
    /// <param name="parent">The device above them; a device at the root, named like the group's module, when null.</param>
    /// <param name="progress">Told now and then how far it is.</param>
    /// <param name="cancellationToken">Ends the work between two devices.</param>
    public async ValueTask AddAsync(DeviceManifest group, Device? parent, Action<string> progress, CancellationToken cancellationToken)
    {
        parent ??= await RootAsync(group.Module);
        for (var id = 0u; id < group.Count; id++)
        {
            cancellationToken.ThrowIfCancellationRequested();
            if (id > 0 && id % DevicesAStep == 0)
                progress($"{id} of {group.Count} devices {group.Module}.{group.Name}");
            await AddAsync(new AuxiliaryDevice(bus, group.Module, group.Name, id, parent));
        }
    }

    public async ValueTask DisposeAsync()
    {
        while (_made.TryPop(out var device))
            await fabric.UnregisterAsync(device);
        _roots.Clear();
    }

    private async ValueTask<Device> RootAsync(string name)
    {
        if (_roots.TryGetValue(name, out var root))
            return root;
        root = new Device(name);
        await AddAsync(root);
        _roots.Add(name, root);
        return root;
    }

    private async ValueTask AddAsync(Device device)
    {
        await fabric.RegisterAsync(device);
        _made.Push(device);
    }
}
