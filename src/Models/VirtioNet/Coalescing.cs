using System.Buffers.Binary;

namespace Virtbus.Models.VirtioNet;

/// <summary>
/// struct virtio_net_ctrl_coal (VIRTIO 1.3, 5.1.6.5.9): after how many packets, or how long after the first of them, a driver is told. With a 0 among them it
/// is told of each.
/// </summary>
internal readonly record struct Coalescing(uint MaxPackets, uint MaxMicroseconds)
{
    internal const int Bytes = 8;

    internal static Coalescing Read(ReadOnlySpan<byte> from) =>
        new(BinaryPrimitives.ReadUInt32LittleEndian(from), BinaryPrimitives.ReadUInt32LittleEndian(from[4..]));

    internal void Write(Span<byte> to)
    {
        BinaryPrimitives.WriteUInt32LittleEndian(to, MaxPackets);
        BinaryPrimitives.WriteUInt32LittleEndian(to[4..], MaxMicroseconds);
    }
}
