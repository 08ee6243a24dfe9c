using System.Reflection;
using Virtbus.Core;
using Virtbus.Virtio;

namespace Virtbus.Buses.Virtio;

/// <summary>
/// A driver of virtio devices of a type. Its id table stands on the class as <see cref="VirtioDeviceTableAttribute"/>s, or is given to the constructor. The
/// bus settles the features before its probe, sets DRIVER_OK after it where the driver has not, and resets the device before what the probe put into
/// <see cref="Device.Resources"/> goes.
/// </summary>
public abstract class VirtioDriver : TypedDriver<VirtioBusDevice, VirtioMatchId>
{
    /// <summary>Makes the driver.</summary>
    /// <param name="bus">The fabric's virtio bus.</param>
    /// <param name="name">The driver's name, usually the module's.</param>
    /// <param name="ids">The id table; the attributes of the class when empty.</param>
    protected VirtioDriver(VirtioBus bus, string name, params VirtioMatchId[] ids)
        : base(name)
    {
        ArgumentNullException.ThrowIfNull(bus);
        ArgumentNullException.ThrowIfNull(ids);
        Bus = bus;
        IdTable = ids.Length > 0 ? [.. ids] : [.. GetType().GetCustomAttributes<VirtioDeviceTableAttribute>(inherit: false).Select(static a => a.ToId())];
    }

    /// <inheritdoc/>
    public sealed override Bus Bus { get; }

    /// <summary>The id table.</summary>
    public IReadOnlyList<VirtioMatchId> IdTable { get; }

    /// <summary>Features of the device's type that the driver takes where they are offered (Linux: feature_table).</summary>
    public abstract VirtioFeatures Features { get; }

    /// <summary>Narrows what the table serves, see <see cref="Driver.Accepts(IDeviceIdentity)"/>.</summary>
    /// <param name="device">What the bus matches by.</param>
    protected virtual bool Accepts(IVirtioIdentity device) => true;

    /// <inheritdoc/>
    protected sealed override bool Accepts(IDeviceIdentity device) => device is IVirtioIdentity identity && Accepts(identity);

    /// <summary>Looks at the features before they are settled (Linux: validate), and at the configuration.</summary>
    /// <param name="device">The device.</param>
    /// <param name="features">What both sides have.</param>
    /// <returns>What is taken of it.</returns>
    /// <exception cref="Platform.VirtbusException">The driver can't serve the device with them.</exception>
    protected internal virtual VirtioFeatures Validate(VirtioBusDevice device, VirtioFeatures features) => features;

    /// <summary>Binds a device whose features are settled: makes queues, registers with a subsystem.</summary>
    /// <param name="device">The device.</param>
    /// <param name="cancellationToken">Cancelled when the device vanishes.</param>
    protected abstract ValueTask ProbeAsync(VirtioBusDevice device, CancellationToken cancellationToken);

    /// <summary>Lets go of the queues for system sleep; the device is reset when it returns.</summary>
    /// <param name="device">The device.</param>
    protected virtual ValueTask FreezeAsync(VirtioBusDevice device) => default;

    /// <summary>Undoes <see cref="FreezeAsync"/>: the device has its features as before, and no queues.</summary>
    /// <param name="device">The device.</param>
    protected virtual ValueTask RestoreAsync(VirtioBusDevice device) => default;

    /// <summary>The device changed its configuration. On a thread of the fabric, one call at a time, never after the driver was told to let go; it must not wait.</summary>
    /// <param name="device">The device.</param>
    protected internal virtual void OnConfigChanged(VirtioBusDevice device)
    {
    }

    /// <inheritdoc/>
    protected sealed override async ValueTask ProbeAsync(VirtioBusDevice device, VirtioMatchId id, CancellationToken cancellationToken)
    {
        ArgumentNullException.ThrowIfNull(device);
        try
        {
            await ProbeAsync(device, cancellationToken);
            device.Ready();
        }
        catch
        {
            device.Fail();
            throw;
        }

        // The last one in is the first to go: no buffer of the driver is freed while the device has it.
        device.Resources.AddAction(() =>
        {
            device.Reset();
            return default;
        });
        device.Listen(this);
    }

    /// <inheritdoc/>
    protected sealed override ValueTask RemoveAsync(Device device)
    {
        (device as VirtioBusDevice)?.StopListening();
        return base.RemoveAsync(device);
    }

    /// <inheritdoc/>
    protected sealed override async ValueTask SuspendAsync(VirtioBusDevice device)
    {
        ArgumentNullException.ThrowIfNull(device);
        device.StopListening();
        try
        {
            await FreezeAsync(device);
        }
        catch
        {
            // It runs on, and is told of what changes.
            device.Listen(this);
            throw;
        }

        device.Reset();
    }

    /// <inheritdoc/>
    protected sealed override async ValueTask ResumeAsync(VirtioBusDevice device)
    {
        ArgumentNullException.ThrowIfNull(device);
        try
        {
            device.Restart();
            await RestoreAsync(device);
            device.Ready();
        }
        catch
        {
            device.Fail();
            throw;
        }

        device.Listen(this);
    }
}
