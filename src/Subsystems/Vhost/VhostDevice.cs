using Virtbus.Buses.Vdpa;
using Virtbus.Core;
using Virtbus.Platform;
using Virtbus.Provisioning;

namespace Virtbus.Subsystems.Vhost;

/// <summary>A device that a user outside the fabric can open and drive through virtqueues (Linux: <c>/dev/vhost-vdpa-N</c>).</summary>
public sealed class VhostDevice : Device, IOfferedDevice, IUserHeld
{
    private IDeviceEndpoint? _endpoint;
    private volatile bool _isRevoked;

    internal VhostDevice(VhostSubsystem subsystem, string name, string label, Device parent, IVdpaOps ops, Action<Device> release)
        : base(name, parent, bus: null, subsystem.Class)
    {
        Label = label;
        Ops = ops;
        Release = release;
    }

    /// <summary>The name that users know: that of the vDPA device.</summary>
    public override string Label { get; }

    /// <summary>The operations by which a transport drives it.</summary>
    public IVdpaOps Ops { get; }

    /// <summary>Whether a front end is connected to where it is offered.</summary>
    public bool IsHeld => Endpoint?.Connection is not null;

    // One who was sent away may be back at once.
    Task IUserHeld.Left => _isRevoked ? Task.CompletedTask : Endpoint?.Left ?? Task.CompletedTask;

    /// <summary>Where a transport put it, or null. The transport sets it.</summary>
    public IDeviceEndpoint? Endpoint
    {
        get => Volatile.Read(ref _endpoint);
        set => Volatile.Write(ref _endpoint, value);
    }

    /// <summary>Why a transport can't offer it, or null. The transport sets it when the device is added; the registration fails with it.</summary>
    public VirtbusException? EndpointError { get; set; }

    /// <summary>Takes the device away from who has it open now; who deactivates its function waits for nobody from now on.</summary>
    public void Revoke()
    {
        _isRevoked = true;
        Endpoint?.Disconnect();
    }

    internal static readonly AttributeGroup[] Groups =
    [
        new([.. EndpointAttributes.Of<VhostDevice>(d => d.Endpoint)]),
        new(new ObjectAttribute<VhostDevice>("revoke", null, static (d, value, _) =>
        {
            // A front end takes no request to let go.
            if (AttributeValue.ParseBoolean(d.DevPath + "/revoke", value))
                d.Revoke();
            return default;
        })),
    ];
}
