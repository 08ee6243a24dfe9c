using System.Buffers.Binary;

namespace Virtbus.Tests.Trust;

/// <summary>Ethernet frames of the tests: destination, source, an EtherType for local experiments, the flow, the number in it, and bytes that follow from both.</summary>
internal static class NicFrame
{
    public const int AddressSize = 6;

    /// <summary>A flow whose frames nobody waits for: they tell the switch where a station is.</summary>
    public const ushort Announcement = 0xFFFF;

    private const ushort EtherType = 0x88B5;
    private const int FlowAt = 14;
    private const int SequenceAt = 16;
    private const int HeaderSize = 20;

    /// <summary>The address of a queue set, which is the driver's to choose.</summary>
    /// <param name="function">A number of the function.</param>
    /// <param name="set">The queue set.</param>
    public static byte[] AddressOf(uint function, int set)
    {
        var address = new byte[AddressSize];
        address[0] = 2;
        BinaryPrimitives.WriteUInt32BigEndian(address.AsSpan(1), function);
        address[5] = (byte)set;
        return address;
    }

    /// <summary>Everybody's address.</summary>
    public static byte[] Broadcast => [0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF];

    public static byte[] Make(ReadOnlySpan<byte> to, ReadOnlySpan<byte> from, ushort flow, uint sequence)
    {
        var random = new Random((flow << 20) + (int)sequence);
        var frame = new byte[random.Next(HeaderSize, NicQueueSet.MaxFrame + 1)];
        random.NextBytes(frame);
        to.CopyTo(frame);
        from.CopyTo(frame.AsSpan(AddressSize));
        BinaryPrimitives.WriteUInt16BigEndian(frame.AsSpan(2 * AddressSize), EtherType);
        BinaryPrimitives.WriteUInt16BigEndian(frame.AsSpan(FlowAt), flow);
        BinaryPrimitives.WriteUInt32BigEndian(frame.AsSpan(SequenceAt), sequence);
        return frame;
    }

    public static bool IsFor(ReadOnlySpan<byte> frame, ReadOnlySpan<byte> address) => frame.StartsWith(address);

    public static ushort FlowOf(ReadOnlySpan<byte> frame) => BinaryPrimitives.ReadUInt16BigEndian(frame[FlowAt..]);

    public static uint SequenceOf(ReadOnlySpan<byte> frame) => BinaryPrimitives.ReadUInt32BigEndian(frame[SequenceAt..]);
}
