namespace Virtbus.Ethernet;

/// <summary>
/// Does what the sender of a frame left, for one who does not take it over: puts the checksum in, cuts what no wire takes (Linux: the software side of
/// its offloads). What comes out are frames that a wire can have, one after the other. It allocates nothing.
/// </summary>
public ref struct FrameFinisher
{
    /// <summary>Bytes of memory that it needs for a frame with something left to do.</summary>
    public const int BufferSize = FrameCutter.BufferSize;

    private FrameCutter _cutter;
    private EthernetFrame _single;
    private bool _isCut;
    private bool _hasSingle;

    /// <summary>Begins with a frame.</summary>
    /// <param name="frame">The frame, sound (<see cref="EthernetFrame.TryGetNeeds"/>); its bytes are read until the last piece.</param>
    /// <param name="takes">What is left as it is.</param>
    /// <param name="buffer">Memory of <see cref="BufferSize"/> bytes, which the pieces lie in.</param>
    /// <param name="finisher">The rest of the work.</param>
    /// <returns>False when the frame is not, or no longer, what its offload data says.</returns>
    public static bool TryBegin(in EthernetFrame frame, OffloadKinds takes, Span<byte> buffer, out FrameFinisher finisher)
    {
        finisher = default;
        return frame.TryGetNeeds(out var needs) && TryBegin(frame, default, needs & ~takes, buffer, out finisher);
    }

    /// <summary>Begins with a frame that may change its tag too.</summary>
    /// <param name="frame">The frame, as it was looked at.</param>
    /// <param name="edit">What becomes of its VLAN tag.</param>
    /// <param name="lacks">What has to be done to it.</param>
    /// <param name="buffer">Memory of the frame's length with its new tag, and of <see cref="BufferSize"/> for one to be cut; none where nothing is to be done.</param>
    /// <param name="finisher">The rest of the work.</param>
    internal static bool TryBegin(in EthernetFrame frame, scoped in TagEdit edit, OffloadKinds lacks, Span<byte> buffer, out FrameFinisher finisher)
    {
        finisher = default;
        if (edit.IsNone && lacks == OffloadKinds.None)
        {
            finisher._single = frame;
        }
        else if (lacks != OffloadKinds.None && frame.Offload.Segmentation != SegmentationType.None)
        {
            finisher._isCut = true;
            return FrameCutter.TryBegin(buffer, frame, edit, out finisher._cutter);
        }
        else
        {
            var bytes = buffer[..(frame.Length + edit.Growth)];
            edit.CopyTo(frame.Bytes, bytes);
            var offload = edit.Adjust(frame.Offload);
            if (lacks != OffloadKinds.None)
            {
                InternetChecksum.Put(bytes[offload.ChecksumStart..], offload.ChecksumOffset);
                offload = new FrameOffload { HashReport = offload.HashReport, Hash = offload.Hash };
            }

            finisher._single = new EthernetFrame(bytes, offload);
        }

        finisher._hasSingle = true;
        return true;
    }

    /// <summary>Makes the next frame.</summary>
    /// <param name="frame">The frame; valid until the next one.</param>
    /// <returns>False when there is none.</returns>
    public bool TryNext(out EthernetFrame frame)
    {
        if (_isCut)
            return _cutter.TryNext(out frame);
        frame = _single;
        var isThere = _hasSingle;
        _hasSingle = false;
        return isThere;
    }
}
