using Virtbus.Buses.Vdpa;
using Virtbus.Core;
using Virtbus.Platform;
using Virtbus.Provisioning;

namespace Virtbus.Subsystems.Vhost;

/// <summary>A device that a user outside the fabric can open and drive through virtqueues (Linux: <c>/dev/vhost-vdpa-N</c>).</summary>
public sealed class VhostDevice : Device, IOfferedDevice, IUserHeld
{
    private IDeviceEndpoint? _endpoint;

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

    /// <summary>Where a transport put it, or null. The transport sets it.</summary>
    public IDeviceEndpoint? Endpoint
    {
        get => Volatile.Read(ref _endpoint);
        set => Volatile.Write(ref _endpoint, value);
    }

    /// <summary>Why a transport can't offer it, or null. The transport sets it when the device is added; the registration fails with it.</summary>
    public VirtbusException? EndpointError { get; set; }

    internal static readonly AttributeGroup[] Groups =
    [
        new([.. EndpointAttributes.Of<VhostDevice>(d => d.Endpoint)]),
    ];
}
