using System.Reflection;
using Virtbus.Core;
using Virtbus.Platform;

namespace Virtbus.Buses.Pci;

/// <summary>A driver of PCI functions. Its id table stands on the class as <see cref="PciDeviceTableAttribute"/>s, or is given to the constructor.</summary>
public abstract class PciDriver : TypedDriver<PciDevice, PciDeviceId>
{
    private readonly PciDeviceId[] _static;
    private PciDeviceId[] _dynamic = [];

    /// <summary>Makes the driver.</summary>
    /// <param name="bus">The bus.</param>
    /// <param name="name">The driver's name, usually the module's.</param>
    /// <param name="ids">The id table; the attributes of the class when empty. A driver without any takes devices by override or dynamic id only.</param>
    protected PciDriver(PciBus bus, string name, params PciDeviceId[] ids)
        : base(name)
    {
        ArgumentNullException.ThrowIfNull(bus);
        ArgumentNullException.ThrowIfNull(ids);
        Bus = bus;
        _static = ids.Length > 0
            ? [.. ids]
            : [.. GetType().GetCustomAttributes<PciDeviceTableAttribute>(inherit: false).Select(static a => a.ToId())];
    }

    /// <inheritdoc/>
    public sealed override Bus Bus { get; }

    /// <summary>The id table as it was made.</summary>
    public IReadOnlyList<PciDeviceId> IdTable => _static;

    /// <summary>The ids that were added while the driver runs; they are looked at first.</summary>
    public IReadOnlyList<PciDeviceId> DynamicIds => Volatile.Read(ref _dynamic);

    /// <summary>
    /// Whether the driver lets no DMA of the host happen and leaves the ownership to a user (Linux: driver_managed_dma). Binding then claims
    /// nothing, and <see cref="Memory.Dma.IommuGroup.TryAllocate"/> refuses.
    /// </summary>
    public virtual bool IsDmaManagedByUser => false;

    /// <summary>
    /// Enables this many virtual functions when somebody writes sriov_numvfs; null when the driver does not do that (ENOENT). Called with the
    /// device's transition held, 0 to remove all.
    /// </summary>
    public virtual Func<PciDevice, int, ValueTask>? ConfigureVirtualFunctions => null;

    /// <summary>How many MSI-X vectors the driver can share out among the virtual functions, for <c>sriov_vf_total_msix</c>.</summary>
    /// <param name="device">The physical function.</param>
    public virtual int GetVirtualFunctionVectors(PciDevice device) => 0;

    /// <summary>
    /// Gives a virtual function this many MSI-X vectors (0 for as many as by default) when somebody writes its sriov_vf_msix_count; null when the
    /// driver does not do that (EOPNOTSUPP). Called with the physical function's transition held, while the virtual one has no driver.
    /// </summary>
    public virtual Func<PciDevice, int, ValueTask>? ConfigureVectors => null;

    /// <summary>Before a reset that somebody asked for by the reset attribute, of the device or of its physical function.</summary>
    /// <param name="device">The device.</param>
    protected internal virtual ValueTask PrepareResetAsync(PciDevice device) => default;

    /// <summary>After such a reset.</summary>
    /// <param name="device">The device.</param>
    protected internal virtual ValueTask ResetDoneAsync(PciDevice device) => default;

    /// <summary>Narrows what the table serves, see <see cref="Driver.Accepts(IDeviceIdentity)"/>; for example by class or by subsystem id.</summary>
    /// <param name="device">What the bus matches by.</param>
    protected virtual bool Accepts(IPciIdentity device) => true;

    /// <inheritdoc/>
    protected sealed override bool Accepts(IDeviceIdentity device) => device is IPciIdentity identity && Accepts(identity);

