namespace Virtbus.Core;

/// <summary>How a link behaves; the values are Linux's DL_FLAG_*.</summary>
[Flags]
public enum DeviceLinkFlags
{
    /// <summary>Managed by the core until it is removed.</summary>
    None = 0,
    /// <summary>Orders power only; probe and unbind ignore it.</summary>
    Stateless = 0x1,
    /// <summary>Removed when the consumer's driver is unbound.</summary>
    AutoremoveConsumer = 0x2,
    /// <summary>A runtime use of the consumer is one of the supplier.</summary>
    PmRuntime = 0x4,
    /// <summary>
    /// With <see cref="PmRuntime"/>: the supplier is awake when the link is made. That use goes with the consumer's next last one, or with the
    /// link. Tells how a link is made and is not kept.
    /// </summary>
    RpmActive = 0x8,
    /// <summary>Removed when the supplier's driver is unbound.</summary>
    AutoremoveSupplier = 0x10,
    /// <summary>When the supplier is bound, the consumer is probed.</summary>
    AutoprobeConsumer = 0x20,
}
