using Virtbus.Ethernet;
using Virtbus.Platform;

namespace Virtbus.Transports.Tap;

/// <summary>The header before a frame of a TAP queue: struct virtio_net_hdr_v1 (VIRTIO 1.2, 5.1.6), in little endian.</summary>
internal static class TapHeader
{
    /// <summary>Writes one.</summary>
    /// <param name="header"><see cref="TapFile.HeaderSize"/> bytes.</param>
    /// <param name="offload">The frame's offload data.</param>
    /// <param name="length">Bytes of the frame: the host refuses a header that says more, and this one is a hint of a guest's.</param>
    public static void Write(Span<byte> header, in FrameOffload offload, int length)
    {
        header.Clear();
        (offload with { HeaderLength = (ushort)Math.Min(offload.HeaderLength, length) }).WriteTo(header, FrameFlags.NeedsChecksum | FrameFlags.DataValid);
    }
}
