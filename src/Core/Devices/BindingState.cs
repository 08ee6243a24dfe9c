namespace Virtbus.Core;

/// <summary>The relation of a device to a driver.</summary>
public enum BindingState
{
    /// <summary>No driver.</summary>
    Unbound,
    /// <summary>A driver's probe runs.</summary>
    Probing,
    /// <summary>A driver is bound.</summary>
    Bound,
    /// <summary>The driver's remove runs.</summary>
    Unbinding,
}
