namespace Virtbus.Subsystems.Block;

/// <summary>What a driver says of a disk that it registers.</summary>
public sealed record BlockDeviceOptions
{
    /// <summary>How many requests the hardware takes at once (Linux: nr_requests).</summary>
    public int Requests { get; init; } = 128;

    /// <summary>Whether a write can be made durable by itself (force unit access).</summary>
    public bool HasForcedWrites { get; init; }

    /// <summary>Whether the medium can be taken out while the device stays.</summary>
    public bool IsRemovable { get; init; }
}
