using Virtbus.Core;
using Virtbus.Platform;

namespace Virtbus.Subsystems.Vfio;

/// <summary>A device that a user outside the fabric can open and drive (Linux: <c>/dev/vfio/devices/vfioN</c>). Transports watch its class.</summary>
public sealed class VfioDevice : Device
{
    private IVfioEndpoint? _endpoint;

    internal VfioDevice(VfioSubsystem subsystem, string name, string label, Device parent, IVfioDeviceOps ops, Action<Device> release)
        : base(name, parent, bus: null, subsystem.Class)
    {
        Label = label;
        Ops = ops;
        Release = release;
    }

    /// <summary>The name that users know: that of the device it stands on, for example 0000:01:00.1.</summary>
    public string Label { get; }

    /// <summary>Whether somebody has it open.</summary>
    public bool IsOpen => throw new NotSupportedException();

    /// <summary>Where a transport put it, or null. The transport sets it.</summary>
    public IVfioEndpoint? Endpoint
    {
        get => Volatile.Read(ref _endpoint);
        set => Volatile.Write(ref _endpoint, value);
    }

    internal IVfioDeviceOps Ops { get; }

    /// <summary>Opens the device for one user.</summary>
    /// <param name="user">The user's name for messages.</param>
    /// <param name="handle">The open device; the caller disposes it.</param>
    /// <param name="fault">EBUSY: open, or its DMA belongs to another; ENODEV: it is going away; what the driver answered.</param>
    public bool TryOpen(string user, out VfioHandle? handle, out Fault fault) => throw new NotSupportedException();
}
