namespace Virtbus.Core;

/// <summary>
/// A consumer needs a supplier. A managed link keeps the consumer from probing before the supplier is bound, unbinds it before the
/// supplier is unbound, and orders both in power transitions.
/// </summary>
public sealed class DeviceLink
{
    internal DeviceLink(Device supplier, Device consumer, DeviceLinkFlags flags)
    {
        Supplier = supplier;
        Consumer = consumer;
        Flags = flags;
    }

    /// <summary>The device that is needed.</summary>
    public Device Supplier { get; }

    /// <summary>The device that needs it.</summary>
    public Device Consumer { get; }

    /// <summary>How the link behaves.</summary>
    public DeviceLinkFlags Flags { get; }

    /// <summary>True when probe and unbind follow the link.</summary>
    public bool IsManaged => !Flags.HasFlag(DeviceLinkFlags.Stateless);

    /// <summary>The link's name under <c>class/devlink</c>.</summary>
    public string Name => $"{Label(Supplier)}--{Label(Consumer)}";

    /// <summary>The state that follows from the two ends.</summary>
    public DeviceLinkState State
    {
        get
        {
            if (!IsManaged)
                return DeviceLinkState.None;
            return (Supplier.Binding.State, Consumer.Binding.State) switch
            {
                (BindingState.Unbinding, _) => DeviceLinkState.SupplierUnbind,
                (BindingState.Bound, BindingState.Probing) => DeviceLinkState.ConsumerProbe,
                (BindingState.Bound, BindingState.Bound or BindingState.Unbinding) => DeviceLinkState.Active,
                (BindingState.Bound, _) => DeviceLinkState.Available,
                _ => DeviceLinkState.Dormant,
            };
        }
    }

    /// <summary>The state in the words of the <c>status</c> attribute.</summary>
    public string Status => State switch
    {
        DeviceLinkState.None => "not tracked",
        DeviceLinkState.Dormant => "dormant",
        DeviceLinkState.Available => "available",
        DeviceLinkState.ConsumerProbe => "consumer probing",
        DeviceLinkState.Active => "active",
        _ => "supplier unbinding",
    };

    internal static string Label(Device device) => $"{device.Subsystem ?? "no-bus"}:{device.Name}";
}
