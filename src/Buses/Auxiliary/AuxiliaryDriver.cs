using System.Reflection;
using Virtbus.Core;
using Virtbus.Platform;

namespace Virtbus.Buses.Auxiliary;

/// <summary>
/// A driver for parts of one type. Its id table is mandatory: there is no match by driver name. The table is taken from the
/// <see cref="AuxiliaryDeviceTableAttribute"/>s of the class, or given to the constructor; it is copied, so it lives as long as the driver.
/// </summary>
/// <typeparam name="TDevice">The device type: the container that creators make.</typeparam>
public abstract class AuxiliaryDriver<TDevice> : TypedDriver<TDevice, AuxiliaryDeviceId>, IAuxiliaryDriver
    where TDevice : AuxiliaryDevice
{
    private readonly AuxiliaryDeviceId[] _static;
    private AuxiliaryIdTable _all;

    /// <summary>Makes a driver named <c>module.name</c>, or <c>module</c> when it has no name of its own.</summary>
    /// <param name="bus">The fabric's auxiliary bus.</param>
    /// <param name="module">The driver's module name.</param>
    /// <param name="name">The driver's own name, or null.</param>
    /// <param name="ids">The id table; the attributes of the class when empty.</param>
    /// <exception cref="VirtbusException">EINVAL: no id table, or an entry without a name.</exception>
    protected AuxiliaryDriver(AuxiliaryBus bus, string module, string? name = null, params AuxiliaryDeviceId[] ids)
        : base(string.IsNullOrEmpty(name) ? module : $"{module}.{name}")
    {
        ArgumentNullException.ThrowIfNull(bus);
        ArgumentNullException.ThrowIfNull(ids);
        Bus = bus;
        if (ids.Length == 0)
            ids = [.. GetType().GetCustomAttributes<AuxiliaryDeviceTableAttribute>(inherit: false).Select(a => new AuxiliaryDeviceId(a.Name, a.DriverData))];
        if (ids.Length == 0)
            throw new VirtbusException(Errno.EINVAL, $"Auxiliary driver {Name} has no id table. Put [AuxiliaryDeviceTable(\"module.name\")] on its class.");
        foreach (var id in ids)
            CheckId(id);
        _static = [.. ids];
        _all = new AuxiliaryIdTable(_static);
    }

    /// <inheritdoc/>
    public sealed override Bus Bus { get; }

    /// <summary>The id table with the dynamic entries, those first.</summary>
    public IReadOnlyList<AuxiliaryDeviceId> IdTable => _all.All;

    AuxiliaryIdTable IAuxiliaryDriver.IdTable => Volatile.Read(ref _all);

    /// <summary>
    /// Narrows what the table serves, see <see cref="Driver.Accepts(IDeviceIdentity)"/>: for a driver that wants those devices of a name only
    /// whose typed attributes it can serve. A creator tells of these by an interface of its own that extends <see cref="IAuxiliaryIdentity"/>.
    /// </summary>
    /// <param name="device">What the bus matches by.</param>
    protected virtual bool Accepts(IAuxiliaryIdentity device) => true;

    /// <inheritdoc/>
    protected sealed override bool Accepts(IDeviceIdentity device) => device is IAuxiliaryIdentity identity && Accepts(identity);

    /// <summary>Adds an id while the driver runs, and binds devices that it serves.</summary>
    /// <param name="id">The entry.</param>
    /// <exception cref="VirtbusException">EINVAL: no name; EEXIST: the table has it.</exception>
    public async ValueTask AddDynamicIdAsync(AuxiliaryDeviceId id)
    {
        CheckId(id);
        if (_all.Find(id.Name) is not null)
            throw new VirtbusException(Errno.EEXIST, $"Driver {Name} has the id '{id.Name}' already.");
        if (Bus.Fabric is { } fabric)
            await fabric.ChangeIdsAsync(this, () => _all = new AuxiliaryIdTable([id, .. _all.All]));
    }

    /// <summary>Removes a dynamic id. Devices that are bound stay bound.</summary>
    /// <param name="name">The entry's match name.</param>
    /// <exception cref="VirtbusException">ENODEV: no dynamic id of that name.</exception>
    public async ValueTask RemoveDynamicIdAsync(string name)
    {
        if (_static.Any(i => i.Name == name) || _all.Find(name) is null)
            throw new VirtbusException(Errno.ENODEV, $"Driver {Name} has no dynamic id '{name}'. Only ids added by new_id can be removed.");
        if (Bus.Fabric is { } fabric)
            await fabric.ChangeIdsAsync(this, () => _all = new AuxiliaryIdTable([.. _all.All.Where(i => i.Name != name)]));
    }

    private void CheckId(AuxiliaryDeviceId? id)
    {
        if (string.IsNullOrEmpty(id?.Name) || id.Name.Length > AuxiliaryName.MaxLength || !id.Name.Contains('.'))
            throw new VirtbusException(Errno.EINVAL, $"Id '{id?.Name}' of auxiliary driver {Name} is not valid. An id is 'module.name' of at most {AuxiliaryName.MaxLength} characters.");
    }
}
