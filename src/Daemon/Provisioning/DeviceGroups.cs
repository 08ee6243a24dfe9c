using Virtbus.Buses.Auxiliary;
using Virtbus.Core;
using Virtbus.Daemon.Manifest;

namespace Virtbus.Daemon.Provisioning;

/// <summary>The plain devices that a manifest puts on the virtual bus.</summary>
internal sealed class DeviceGroups(Fabric fabric, AuxiliaryBus bus) : IAsyncDisposable
{
    private const uint DevicesAStep = 10_000;
    private readonly Dictionary<string, Device> _roots = [];
    // Replaced as a whole: who asks what differs reads it beside a change.
    private IReadOnlyList<(DeviceManifest Group, List<Device> Devices)> _groups = [];

    /// <summary>The groups that there are, by <see cref="KeyOf"/>, in the order in which they were made.</summary>
    public IReadOnlyList<(string Key, DeviceManifest Group)> All => [.. _groups.Select(static g => (KeyOf(g.Group), g.Group))];

    /// <summary>What the names of a group's devices begin with.</summary>
    public static string KeyOf(DeviceManifest group) => $"{group.Module}.{group.Name}";

    /// <summary>Whether a device of a group has a name.</summary>
    public static bool IsIn(DeviceManifest group, string name) =>
        name.Length > KeyOf(group).Length + 1 && name.StartsWith(KeyOf(group) + ".", StringComparison.Ordinal)
            && uint.TryParse(name.AsSpan(KeyOf(group).Length + 1), System.Globalization.NumberStyles.None, null, out var id) && id < group.Count;

    /// <summary>Makes the devices of a group.</summary>
    /// <param name="group">The group.</param>
    /// <param name="parent">The device above them; a device at the root, named like the group's module, when null.</param>
    /// <param name="progress">Told now and then how far it is.</param>
    /// <param name="cancellationToken">Ends the work between two devices.</param>
    public async ValueTask AddAsync(DeviceManifest group, Device? parent, Action<string> progress, CancellationToken cancellationToken)
    {
        parent ??= await RootAsync(group.Module);
        List<Device> devices = [];
        _groups = [.. _groups, (group, devices)];
        try
        {
            for (var id = 0u; id < group.Count; id++)
            {
                cancellationToken.ThrowIfCancellationRequested();
                if (id > 0 && id % DevicesAStep == 0)
                    progress($"{id} of {group.Count} devices {KeyOf(group)}");
                var device = new AuxiliaryDevice(bus, group.Module, group.Name, id, parent);
                await fabric.RegisterAsync<Device>(device);
                devices.Add(device);
            }
        }
        catch
        {
            // A part of a group is none.
            await RemoveAsync(KeyOf(group));
            throw;
        }
    }

    /// <summary>Takes a group away.</summary>
    /// <param name="key">As <see cref="KeyOf"/>.</param>
    public async ValueTask RemoveAsync(string key)
    {
        var (group, devices) = _groups.First(g => KeyOf(g.Group) == key);
        foreach (var device in Enumerable.Reverse(devices))
            await fabric.UnregisterAsync(device);
        _groups = [.. _groups.Where(g => g.Group != group)];
        if (group.Parent is not null || _groups.Any(g => g.Group.Parent is null && g.Group.Module.Value == group.Module.Value))
            return;
        if (_roots.Remove(group.Module, out var root))
            await fabric.UnregisterAsync(root);
    }

    public async ValueTask DisposeAsync()
    {
        foreach (var (key, _) in All.Reverse())
            await RemoveAsync(key);
    }

    private async ValueTask<Device> RootAsync(string name)
    {
        if (_roots.TryGetValue(name, out var root))
            return root;
        root = await fabric.RegisterAsync(new Device(name));
        _roots.Add(name, root);
        return root;
    }
}
