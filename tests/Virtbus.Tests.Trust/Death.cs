namespace Virtbus.Tests.Trust;

/// <summary>What ends the use of a device.</summary>
internal enum Death
{
    /// <summary>The user's process is killed.</summary>
    User,
    /// <summary>The daemon's process is killed, and another one started in its place.</summary>
    Daemon,
    /// <summary>The device is removed and its user asked to let go, which it does.</summary>
    Removal,
    /// <summary>The device is removed; its user hears nothing and is killed in the end.</summary>
    RemovalFromTheDeaf,
    /// <summary>The device is taken away from its user and removed.</summary>
    ForcedRemoval,
    /// <summary>The driver is unbound; the user lets go.</summary>
    Unbind,
    /// <summary>The physical function of a virtual one is removed; the user lets go.</summary>
    ParentRemoval,
    /// <summary>The hardware is pulled out of its slot.</summary>
    Pull,
    /// <summary>The hardware breaks.</summary>
    Break,
}
