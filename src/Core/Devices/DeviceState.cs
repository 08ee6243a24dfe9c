namespace Virtbus.Core;

/// <summary>How far a device is in its life (Linux: device_initialize, device_add, device_del, release).</summary>
public enum DeviceState
{
    /// <summary>Made, not yet in the tree.</summary>
    Initialized,
    /// <summary>In the tree.</summary>
    Added,
    /// <summary>Being taken out of the tree, or out of it; references may still be held.</summary>
    Deleted,
    /// <summary>The last reference is gone.</summary>
    Released,
}
