using System.Buffers.Binary;

namespace Virtbus.Ethernet;

/// <summary>A frame on its way through the switch: its addresses, its VLAN, and what has to be done before a wire takes it, each read once.</summary>
internal readonly ref struct SwitchedFrame
{
    private readonly ushort _control;
    private readonly bool _isTagRight;

    private SwitchedFrame(in EthernetFrame frame, OffloadKinds needs, ushort vlan, ushort control, bool isTagged, bool isTagRight)
    {
        Frame = frame;
        Needs = needs;
        Destination = frame.Destination;
        Source = frame.Source;
        Vlan = vlan;
        _control = control;
        IsTagged = isTagged;
        _isTagRight = isTagRight;
    }

    /// <summary>The frame as it came.</summary>
    public EthernetFrame Frame { get; }

    /// <summary>What has to be done before a wire takes it.</summary>
    public OffloadKinds Needs { get; }

    /// <summary>The address that it goes to.</summary>
    public ulong Destination { get; }

    /// <summary>The address that it comes from.</summary>
    public ulong Source { get; }

    /// <summary>Its VLAN; 0 for none.</summary>
    public ushort Vlan { get; }

    /// <summary>Whether it has a tag.</summary>
    public bool IsTagged { get; }

    /// <summary>Reads what comes in by a port.</summary>
    /// <param name="frame">The frame.</param>
    /// <param name="accessVlan">The port's VLAN; 0 for a trunk.</param>
    /// <param name="switched">The answer; of another VLAN than the port's when its tag says so.</param>
    /// <returns>False when its length or its offload data is nonsense.</returns>
    public static bool TryRead(in EthernetFrame frame, ushort accessVlan, out SwitchedFrame switched)
    {
        switched = default;
        var bytes = frame.Bytes;
        if (!frame.IsValid)
            return false;
        var isTagged = BinaryPrimitives.ReadUInt16BigEndian(bytes[VlanTag.Offset..]) == VlanTag.CustomerType;
        if (isTagged && bytes.Length < EthernetFrame.MinLength + VlanTag.Length)
            return false;
        var control = isTagged ? BinaryPrimitives.ReadUInt16BigEndian(bytes[EthernetFrame.MinLength..]) : (ushort)0;
        var id = (ushort)(control & VlanTag.IdMask);
        var isTagRight = true;
        // A tag without an id says a priority only; then the port's VLAN counts (IEEE 802.1Q, 6.9).
        if (id == 0 && accessVlan != 0)
        {
            id = accessVlan;
            control |= accessVlan;
            isTagRight = false;
        }
        var spare = isTagRight || isTagged ? 0 : VlanTag.Length;
        if (!EthernetFrame.HasValidLength(frame.Length + spare, frame.Offload)
            || !FrameLayout.TryRead(bytes, bytes.Length, frame.Offload, spare, out var layout))
            return false;
        switched = new SwitchedFrame(frame, layout.Needs, id, control, isTagged, isTagRight);
        return true;
    }

    /// <summary>Whether a port is one of the frame's VLAN.</summary>
    /// <param name="accessVlan">The port's VLAN; 0 for a trunk.</param>
    public bool MayLeaveBy(ushort accessVlan) => accessVlan == 0 || accessVlan == Vlan;

    /// <summary>What becomes of its tag.</summary>
    /// <param name="accessVlan">The VLAN of the port that it goes out by; 0 for a trunk.</param>
    public TagEdit EditFor(ushort accessVlan)
    {
        if (accessVlan != 0)
            return new TagEdit(Removes: IsTagged, Inserts: false, 0);
        return _isTagRight ? default : new TagEdit(Removes: IsTagged, Inserts: true, _control);
    }
}
