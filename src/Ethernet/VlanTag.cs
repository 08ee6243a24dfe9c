using System.Buffers.Binary;

namespace Virtbus.Ethernet;

/// <summary>The tag of a VLAN (IEEE 802.1Q, 9.6): a type and 16 bits of control, behind the source address.</summary>
internal static class VlanTag
{
    /// <summary>Bytes of a tag.</summary>
    public const int Length = 4;

    /// <summary>Where it stands in a frame.</summary>
    public const int Offset = 12;

    /// <summary>The type of a tag of a customer's VLAN.</summary>
    public const ushort CustomerType = 0x8100;

    /// <summary>The type of a tag of a service's VLAN.</summary>
    public const ushort ServiceType = 0x88A8;

    /// <summary>The bits of the control that are the VLAN's id.</summary>
    public const int IdMask = 0xFFF;

    /// <summary>The highest id that a VLAN may have.</summary>
    public const ushort MaxId = 4094;

    /// <summary>Writes one.</summary>
    /// <param name="to">Four bytes or more.</param>
    /// <param name="control">Priority and id.</param>
    public static void Write(Span<byte> to, ushort control)
    {
        BinaryPrimitives.WriteUInt16BigEndian(to, CustomerType);
        BinaryPrimitives.WriteUInt16BigEndian(to[2..], control);
    }
}