    /// <summary>Adds an id while the driver runs, and binds devices that it serves.</summary>
    /// <param name="id">The entry.</param>
    /// <exception cref="VirtbusException">EEXIST: the driver serves that id already; EINVAL: its table is not empty and has no entry with that driver data.</exception>
    public async ValueTask AddDynamicIdAsync(PciDeviceId id)
    {
        ArgumentNullException.ThrowIfNull(id);
        if (Bus.Fabric is not { } fabric)
            return;
        // A driver may read a pointer's worth of meaning out of it; only what it knows is safe.
        if (_static.Length > 0 && id.DriverData != 0 && !_static.Any(i => i.DriverData == id.DriverData))
            throw new VirtbusException(Errno.EINVAL, $"new_id of {Name}: no entry of its table has driver data {id.DriverData:x}. Leave it out, or use one that the table has.");
        VirtbusException? error = null;
        await fabric.ChangeIdsAsync(this, () =>
        {
            var there = _dynamic.Concat(_static).FirstOrDefault(i => !i.IsOverrideOnly && Covers(i, id));
            if (there is null)
                Volatile.Write(ref _dynamic, [.. _dynamic, id]);
            else
                error = new VirtbusException(Errno.EEXIST, $"new_id of {Name}: it serves {id.Vendor:x4} {id.Device:x4} already ({there.ToAlias()}).");
        });
        if (error is not null)
            throw error;
    }

    /// <summary>Removes the first dynamic id that fits. Devices that are bound stay bound.</summary>
    /// <param name="id">The ids and the class.</param>
    /// <exception cref="VirtbusException">ENODEV: no such dynamic id.</exception>
    public async ValueTask RemoveDynamicIdAsync(PciDeviceId id)
    {
        ArgumentNullException.ThrowIfNull(id);
        if (Bus.Fabric is not { } fabric)
            return;
        var found = false;
        await fabric.ChangeIdsAsync(this, () =>
        {
            var at = Array.FindIndex(_dynamic, i =>
                (i.Vendor, i.Device, i.SubsystemVendor, i.SubsystemDevice) == (id.Vendor, id.Device, id.SubsystemVendor, id.SubsystemDevice)
                && ((i.Class ^ id.Class) & id.ClassMask) == 0);
            if (at < 0)
                return;
            found = true;
            Volatile.Write(ref _dynamic, [.. _dynamic[..at], .. _dynamic[(at + 1)..]]);
        });
        if (!found)
            throw new VirtbusException(Errno.ENODEV, $"remove_id of {Name}: it has no dynamic id {id.Vendor:x4} {id.Device:x4}. Only ids added by new_id can be removed.");
    }

    /// <summary>The entry that serves a device: dynamic ids first, then the table.</summary>
    internal PciDeviceId? Match(IPciIdentity device) => Find(device, isOverride: false);

    /// <summary>The entry for a user who named this driver: those count too that are for that only, and any id will do.</summary>
    internal PciDeviceId MatchOverride(IPciIdentity device) => Find(device, isOverride: true) ?? new PciDeviceId();

    private PciDeviceId? Find(IPciIdentity device, bool isOverride)
    {
        foreach (var id in Volatile.Read(ref _dynamic))
        {
            if (id.Covers(device))
                return id;
        }
        foreach (var id in _static)
        {
            if ((isOverride || !id.IsOverrideOnly) && id.Covers(device))
                return id;
        }
        return null;
    }

    /// <summary>The vendor and device ids that it is indexed under; null when an entry leaves one of them open.</summary>
    internal IReadOnlyCollection<string>? MatchKeys()
    {
        var keys = new List<string>();
        foreach (var id in _dynamic.Concat(_static))
        {
            // Such an entry counts for overrides only, and those find the driver by its name.
            if (id.IsOverrideOnly)
                continue;
            if (id.Vendor == PciDeviceId.Any || id.Device == PciDeviceId.Any)
                return null;
            keys.Add(MatchKey(id.Vendor, id.Device));
        }
        return keys;
    }

    internal static string MatchKey(uint vendor, uint device) => $"{vendor:x4}:{device:x4}";

    // Whether every device that the new entry could name is served by the one that is there.
    private static bool Covers(PciDeviceId there, PciDeviceId id) =>
        (there.Vendor == PciDeviceId.Any || there.Vendor == id.Vendor)
        && (there.Device == PciDeviceId.Any || there.Device == id.Device)
        && (there.SubsystemVendor == PciDeviceId.Any || there.SubsystemVendor == id.SubsystemVendor)
        && (there.SubsystemDevice == PciDeviceId.Any || there.SubsystemDevice == id.SubsystemDevice)
        && ((there.Class ^ id.Class) & there.ClassMask) == 0;
}
