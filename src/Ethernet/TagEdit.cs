namespace Virtbus.Ethernet;

/// <summary>What becomes of a frame's VLAN tag when it goes out by a port.</summary>
/// <param name="Removes">Whether the tag that stands there goes.</param>
/// <param name="Inserts">Whether one is put there.</param>
/// <param name="Control">Priority and id of that one.</param>
internal readonly record struct TagEdit(bool Removes, bool Inserts, ushort Control)
{
    /// <summary>Whether the frame goes out as it is.</summary>
    public bool IsNone => !Removes && !Inserts;

    /// <summary>By how many bytes the frame grows; negative when it shrinks.</summary>
    public int Growth => (Inserts ? VlanTag.Length : 0) - (Removes ? VlanTag.Length : 0);

    /// <summary>Writes the first bytes of what the frame becomes.</summary>
    /// <param name="frame">The frame as it came, long enough; with a tag when one goes.</param>
    /// <param name="to">As many bytes as are wanted, a header with two tags or more, or all.</param>
    public void CopyTo(ReadOnlySpan<byte> frame, Span<byte> to)
    {
        frame[..VlanTag.Offset].CopyTo(to);
        frame = frame[(VlanTag.Offset + (Removes ? VlanTag.Length : 0))..];
        to = to[VlanTag.Offset..];
        if (Inserts)
        {
            VlanTag.Write(to, Control);
            to = to[VlanTag.Length..];
        }
        frame[..to.Length].CopyTo(to);
    }

    /// <summary>The offload data of what the frame becomes.</summary>
    /// <param name="offload">That of the frame, whose checksum does not start before the tag's end.</param>
    public FrameOffload Adjust(in FrameOffload offload)
    {
        var growth = Growth;
        if (growth == 0)
            return offload;
        var result = offload;
        if ((offload.Flags & FrameFlags.NeedsChecksum) != FrameFlags.None)
            result = result with { ChecksumStart = (ushort)Math.Clamp(offload.ChecksumStart + growth, 0, ushort.MaxValue) };
        // A hint of the sender's, which may be anything.
        if (offload.Segmentation != SegmentationType.None)
            result = result with { HeaderLength = (ushort)Math.Clamp(offload.HeaderLength + growth, 0, ushort.MaxValue) };
        return result;
    }
}
