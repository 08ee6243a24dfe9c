using System.Runtime.CompilerServices;
using Virtbus.Core;
using Virtbus.Pci;
using Virtbus.Platform;
using Virtbus.Provisioning;

namespace Virtbus.Buses.Pci;

/// <summary>Functions that the bus opens by name at their providers, and which are its own.</summary>
internal sealed class PciOpenings(PciBus bus, PciSlots slots, PciHotplug hotplug)
{
    private readonly Lock _lock = new();
    private readonly List<IPciFunctionProvider> _providers = [];
    // What each that is in a slot was opened at, and the names of those that are being opened.
    private readonly ConditionalWeakTable<IPciFunction, IPciFunctionProvider> _origins = [];
    private readonly List<(IPciFunctionProvider Provider, string Name)> _opening = [];
    private PciFunctions? _functions;

    internal IReadOnlyList<IPciFunctionProvider> Providers
    {
        get
        {
            lock (_lock)
                return [.. _providers];
        }
    }

    internal void Add(IPciFunctionProvider provider)
    {
        ArgumentNullException.ThrowIfNull(provider);
        Fabric fabric;
        bool isFirst;
        lock (_lock)
        {
            if (_providers.Any(p => p.Name == provider.Name))
                throw new VirtbusException(Errno.EEXIST, $"The PCI bus has a provider '{provider.Name}' already. Give this one another name.");
            _providers.Add(provider);
            if (bus.Fabric is not { } its)
                return;
            fabric = its;
            isFirst = _functions is null;
            _functions ??= new PciFunctions(bus, ProvisioningEngine.Of(fabric));
            _functions.Add(provider);
        }
        if (isFirst)
            ProvisioningEngine.Of(fabric).AddProvider(_functions);
        else
            ProvisioningEngine.Of(fabric).Reconsider(_functions);
    }

    internal void Remove(IPciFunctionProvider provider, bool whateverUsesIt)
    {
        ArgumentNullException.ThrowIfNull(provider);
        lock (_lock)
        {
            if (!_providers.Contains(provider))
                return;
            if (!whateverUsesIt)
                ThrowIfUsed(provider);
            _providers.Remove(provider);
            _functions?.Remove(provider.Name);
        }
    }

    // Under the lock, which an opening takes to begin.
    private void ThrowIfUsed(IPciFunctionProvider provider)
    {
        if (slots.Find(s => s.IsOwned && _origins.TryGetValue(s.Function, out var origin) && origin == provider, out var device) is { } slot)
        {
            var name = slot.Label ?? device?.Name ?? $"{slot.Address}";
            throw new VirtbusException(Errno.EBUSY, $"Function '{name}' of provider '{provider.Name}' is plugged in. Unplug it first: virtbus function unplug {name}");
        }
        if (_opening.Find(o => o.Provider == provider) is { Name: { } coming })
            throw new VirtbusException(Errno.EBUSY, $"Function '{coming}' of provider '{provider.Name}' is being plugged in. Try again when it is, or unplug it: virtbus function unplug {coming}");
        if (_functions?.FindOf(provider.Name) is { } defined)
            throw new VirtbusException(Errno.EBUSY, $"Function '{defined.Name}' of provider '{provider.Name}' is defined. Undefine it first: virtbus function undefine {defined.Name}");
    }

    internal async ValueTask<PciDevice> PlugAsync(string provider, string name, string? label, string? driver, PciAddress? place, CancellationToken cancellationToken)
    {
        (IPciFunctionProvider Provider, string Name) opening;
        lock (_lock)
        {
            var chosen = _providers.Find(p => p.Name == provider) ?? throw Missing(provider);
            opening = (chosen, label ?? name);
            _opening.Add(opening);
        }
        try
        {
            var function = await opening.Provider.OpenAsync(name, cancellationToken);
            _origins.AddOrUpdate(function, opening.Provider);
            try
            {
                return await hotplug.PlugAsync(function, label, device => SetDriver(device, driver), isOwned: true, place);
            }
            catch
            {
                function.Dispose();
                throw;
            }
        }
        finally
        {
            lock (_lock)
                _opening.Remove(opening);
        }
    }

    /// <summary>Why there is no such provider, and what there is.</summary>
    internal VirtbusException Missing(string provider)
    {
        var names = Providers.Select(static p => p.Name).ToList();
        return new VirtbusException(
            Errno.ENOENT, $"The PCI bus has no provider '{provider}'.{Suggestion.For(provider, names)} It has: {string.Join(", ", names)}.");
    }

    internal async ValueTask UnplugAllAsync()
    {
        while (true)
        {
            if (slots.Find(static s => s is { IsOwned: true, Port: null }, out _)?.Function is not { } opened)
                return;
            await hotplug.UnplugAsync(opened);
        }
    }

    private ValueTask SetDriver(PciDevice device, string? driver)
    {
        if (driver is not null)
            bus.FabricOrThrow().SetDriverOverride(device, driver);
        return default;
    }
}
