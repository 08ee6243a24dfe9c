using Virtbus.Pci;
using Virtbus.Platform;

namespace Virtbus.Buses.Pci;

/// <content>Functions that the bus opens by name, and which are its own.</content>
public sealed partial class PciBus
{
    private readonly List<IPciFunctionProvider> _providers = [];
    private readonly List<Opening> _openings = [];

    /// <summary>Where functions can be had from by name, in the order in which they were added.</summary>
    public IReadOnlyList<IPciFunctionProvider> Providers
    {
        get
        {
            lock (_topology)
                return [.. _providers];
        }
    }

    /// <summary>Adds a provider: its functions can be plugged in by name, also by the attribute <c>plug</c> of the bus.</summary>
    /// <param name="provider">The provider.</param>
    /// <exception cref="VirtbusException">EEXIST: there is one of that name.</exception>
    public void AddProvider(IPciFunctionProvider provider)
    {
        ArgumentNullException.ThrowIfNull(provider);
        lock (_topology)
        {
            if (_providers.Any(p => p.Name == provider.Name))
                throw new VirtbusException(Errno.EEXIST, $"The PCI bus has a provider '{provider.Name}' already. Give this one another name.");
            _providers.Add(provider);
        }
    }

    /// <summary>
    /// Opens a function at a provider and puts it into a slot, as the other one does. It is the bus's then: it ends when it leaves the slot,
    /// unplugged, pulled out or lost.
    /// </summary>
    /// <param name="provider">One of <see cref="Providers"/>, by its name.</param>
    /// <param name="name">The provider's name for the function.</param>
    /// <param name="label">What people call it, see <see cref="PciDevice.Label"/>.</param>
    /// <param name="driver">The only driver that may take it; null for any.</param>
    /// <param name="cancellationToken">Ends the wait for the provider; <see cref="CancelPlug"/> does so too.</param>
    /// <exception cref="VirtbusException">
    /// ENOENT: there is no such provider; ECANCELED: somebody cancelled it; what the provider answers; else as the other one.
    /// </exception>
    public async ValueTask<PciDevice> PlugAsync(string provider, string name, string? label = null, string? driver = null, CancellationToken cancellationToken = default)
    {
        var providers = Providers;
        var chosen = providers.FirstOrDefault(p => p.Name == provider)
            ?? throw new VirtbusException(Errno.ENOENT, $"The PCI bus has no provider '{provider}'. It has: {string.Join(", ", providers.Select(static p => p.Name))}.");
        var function = await OpenAsync(chosen, name, label, cancellationToken);
        try
        {
            return await PlugAsync(function, label, device => SetDriver(device, driver), isOwned: true);
        }
        catch
        {
            function.Dispose();
            throw;
        }
    }

    /// <summary>Ends a plug that waits for its provider still: whoever asked for it gets ECANCELED.</summary>
    /// <param name="name">The label that the function is to have, or the provider's name for it.</param>
    /// <exception cref="VirtbusException">ENOENT: no such plug is under way.</exception>
    public void CancelPlug(string name)
    {
        Opening[] meant;
        lock (_topology)
            meant = [.. _openings.Where(o => o.Label == name || o.Name == name)];
        if (meant.Length == 0)
            throw new VirtbusException(Errno.ENOENT, $"No plug of '{name}' is under way. Reading /bus/pci/plug shows those that are; 'virtbus device list' shows what is plugged in.");
        foreach (var opening in meant)
            opening.Cancel();
    }

    /// <summary>The plugs that wait for their providers, as they were asked for.</summary>
    internal IReadOnlyList<string> Openings
    {
        get
        {
            lock (_topology)
                return [.. _openings.Select(static o => o.Label is null ? $"{o.Provider} {o.Name}" : $"{o.Provider} {o.Name} label {o.Label}")];
        }
    }

    private async ValueTask<IPciFunction> OpenAsync(IPciFunctionProvider provider, string name, string? label, CancellationToken cancellationToken)
    {
        using var end = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        using var opening = new Opening(provider.Name, name, label, end);
        lock (_topology)
            _openings.Add(opening);
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
            lock (_topology)
                _openings.Remove(opening);
        }
    }

    /// <summary>Unplugs all functions that the bus opened itself at providers; for the end of a fabric.</summary>
    /// <exception cref="VirtbusException">As <see cref="RemoveAsync"/>.</exception>
    public async ValueTask UnplugOpenedAsync()
    {
        while (true)
        {
            IPciFunction? opened;
            lock (_topology)
                opened = FindSlot(static s => s is { IsOwned: true, Port: null })?.Function;
            if (opened is null)
                return;
            await UnplugAsync(opened);
        }
    }

    private ValueTask SetDriver(PciDevice device, string? driver)
    {
        if (driver is not null)
            FabricOrThrow().SetDriverOverride(device, driver);
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
