using Virtbus.Pci;
using Virtbus.Platform;

namespace Virtbus.Buses.Pci;

/// <summary>Functions that the bus opens by name at their providers, and which are its own.</summary>
internal sealed class PciOpenings(PciBus bus, PciSlots slots, PciHotplug hotplug)
{
    private readonly Lock _lock = new();
    private readonly List<IPciFunctionProvider> _providers = [];
    private readonly List<Opening> _waiting = [];

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
    }

    internal async ValueTask<PciDevice> PlugAsync(string provider, string name, string? label, string? driver, CancellationToken cancellationToken)
    {
        var providers = Providers;
        var chosen = providers.FirstOrDefault(p => p.Name == provider)
            ?? throw new VirtbusException(Errno.ENOENT, $"The PCI bus has no provider '{provider}'. It has: {string.Join(", ", providers.Select(static p => p.Name))}.");
        var function = await OpenAsync(chosen, name, label, cancellationToken);
        try
        {
            return await hotplug.PlugAsync(function, label, device => SetDriver(device, driver), isOwned: true);
        }
        catch
        {
            function.Dispose();
            throw;
        }
    }

    internal void Cancel(string name)
    {
        Opening[] meant;
        lock (_lock)
            meant = [.. _waiting.Where(o => o.Label == name || o.Name == name)];
        if (meant.Length == 0)
            throw new VirtbusException(Errno.ENOENT, $"No plug of '{name}' is under way. Reading /bus/pci/plug shows those that are; 'virtbus device list' shows what is plugged in.");
        foreach (var opening in meant)
            opening.Cancel();
    }

    /// <summary>The plugs that wait for their providers, as they were asked for.</summary>
    internal IReadOnlyList<string> Waiting
    {
        get
        {
            lock (_lock)
                return [.. _waiting.Select(static o => o.Label is null ? $"{o.Provider} {o.Name}" : $"{o.Provider} {o.Name} label {o.Label}")];
        }
    }

    private async ValueTask<IPciFunction> OpenAsync(IPciFunctionProvider provider, string name, string? label, CancellationToken cancellationToken)
    {
        using var end = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        using var opening = new Opening(provider.Name, name, label, end);
        lock (_lock)
            _waiting.Add(opening);
        try
        {
            return await provider.OpenAsync(name, end.Token);
        }
        catch (OperationCanceledException) when (end.IsCancellationRequested && !cancellationToken.IsCancellationRequested)
        {
            throw new VirtbusException(Errno.ECANCELED, $"The plug of '{label ?? name}' was cancelled while {provider.Name} '{name}' was waited for. Plug it again to have it.");
        }
        finally
        {
            lock (_lock)
                _waiting.Remove(opening);
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

    private sealed class Opening(string provider, string name, string? label, CancellationTokenSource end) : IDisposable
    {
        private readonly Lock _lock = new();
        private bool _isOver;

        public string Provider { get; } = provider;

        public string Name { get; } = name;

        public string? Label { get; } = label;

        // The source lives as long as this is not over.
        public void Cancel()
        {
            lock (_lock)
            {
                if (!_isOver)
                    end.Cancel();
            }
        }

        public void Dispose()
        {
            lock (_lock)
                _isOver = true;
        }
    }
}
