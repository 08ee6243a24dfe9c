using Virtbus.Core;
using Virtbus.Platform;

namespace Virtbus.Buses.Faux;

/// <summary>
/// A bus for hardware that no real bus carries: simulated adapters until they are PCI functions. A device has a model name; drivers
/// match by it.
/// </summary>
public sealed class FauxBus : Bus
{
    internal const string ModaliasPrefix = "faux:";

    private readonly Lock _lock = new();
    private Task<Device>? _root;

    /// <summary>Makes the bus; register it with a fabric.</summary>
    public FauxBus()
        : base("faux")
    {
    }

    /// <inheritdoc/>
    public override bool HasDriverOverride => true;

    /// <summary>Makes and adds a device under <c>/devices/faux</c>.</summary>
    /// <typeparam name="THardware">The hardware's type.</typeparam>
    /// <param name="name">The device's name.</param>
    /// <param name="model">The model that drivers match by.</param>
    /// <param name="hardware">The hardware behind the device.</param>
    /// <exception cref="VirtbusException">EEXIST: the name is taken; nothing is left behind.</exception>
    public async ValueTask<FauxDevice<THardware>> CreateAsync<THardware>(string name, string model, THardware hardware)
        where THardware : class
    {
        var fabric = Fabric ?? throw new VirtbusException(Errno.EINVAL, "The faux bus is not registered with a fabric. Register it first.");
        return await fabric.RegisterAsync(new FauxDevice<THardware>(this, name, model, hardware, await GetRootAsync(fabric)));
    }

    // One root for all, however many devices are made at once; a new one when someone deleted it.
    private Task<Device> GetRootAsync(Fabric fabric)
    {
        lock (_lock)
        {
            if (_root is { IsFaulted: false } root && (!root.IsCompletedSuccessfully || root.Result.State == DeviceState.Added))
                return root;
            return _root = AddRootAsync();
        }

        async Task<Device> AddRootAsync()
        {
            var root = new Device("faux");
            try
            {
                await fabric.AddAsync(root);
                return root;
            }
            finally
            {
                // The tree's reference is the only one: the root lives as long as it is in the tree.
                root.Put();
            }
        }
    }

    /// <inheritdoc/>
    public override DeviceId? Match(IDeviceIdentity device, Driver driver)
    {
        if (device is not IFauxIdentity identity || driver is not IFauxDriver { IdTable: var table })
            return null;
        return table.FirstOrDefault(id => id.Model == identity.Model)
            ?? (identity.DriverOverride == driver.Name ? new FauxDeviceId(identity.Model) : null);
    }

    /// <inheritdoc/>
    protected override string? MatchKey(IDeviceIdentity device) => (device as IFauxIdentity)?.Model;

    /// <inheritdoc/>
    protected override IReadOnlyCollection<string>? MatchKeys(Driver driver) =>
        driver is IFauxDriver faux ? [.. faux.IdTable.Select(i => i.Model)] : null;

    /// <inheritdoc/>
    protected override string? GetModalias(Device device) => device is IFauxIdentity faux ? ModaliasPrefix + faux.Model : null;
}
