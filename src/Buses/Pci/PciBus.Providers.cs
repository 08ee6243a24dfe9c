using Virtbus.Pci;
using Virtbus.Platform;
using Virtbus.Provisioning;

namespace Virtbus.Buses.Pci;

/// <content>Functions that the bus opens by name, and which are its own.</content>
public sealed partial class PciBus
{
    private readonly List<IPciFunctionProvider> _providers = [];
    private PciFunctions? _functions;

    /// <summary>Where functions can be had from by name, in the order in which they were added.</summary>
    public IReadOnlyList<IPciFunctionProvider> Providers
    {
        get
        {
            lock (_topology)
                return [.. _providers];
        }
    }

    /// <summary>Adds a provider: its functions can be plugged in by name, also as functions of kind pci that the provisioning engine activates.</summary>
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
            if (Fabric is not { } fabric)
                return;
            var isFirst = _functions is null;
            _functions ??= new PciFunctions(this, ProvisioningEngine.Of(fabric));
            _functions.Add(provider.Name);
            if (isFirst)
                ProvisioningEngine.Of(fabric).AddProvider(_functions);
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
    /// <param name="cancellationToken">Ends the wait for the provider.</param>
    /// <exception cref="VirtbusException">
    /// ENOENT: there is no such provider; what the provider answers; else as the other one.
    /// </exception>
    public async ValueTask<PciDevice> PlugAsync(string provider, string name, string? label = null, string? driver = null, CancellationToken cancellationToken = default)
    {
        var providers = Providers;
        var chosen = providers.FirstOrDefault(p => p.Name == provider)
            ?? throw new VirtbusException(Errno.ENOENT, $"The PCI bus has no provider '{provider}'. It has: {string.Join(", ", providers.Select(static p => p.Name))}.");
        var function = await chosen.OpenAsync(name, cancellationToken);
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
}
