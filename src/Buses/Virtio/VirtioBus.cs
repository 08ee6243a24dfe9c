using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Logging.Abstractions;
using Virtbus.Core;
using Virtbus.Platform;

namespace Virtbus.Buses.Virtio;

/// <summary>
/// The <c>virtio</c> bus: transports put virtio devices on it, drivers of a type take them. It keeps the order of the standard (VIRTIO 1.3, 3.1): a device
/// is reset and acknowledged when it comes, has its features settled before the driver's probe, runs after it, and is reset when the driver goes.
/// </summary>
/// <remarks>As in Linux its devices have no <c>driver_override</c>: who wants another driver unbinds the one and binds the other.</remarks>
public sealed class VirtioBus : Bus
{
    private readonly IdAllocator _ids = new();
    private ILogger? _log;

    /// <summary>Makes the bus; register it with a fabric.</summary>
    public VirtioBus()
        : base("virtio")
    {
    }

    internal ILogger Log => _log ??= Fabric?.LoggerFactory.CreateLogger("Virtbus.VirtioBus") ?? NullLogger.Instance;

    /// <summary>Resets a device, puts it on the bus as <c>virtioN</c> with the lowest number that is free, and lets the drivers have it.</summary>
    /// <param name="parent">The device that the transport's driver is bound to.</param>
    /// <param name="transport">The way to the device, which is the bus device's until <see cref="RemoveAsync"/> has returned.</param>
    /// <exception cref="VirtbusException">ETIMEDOUT: the device does not come out of its reset; ENODEV: it is gone. Nothing is left behind.</exception>
    public async ValueTask<VirtioBusDevice> AddAsync(Device parent, IVirtioTransport transport)
    {
        ArgumentNullException.ThrowIfNull(parent);
        ArgumentNullException.ThrowIfNull(transport);
        var fabric = Fabric ?? throw new VirtbusException(Errno.EINVAL, "The virtio bus is not registered with a fabric. Register it first.");
        var id = _ids.Allocate();
        VirtioBusDevice device;
        try
        {
            device = new VirtioBusDevice(this, id, parent, transport) { Release = _ => _ids.Free(id) };
            device.Acknowledge();
        }
        catch
        {
            _ids.Free(id);
            throw;
        }
        return await fabric.RegisterAsync(device);
    }

    /// <summary>Takes a device out: its driver lets go of it, and it is reset.</summary>
    /// <param name="device">The device; one that is out already is no error.</param>
    public ValueTask RemoveAsync(VirtioBusDevice device)
    {
        ArgumentNullException.ThrowIfNull(device);
        return Fabric!.UnregisterAsync(device);
    }

    /// <inheritdoc/>
    public override DeviceId? Match(IDeviceIdentity device, Driver driver) =>
        device is IVirtioIdentity identity && driver is VirtioDriver virtio ? virtio.IdTable.FirstOrDefault(id => id.Covers(identity)) : null;

    /// <inheritdoc/>
    protected override string? GetModalias(Device device) => device is VirtioBusDevice virtio ? new VirtioMatchId(virtio.VirtioType, virtio.VendorId).ToAlias() : null;

    /// <inheritdoc/>
    protected override ValueTask ConfigureAsync(Device device, Driver driver)
    {
        if (device is VirtioBusDevice virtio && driver is VirtioDriver of)
            virtio.Start(of);
        return default;
    }

    /// <inheritdoc/>
    protected override ValueTask UnconfigureAsync(Device device, Driver driver)
    {
        (device as VirtioBusDevice)?.Stop();
        return default;
    }

    /// <inheritdoc/>
    protected override IReadOnlyList<AttributeGroup> DeviceAttributeGroups => VirtioBusDevice.Groups;
}
