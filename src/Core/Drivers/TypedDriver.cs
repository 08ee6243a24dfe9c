using Virtbus.Platform;

namespace Virtbus.Core;

/// <summary>
/// A driver whose probe gets the creator's own device type and the bus's own table entry. The bases that buses offer derive from it.
/// A device that matches by name but is of another type is refused with EINVAL: the payload is typed, never cast blindly.
/// </summary>
/// <typeparam name="TDevice">The device type: the container that the device's creator made.</typeparam>
/// <typeparam name="TId">The table entry's type.</typeparam>
public abstract class TypedDriver<TDevice, TId> : Driver
    where TDevice : Device
    where TId : DeviceId
{
    private readonly Ops _ops;

    /// <summary>Makes a driver.</summary>
    /// <param name="name">Unique on its bus.</param>
    protected TypedDriver(string name)
        : base(name) => _ops = new Ops(this);

    /// <summary>Binds a device; see <see cref="Driver.ProbeAsync(Device, DeviceId, CancellationToken)"/>.</summary>
    /// <param name="device">The device.</param>
    /// <param name="id">The table entry that matched, with its driver data.</param>
    /// <param name="cancellationToken">Cancelled when the device vanishes.</param>
    protected virtual ValueTask ProbeAsync(TDevice device, TId id, CancellationToken cancellationToken) => default;

    /// <summary>Lets a device go.</summary>
    /// <param name="device">The device.</param>
    protected virtual ValueTask RemoveAsync(TDevice device) => default;

    /// <summary>Quiesces a device before the fabric ends.</summary>
    /// <param name="device">The device.</param>
    protected virtual ValueTask ShutdownAsync(TDevice device) => default;

    /// <summary>Quiesces a device for system sleep.</summary>
    /// <param name="device">The device.</param>
    protected virtual ValueTask SuspendAsync(TDevice device) => default;

    /// <summary>Undoes <see cref="SuspendAsync"/>.</summary>
    /// <param name="device">The device.</param>
    protected virtual ValueTask ResumeAsync(TDevice device) => default;

    /// <summary>Puts an idle device to sleep.</summary>
    /// <param name="device">The device.</param>
    protected virtual ValueTask RuntimeSuspendAsync(TDevice device) => default;

    /// <summary>Wakes a device.</summary>
    /// <param name="device">The device.</param>
    protected virtual ValueTask RuntimeResumeAsync(TDevice device) => default;

    /// <inheritdoc/>
    protected internal override IPowerOps? PowerOps => _ops;

    /// <inheritdoc/>
    protected internal sealed override ValueTask ProbeAsync(Device device, DeviceId id, CancellationToken cancellationToken)
    {
        if (device is not TDevice typed || id is not TId entry)
        {
            throw new VirtbusException(
                Errno.EINVAL,
                $"Driver {Name} takes devices of type {NameOf(typeof(TDevice))}; {device.Name} is a {NameOf(device.GetType())}. Build driver and creator against the same contract.");
        }
        return ProbeAsync(typed, entry, cancellationToken);
    }

    /// <inheritdoc/>
    protected internal override ValueTask RemoveAsync(Device device) => RemoveAsync((TDevice)device);

    /// <inheritdoc/>
    protected internal sealed override ValueTask ShutdownAsync(Device device) => ShutdownAsync((TDevice)device);

    private static string NameOf(Type type) => type.IsGenericType
        ? $"{type.Name[..type.Name.IndexOf('`')]}<{string.Join(", ", type.GetGenericArguments().Select(NameOf))}>"
        : type.Name;

    private sealed class Ops(TypedDriver<TDevice, TId> driver) : IPowerOps
    {
        public ValueTask SuspendAsync(Device device) => driver.SuspendAsync((TDevice)device);

        public ValueTask ResumeAsync(Device device) => driver.ResumeAsync((TDevice)device);

        public ValueTask RuntimeSuspendAsync(Device device) => driver.RuntimeSuspendAsync((TDevice)device);

        public ValueTask RuntimeResumeAsync(Device device) => driver.RuntimeResumeAsync((TDevice)device);
    }
}
