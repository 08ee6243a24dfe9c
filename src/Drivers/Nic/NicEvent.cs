namespace Virtbus.Drivers.Nic;

/// <summary>What a core driver tells its parts.</summary>
public enum NicEvent
{
    /// <summary>The link carries again.</summary>
    LinkUp,
    /// <summary>The link was lost.</summary>
    LinkDown,
}
