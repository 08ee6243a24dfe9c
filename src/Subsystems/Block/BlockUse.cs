namespace Virtbus.Subsystems.Block;

/// <summary>How a user has a disk open.</summary>
public enum BlockUse
{
    /// <summary>Beside others.</summary>
    Shared,
    /// <summary>Alone (Linux: O_EXCL).</summary>
    Exclusive,
}
