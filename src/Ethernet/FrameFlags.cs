namespace Virtbus.Ethernet;

/// <summary>What of a frame's offload data counts; the values are those of virtio_net_hdr's flags (VIRTIO 1.2, 5.1.6).</summary>
[Flags]
public enum FrameFlags : byte
{
    /// <summary>Nothing.</summary>
    None = 0,

    /// <summary>The checksum is still to be put in.</summary>
    NeedsChecksum = 1,

    /// <summary>The checksum was found right, or the frame never left this host.</summary>
    DataValid = 2,

    /// <summary>The segment size and the checksum start say how many segments were joined, and how many acknowledgements.</summary>
    SegmentInfo = 4,
}
