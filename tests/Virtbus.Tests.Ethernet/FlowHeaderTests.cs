using System.Buffers.Binary;
using Virtbus.Ethernet;

namespace Virtbus.Tests.Ethernet;

/// <summary>The number of a flow: the same both ways, and one that spreads flows over few places.</summary>
public sealed class FlowHeaderTests
{
    [Theory]
    [InlineData(2)]
    [InlineData(4)]
    [InlineData(1024)]
    public void Flows_of_two_hosts_spread_by_their_ports_over_any_number_of_places(int places)
    {
        var used = new HashSet<uint>();
        for (ushort port = 1000; port < 3048; port++)
        {
            var there = Frame(0x0A000001, 0x0A000002, port, 80);
            var back = Frame(0x0A000002, 0x0A000001, 80, port);
            var hash = FlowHeader.Parse(there).SymmetricHash(there);
            Assert.Equal(hash, FlowHeader.Parse(back).SymmetricHash(back));
            used.Add(hash % (uint)places);
        }

        Assert.True(used.Count > places / 2, $"{used.Count} of {places}");
    }

    private static byte[] Frame(uint from, uint to, ushort port, ushort toPort)
    {
        var frame = new byte[60];
        (frame[12], frame[14], frame[23]) = (8, 0x45, FlowHeader.Tcp);
        BinaryPrimitives.WriteUInt32BigEndian(frame.AsSpan(26), from);
        BinaryPrimitives.WriteUInt32BigEndian(frame.AsSpan(30), to);
        BinaryPrimitives.WriteUInt16BigEndian(frame.AsSpan(34), port);
        BinaryPrimitives.WriteUInt16BigEndian(frame.AsSpan(36), toPort);
        return frame;
    }
}
