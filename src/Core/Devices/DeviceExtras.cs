namespace Virtbus.Core;

/// <summary>
/// What few of many devices have: children, links, power, somebody who waits. Made when the first of it is there, so that a device without
/// takes three cache lines and not four. Each field is guarded as if it stood in <see cref="Device"/>.
/// </summary>
internal sealed class DeviceExtras
{
    public string? DeferredReason;
    public string? ProbeFailure;
    public string? DriverOverride;
    public ChildDirectory? Children;

    /// <summary>The device's own path, which its children share.</summary>
    public string? Path;

    public DevicePower? Power;
    public DeviceLinks? Links;

    // Guarded by the fabric's gate.
    public List<TransitionWaiter>? Waiters;
    public HashSet<Device>? PendingDescendants;
}
