namespace Virtbus.Core;

/// <summary>What happened to an object. The words on the wire are the lower-case names, as the kernel's.</summary>
public enum UeventAction
{
    /// <summary>The object appeared.</summary>
    Add,
    /// <summary>The object went.</summary>
    Remove,
    /// <summary>Something about the object changed.</summary>
    Change,
    /// <summary>The object moved in the tree.</summary>
    Move,
    /// <summary>The object came into service.</summary>
    Online,
    /// <summary>The object went out of service.</summary>
    Offline,
    /// <summary>A driver was bound to the device.</summary>
    Bind,
    /// <summary>A driver was unbound from the device.</summary>
    Unbind,
}
