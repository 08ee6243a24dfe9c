using Virtbus.Core;

namespace Virtbus.Buses.Vdpa;

/// <summary>A driver on the vdpa bus: it turns a virtio data path into what a user opens.</summary>
public abstract class VdpaDriver : TypedDriver<VdpaDevice, VdpaDeviceId>
{
    /// <summary>Makes a driver.</summary>
    /// <param name="bus">The fabric's vdpa bus.</param>
    /// <param name="name">The driver's name.</param>
    protected VdpaDriver(VdpaBus bus, string name)
        : base(name)
    {
        ArgumentNullException.ThrowIfNull(bus);
        Bus = bus;
    }

    /// <inheritdoc/>
    public sealed override Bus Bus { get; }

    /// <summary>The virtio types that the driver serves; every type when null.</summary>
    public virtual IReadOnlyCollection<uint>? VirtioTypes => null;

    /// <summary>Narrows that further, see <see cref="Driver.Accepts(IDeviceIdentity)"/>.</summary>
    /// <param name="device">What the bus matches by.</param>
    protected virtual bool Accepts(IVdpaIdentity device) => true;

    /// <inheritdoc/>
    protected sealed override bool Accepts(IDeviceIdentity device) => device is IVdpaIdentity identity && Accepts(identity);
}
