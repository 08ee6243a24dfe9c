using System.Collections.Concurrent;
using Virtbus.Daemon.Manifest;
using Virtbus.Platform;
using Virtbus.Transports.Tap;

namespace Virtbus.Daemon.Provisioning;

/// <summary>The switches that a manifest says, with the TAP devices of the host that are ports of them.</summary>
internal sealed class DeclaredSwitches(NamedSwitches switches) : IDisposable
{
    private readonly ConcurrentDictionary<string, (SwitchManifest Manifest, NamedSwitch Switch, TapPort? Tap)> _all = new();

    /// <summary>What the manifest says of them.</summary>
    public IReadOnlyList<SwitchManifest> All => [.. _all.Values.Select(static s => s.Manifest).OrderBy(static m => m.Name.Value, StringComparer.Ordinal)];

    /// <summary>Makes one.</summary>
    /// <exception cref="VirtbusException">What the host says of the TAP device.</exception>
    public void Add(SwitchManifest manifest)
    {
        var place = switches.Open(manifest.Name);
        try
        {
            var tap = manifest.Tap is { } name ? TapPort.Start(name, place.Switch, manifest.Queues, (ushort)(manifest.Vlan?.Value ?? 0)) : null;
            _all[manifest.Name] = (manifest, place, tap);
        }
        catch (VirtbusException e)
        {
            place.Dispose();
            throw e.At("tap");
        }
    }

    /// <summary>Lets go of one: devices that are on it stay, and its TAP device goes.</summary>
    public void Remove(string name)
    {
        if (!_all.TryRemove(name, out var one))
            return;
        one.Tap?.Dispose();
        one.Switch.Dispose();
    }

    public void Dispose()
    {
        foreach (var name in _all.Keys)
            Remove(name);
    }
}
