using Virtbus.Pci;
using Virtbus.Platform;
using Virtbus.Provisioning;

namespace Virtbus.Buses.Pci;

/// <summary>Functions that the bus opens by name at their providers, and which are its own.</summary>
internal sealed class PciOpenings(PciBus bus, PciSlots slots, PciHotplug hotplug)
{
    private readonly Lock _lock = new();
    private readonly List<IPciFunctionProvider> _providers = [];
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
        lock (_lock)
        {
            if (_providers.Any(p => p.Name == provider.Name))
                throw new VirtbusException(Errno.EEXIST, $"The PCI bus has a provider '{provider.Name}' already. Give this one another name.");
            _providers.Add(provider);
        }
        if (bus.Fabric is not { } fabric)
            return;
        var isFirst = _functions is null;
        _functions ??= new PciFunctions(bus, ProvisioningEngine.Of(fabric));
        _functions.Add(provider);
        if (isFirst)
            ProvisioningEngine.Of(fabric).AddProvider(_functions);
    }

    internal async ValueTask<PciDevice> PlugAsync(string provider, string name, string? label, string? driver, PciAddress? place, CancellationToken cancellationToken)
    {
        var providers = Providers;
        var chosen = providers.FirstOrDefault(p => p.Name == provider)
            ?? throw new VirtbusException(Errno.ENOENT, $"The PCI bus has no provider '{provider}'. It has: {string.Join(", ", providers.Select(static p => p.Name))}.");
        var function = await chosen.OpenAsync(name, cancellationToken);
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
