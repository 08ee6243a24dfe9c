using Virtbus.Platform;

namespace Virtbus.Core;

/// <summary>
/// A driver on a bus. It binds bus devices, adapts them to the operations of a subsystem, and registers with that subsystem.
/// Bus-specific base classes (for example the auxiliary bus's) give probe and remove their types; a driver derives from one of those.
/// </summary>
public abstract class Driver
{
    /// <summary>Makes a driver.</summary>
    /// <param name="name">Unique on its bus; 1 to 255 bytes without '/' and control characters.</param>
    /// <exception cref="VirtbusException">EINVAL: the name is not one that a directory can have.</exception>
    protected Driver(string name)
    {
        ArgumentNullException.ThrowIfNull(name);
        if (!Device.IsFileName(name))
            throw new VirtbusException(Errno.EINVAL, $"Driver name '{name}' is not valid. Use 1 to 255 bytes without '/' and control characters.");
        Name = name;
        BoundBinding = new Binding(BindingState.Bound, this);
        ProbingBinding = new Binding(BindingState.Probing, this);
        UnbindingBinding = new Binding(BindingState.Unbinding, this);
    }

    /// <summary>The driver's name on its bus.</summary>
    public string Name { get; }

    /// <summary>The bus that the driver is for.</summary>
    public abstract Bus Bus { get; }

    /// <summary>Whether probes of this driver run in the caller's order or beside it.</summary>
    public ProbeType ProbeType { get; init; }

    /// <summary>True when the driver's <c>bind</c> and <c>unbind</c> attributes are absent.</summary>
    public bool SuppressBindAttributes { get; init; }

    /// <summary>The module that registered the driver, or null for one that is part of the program.</summary>
    public string? Module { get; internal set; }

    /// <summary>True while the driver is registered.</summary>
    public bool IsRegistered { get; internal set; }

    /// <summary>The devices that are bound to the driver, in creation order, at this moment.</summary>
    public IReadOnlyList<Device> Devices => Bus.DevicesOf(this);

    /// <summary>
    /// Narrows what the driver's table serves: asked when an entry matches and no <c>driver_override</c> names the driver. Pure, as
    /// <see cref="Bus.Match"/> is: same answer for the same identity, no effect. A bus's driver base gives it the bus's identity type.
    /// </summary>
    /// <param name="device">The device's identity, which is all that it may look at.</param>
    /// <returns>False when the driver does not serve this device after all; another driver is looked for then.</returns>
    protected internal virtual bool Accepts(IDeviceIdentity device) => true;

    /// <summary>Attributes of the driver's own directory.</summary>
    protected internal virtual IReadOnlyList<AttributeGroup> AttributeGroups => [];

    /// <summary>Attributes that a device has while this driver is bound to it.</summary>
    protected internal virtual IReadOnlyList<AttributeGroup> DeviceAttributeGroups => [];

    /// <summary>
    /// Binds a device. Runs with the device's transition held and no lock of the core. What it acquires it puts into
    /// <see cref="Device.Resources"/>. The token is cancelled when the device vanishes.
    /// </summary>
    /// <param name="device">The device.</param>
    /// <param name="id">The table entry that matched.</param>
    /// <param name="cancellationToken">Cancelled when the device is removed while the probe runs.</param>
    /// <exception cref="ProbeDeferException">Something is missing that may come later.</exception>
    /// <exception cref="VirtbusException">ENODEV or ENXIO: not a device for this driver, which is no failure; another errno: the probe failed.</exception>
    protected internal abstract ValueTask ProbeAsync(Device device, DeviceId id, CancellationToken cancellationToken);

    /// <summary>Lets a device go. Resources are released after it. Its errors are logged; the device is unbound all the same.</summary>
    /// <param name="device">The device; <see cref="Device.IsGone"/> tells whether its hardware is still there.</param>
    protected internal virtual ValueTask RemoveAsync(Device device) => default;

    /// <summary>Quiesces a device before the fabric ends.</summary>
    /// <param name="device">The device.</param>
    protected internal virtual ValueTask ShutdownAsync(Device device) => default;

    /// <summary>The driver's power callbacks; null when it has none, which is no error (DM-18).</summary>
    protected internal virtual IPowerOps? PowerOps => null;

    /// <inheritdoc/>
    public override string ToString() => Name;

    internal Binding BoundBinding { get; }

    internal Binding ProbingBinding { get; }

    internal Binding UnbindingBinding { get; }

    // Guarded by the fabric's gate.
    internal long Order;
    internal readonly DeviceList Bound = new();
}
