namespace Virtbus.Core;

/// <summary>
/// A consumer needs a supplier. A managed link keeps the consumer from probing before the supplier is bound, unbinds it before the
/// supplier is unbound, and orders both in power transitions. A pair has one link, which serves all who asked for one.
/// </summary>
public sealed class DeviceLink
{
    private readonly Lock _lock = new();
    private int _stateless;
    private int _uses;
    private bool _isOver;

    internal DeviceLink(Device supplier, Device consumer)
    {
        Supplier = supplier;
        Consumer = consumer;
    }

    /// <summary>The device that is needed.</summary>
    public Device Supplier { get; }

    /// <summary>The device that needs it.</summary>
    public Device Consumer { get; }

    /// <summary>How the link behaves: what came of all requests for it.</summary>
    public DeviceLinkFlags Flags { get; private set; }

    /// <summary>True when probe and unbind follow the link. It can be stateless as well, when it was asked for in both ways.</summary>
    public bool IsManaged { get; private set; }

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

    /// <summary>True when somebody may take a stateless request back. Guarded by the fabric's gate, as the next three.</summary>
    internal bool IsStateless => _stateless > 0;

    /// <summary>
    /// Makes one more request part of the link, the first one too: the longer life wins. An autoremove flag therefore only counts when the
    /// link is made with it, and goes when somebody wants the link without.
    /// </summary>
    internal void Add(DeviceLinkFlags flags, bool isFirst)
    {
        Flags |= flags & (isFirst ? ~DeviceLinkFlags.RpmActive : DeviceLinkFlags.PmRuntime | DeviceLinkFlags.Stateless);
        if (flags.HasFlag(DeviceLinkFlags.Stateless))
        {
            _stateless++;
            return;
        }
        IsManaged = true;
        if (flags.HasFlag(DeviceLinkFlags.AutoremoveSupplier))
        {
            if (Flags.HasFlag(DeviceLinkFlags.AutoremoveConsumer))
                Flags = (Flags & ~DeviceLinkFlags.AutoremoveConsumer) | DeviceLinkFlags.AutoremoveSupplier;
        }
        else if (!flags.HasFlag(DeviceLinkFlags.AutoremoveConsumer))
        {
            Flags &= ~(DeviceLinkFlags.AutoremoveConsumer | DeviceLinkFlags.AutoremoveSupplier);
        }
    }

    /// <summary>Takes one stateless request back.</summary>
    /// <returns>True when nobody wants the link any more.</returns>
    internal bool RemoveStateless()
    {
        if (--_stateless == 0)
            Flags &= ~DeviceLinkFlags.Stateless;
        return _stateless == 0 && !IsManaged;
    }

    /// <summary>Ends the managed part.</summary>
    /// <returns>True when nobody wants the link any more.</returns>
    internal bool EndManaged()
    {
        IsManaged = false;
        return _stateless == 0;
    }

    /// <summary>Makes the link hold a runtime use of the supplier that the caller has taken.</summary>
    /// <returns>False when the link is gone; the caller gives the use back.</returns>
    internal bool TryKeepUse()
    {
        lock (_lock)
        {
            if (_isOver)
                return false;
            _uses++;
            return true;
        }
    }

    /// <summary>Takes the supplier's runtime uses that the link holds; the caller gives them back.</summary>
    /// <param name="last">True when the link goes and is to hold none from here on.</param>
    internal int TakeUses(bool last = false)
    {
        lock (_lock)
        {
            _isOver |= last;
            var uses = _uses;
            _uses = 0;
            return uses;
        }
    }
}
