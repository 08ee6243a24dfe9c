namespace Virtbus.Core;

/// <summary>Runtime power state, in the words of <c>power/runtime_status</c>.</summary>
public enum RuntimeStatus
{
    /// <summary>Runtime power management is off for the device.</summary>
    Unsupported,
    /// <summary>The device works.</summary>
    Active,
    /// <summary>The device sleeps.</summary>
    Suspended,
    /// <summary>A callback failed; the device must be unbound and bound.</summary>
    Error,
}
