namespace Virtbus.Core;

/// <summary>State of a managed link. Follows from the bindings at its two ends.</summary>
public enum DeviceLinkState
{
    /// <summary>The link is stateless.</summary>
    None = -1,
    /// <summary>Neither end is usable.</summary>
    Dormant = 0,
    /// <summary>The supplier is bound, the consumer is not.</summary>
    Available = 1,
    /// <summary>The consumer's probe runs.</summary>
    ConsumerProbe = 2,
    /// <summary>Both ends are bound.</summary>
    Active = 3,
    /// <summary>The supplier is being unbound.</summary>
    SupplierUnbind = 4,
}
