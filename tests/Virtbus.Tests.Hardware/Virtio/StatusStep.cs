namespace Virtbus.Tests.Hardware.Virtio;

/// <summary>What a driver does to a device that comes up; below 256, a write of that to the status.</summary>
internal static class StatusStep
{
    /// <summary>Writes VIRTIO_F_VERSION_1 alone, VIRTIO_F_RING_RESET with it, nothing, or what is not offered.</summary>
    internal const int Version = 256;
    internal const int All = 257;
    internal const int NoFeatures = 258;
    internal const int Unoffered = 259;

    /// <summary>Lays the queue's ring out and says where it is; enables the queue; resets it.</summary>
    internal const int Place = 260;
    internal const int Enable = 261;
    internal const int ResetQueue = 262;

    /// <summary>Makes a buffer available, and kicks; breaks the ring, and kicks.</summary>
    internal const int Offer = 263;
    internal const int Break = 264;

    internal const int Count = 265;

    internal static string Name(int step) => step switch
    {
        Version => "VERSION_1",
        All => "VERSION_1+RING_RESET",
        NoFeatures => "no features",
        Unoffered => "unoffered features",
        Place => "place",
        Enable => "enable",
        ResetQueue => "queue_reset",
        Offer => "offer",
        Break => "break",
        _ => $"status {step}",
    };
}
