using System.Buffers.Binary;

namespace Virtbus.Virtio.Admin;

/// <summary>What an administration command begins with (struct virtio_admin_cmd; VIRTIO 1.4, 2.12.1); its data follows. What it says is for who gets it to check.</summary>
/// <param name="Opcode">Which command, see <see cref="AdminOpcode"/>.</param>
/// <param name="GroupType">Of which group, see <see cref="AdminGroupType"/>.</param>
/// <param name="MemberId">For which member; 0 where a command has none.</param>
public readonly record struct AdminCommand(ushort Opcode, ushort GroupType, ulong MemberId)
{
    /// <summary>Bytes before the data.</summary>
    public const int Size = 24;

    private const int GroupTypeAt = 2;
    private const int MemberAt = 16;

    /// <summary>Reads it.</summary>
    /// <param name="source">The part of the buffer that the device reads; what is missing counts as 0 (2.13).</param>
    public static AdminCommand Read(ReadOnlySpan<byte> source)
    {
        Span<byte> whole = stackalloc byte[Size];
        whole.Clear();
        source[..Math.Min(source.Length, Size)].CopyTo(whole);
        return new AdminCommand(
            BinaryPrimitives.ReadUInt16LittleEndian(whole), BinaryPrimitives.ReadUInt16LittleEndian(whole[GroupTypeAt..]), BinaryPrimitives.ReadUInt64LittleEndian(whole[MemberAt..]));
    }

    /// <summary>Writes it.</summary>
    /// <param name="destination">Where to; at least <see cref="Size"/> bytes.</param>
    public void Write(Span<byte> destination)
    {
        var whole = destination[..Size];
        whole.Clear();
        BinaryPrimitives.WriteUInt16LittleEndian(whole, Opcode);
        BinaryPrimitives.WriteUInt16LittleEndian(whole[GroupTypeAt..], GroupType);
        BinaryPrimitives.WriteUInt64LittleEndian(whole[MemberAt..], MemberId);
    }
}
