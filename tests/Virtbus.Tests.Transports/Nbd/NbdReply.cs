using System.Buffers.Binary;
using Virtbus.Transports.Nbd;

namespace Virtbus.Tests.Transports.Nbd;

/// <summary>A reply as it came: a simple one has no type.</summary>
internal sealed record NbdReply(ulong Cookie, NbdError Error, ushort? Type, ulong Offset, byte[] Data)
{
    /// <summary>Of a block status the extents.</summary>
    internal IReadOnlyList<(uint Length, uint Flags)> Extents =>
        [.. Data.Chunk(8).Select(e => (BinaryPrimitives.ReadUInt32BigEndian(e), BinaryPrimitives.ReadUInt32BigEndian(e.AsSpan(4))))];
}
