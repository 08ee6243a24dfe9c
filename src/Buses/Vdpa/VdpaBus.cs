using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Logging.Abstractions;
using Virtbus.Core;
using Virtbus.Platform;

namespace Virtbus.Buses.Vdpa;

/// <summary>
/// The <c>vdpa</c> bus and its management devices. A provider registers a management device; a tool asks that one for a device of a
/// profile; the device appears on the bus, and the driver of the user's choice takes it.
/// </summary>
public sealed class VdpaBus : Bus
{
    private readonly Lock _lock = new();
    private VdpaManagement[] _managements = [];
    private Action<VdpaManagement>[] _listeners = [];
    private ILogger? _log;

    /// <summary>Makes the bus; register it with a fabric.</summary>
    public VdpaBus()
        : base("vdpa")
    {
        Faults = new FaultSink((device, work, exception, suppressed) => VdpaLog.ModelFailed(Log, device, work, suppressed, exception));
    }

    /// <inheritdoc/>
    public override bool HasDriverOverride => true;

    /// <summary>The management devices, in order of registration.</summary>
    public IReadOnlyList<VdpaManagement> Managements => Volatile.Read(ref _managements);

    /// <summary>Where providers that simulate tell of bugs of their models; each device is a source. They are logged.</summary>
    public FaultSink Faults { get; }

    private ILogger Log => _log ??= Fabric?.LoggerFactory.CreateLogger("Virtbus.Vdpa") ?? NullLogger.Instance;

    /// <summary>Registers a management device.</summary>
    /// <param name="device">The device that serves what is made.</param>
    /// <param name="ops">The provider's operations.</param>
    public VdpaManagement RegisterManagement(Device device, IVdpaManagementOps ops)
    {
        ArgumentNullException.ThrowIfNull(device);
        var management = new VdpaManagement(this, device, ops);
        Action<VdpaManagement>[] listeners;
        lock (_lock)
        {
            _managements = [.. _managements, management];
            listeners = _listeners;
        }
        foreach (var listener in listeners)
            listener(management);
        management.Offer();
        return management;
    }

    /// <summary>Takes a management device out, and the devices that were made through it.</summary>
    /// <param name="management">The management device.</param>
    public async ValueTask UnregisterManagementAsync(VdpaManagement management)
    {
        ArgumentNullException.ThrowIfNull(management);
        lock (_lock)
            _managements = [.. _managements.Where(m => m != management)];
        await management.CloseAsync();
    }

    /// <summary>Tells a listener of the management devices that are there and of those that come. It must not block.</summary>
    /// <param name="listener">The listener.</param>
    public void AddManagementListener(Action<VdpaManagement> listener)
    {
        ArgumentNullException.ThrowIfNull(listener);
        VdpaManagement[] there;
        lock (_lock)
        {
            _listeners = [.. _listeners, listener];
            there = _managements;
        }
        foreach (var management in there)
            listener(management);
    }

    /// <inheritdoc/>
    public override DeviceId? Match(IDeviceIdentity device, Driver driver)
    {
        if (device is not IVdpaIdentity identity || driver is not VdpaDriver vdpa)
            return null;
        return vdpa.VirtioTypes?.Contains(identity.VirtioType) == false ? null : new VdpaDeviceId(identity.VirtioType);
    }

    /// <inheritdoc/>
    protected override DeviceId? MatchOverride(IDeviceIdentity device, Driver driver) =>
        device is IVdpaIdentity identity && driver is VdpaDriver ? new VdpaDeviceId(identity.VirtioType) : null;
}
