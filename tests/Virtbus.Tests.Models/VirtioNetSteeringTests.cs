using System.Buffers.Binary;
using System.Net;
using Virtbus.Ethernet;
using Virtbus.Models.VirtioNet;
using Virtbus.Virtio;
using static Virtbus.Models.VirtioNet.VirtioNetConfig;

namespace Virtbus.Tests.Models;

/// <summary>Which queue a flow goes to: by the driver's table and the Toeplitz hash, or to the pair that sent in it.</summary>
public sealed class VirtioNetSteeringTests : IDisposable
{
    private const ulong MacA = 0x02_00_00_00_00_0A;
    private const ulong MacB = 0x02_00_00_00_00_0B;
    private const int Pairs = 4;
    // The key of the RSS verification suite.
    private const string Key = "6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa";
    private readonly EthernetSwitch _network = new();
    private readonly VirtioNetDevice _device;
    private readonly VirtioNetUser _user;

    public VirtioNetSteeringTests()
    {
        _device = new VirtioNetDevice("net", _network, new VirtioNetOptions(MacA) { QueuePairs = Pairs });
        _user = new VirtioNetUser(_device);
    }

    public void Dispose()
    {
        _user.Dispose();
        _device.Dispose();
    }

    // Source, destination, hash of the addresses, hash with the ports: the published suite.
    [Theory]
    [InlineData("66.9.149.187", 2794, "161.142.100.80", 1766, 0x323e8fc2, 0x51ccc178)]
    [InlineData("199.92.111.2", 14230, "65.69.140.83", 4739, 0xd718262a, 0xc626b0ea)]
    [InlineData("24.19.198.95", 12898, "12.22.207.184", 38024, 0xd2d0a5de, 0x5c2b394a)]
    [InlineData("38.27.205.30", 48228, "209.142.163.6", 2217, 0x82989176, 0xafc7327f)]
    [InlineData("153.39.163.191", 44251, "202.188.127.2", 1303, 0x5d1809c5, 0x10e828a2)]
    [InlineData("3ffe:2501:200:1fff::7", 2794, "3ffe:2501:200:3::1", 1766, 0x2cc18cd5, 0x40207d3d)]
    [InlineData("3ffe:501:8::260:97ff:fe40:efab", 14230, "ff02::1", 4739, 0x0f0c461c, 0xdde51bbf)]
    [InlineData("3ffe:1900:4545:3:200:f8ff:fe21:67cf", 44251, "fe80::200:f8ff:fe21:67cf", 38024, 0x4b61e985, 0x02d1feef)]
    public void Hash_is_that_of_the_verification_suite_for_each_type_and_chooses_the_queue(
        string source, ushort sourcePort, string destination, ushort port, uint ofAddresses, uint ofAll)
    {
        var (from, to) = (IPAddress.Parse(source), IPAddress.Parse(destination));
        var isV6 = from.GetAddressBytes().Length == 16;
        var first = isV6 ? 3 : 0;
        foreach (var (protocol, whole) in ((byte, int)[])[(6, 2), (17, 3)])
        {
            var frame = Ip(from, to, sourcePort, port, protocol);
            // All types: that with the ports; without it the addresses; of another kind none, and the queue for those.
            Comes(frame, 0x3F, first + whole, ofAll);
            Comes(frame, 1u << first, first + 1, ofAddresses);
            Comes(frame, 0x3Fu & ~(1u << (first + whole - 1)), first + 1, ofAddresses);
            Comes(frame, isV6 ? 7u : 0x38u, 0, 0);
        }

        // In fragments there are no ports; and no other protocol has them.
        Comes(Ip(from, to, sourcePort, port, 1), 0x3F, first + 1, ofAddresses);
        if (!isV6)
            Comes(Ip(from, to, sourcePort, port, 6, fragment: 0x2000), 0x3F, 1, ofAddresses);
        // Behind tags it is the same flow.
        Comes([.. Ip(from, to, sourcePort, port, 6).AsSpan(0, 12), 0x81, 0, 0, 5, .. Ip(from, to, sourcePort, port, 6).AsSpan(12)], 0x3F, first + 2, ofAll);
        Comes(Net.Frame(MacA, MacB, 60, 1), 0x3F, 0, 0);
    }

    [Fact]
    public void Header_of_an_IPv6_packet_is_found_behind_extensions()
    {
        var frame = Ip(IPAddress.Parse("3ffe:2501:200:1fff::7"), IPAddress.Parse("3ffe:2501:200:3::1"), 2794, 1766, 6);
        frame[20] = 0;
        byte[] extended = [.. frame.AsSpan(0, 54), 60, 0, 0, 0, 0, 0, 0, 0, 6, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, .. frame.AsSpan(54)];
        Comes(extended, 0x3F, 5, 0x40207d3d);
        // One that leads out of the frame, or through too many of them, has no ports.
        extended[63] = 255;
        Comes(extended, 0x3F, 4, 0x2cc18cd5);
    }

    [Fact]
    public void Flow_comes_to_the_pair_that_sent_in_it_last()
    {
        Assert.Equal(0, _user.Command(4, 0, Pairs, 0));
        for (var i = 0; i < 200; i++)
        {
            var pair = i % Pairs;
            var (source, port) = (0x0A000000u + (uint)(i % 7), (ushort)(1000 + (i % 5)));
            _user.Send(Net.Tcp(MacB, MacA, 60, source, 0x0B000001, port, 80), default, (2 * pair) + 1);
            Deadline.Until(() => _device.Counters.SentFrames == (ulong)i + 1, "the frame to be sent");
            var answer = Net.Tcp(MacA, MacB, 60, 0x0B000001, source, 80, port);
            Deliver(answer);
            Assert.Equal(answer, _user.Receive(2 * pair)[20..]);
        }
    }

    [Fact]
    public void Flows_of_the_user_before_are_forgotten_at_a_reset()
    {
        Assert.Equal(0, _user.Command(4, 0, Pairs, 0));
        // Each flow by a pair that is not the one of its hash.
        var flows = Enumerable.Range(0, 40).Select(i => Net.Tcp(MacB, MacA, 60, 0x0A000000u + (uint)(i * 77), 0x0B000001)).ToArray();
        var own = flows.Select(frame => _device.Flows.Find(frame, Pairs)).ToArray();
        for (var i = 0; i < flows.Length; i++)
            _user.Send(flows[i], default, (2 * ((own[i] + 1) % Pairs)) + 1);
        Deadline.Until(() => _device.Counters.SentFrames == (ulong)flows.Length, "the frames to be sent");
        Assert.Equal(own.Select(pair => (pair + 1) % Pairs), flows.Select(frame => _device.Flows.Find(frame, Pairs)));
        _user.Restart();
        Assert.Equal(own, flows.Select(frame => _device.Flows.Find(frame, Pairs)));
    }

    [Fact]
    public void Without_a_table_or_pairs_all_come_to_the_first_and_with_pairs_they_are_spread()
    {
        for (var i = 0; i < 100; i++)
        {
            Deliver(Net.Tcp(MacA, MacB, 60, (uint)i));
            _user.Receive();
        }

        Assert.Equal(0, _user.Command(4, 0, 3, 0));
        var counts = new int[Pairs];
        for (var i = 0; i < 300; i++)
        {
            Deliver(Net.Tcp(MacA, MacB, 60, 0x0A000000u + (uint)(i * 77)));
            counts[Next()]++;
        }

        Assert.Equal(0, counts[3]);
        Assert.All(counts.AsSpan(0, 3).ToArray(), count => Assert.InRange(count, 50, 150));
        foreach (var data in (byte[][])[[0, 0], [5, 0], [0, 1], [1], [1, 0, 0]])
            Assert.Equal(1, _user.Command(4, 0, data));
        _user.Restart();
        Deliver(Net.Tcp(MacA, MacB, 60, 77));
        _user.Receive();
    }

    [Fact]
    public void Queue_that_does_not_run_gives_its_flows_to_another_one_and_a_table_does_not()
    {
        Assert.Equal(0, _user.Command(4, 0, 2, 0));
        _device.ResetQueue(0);
        for (var i = 0; i < 20; i++)
        {
            Deliver(Net.Tcp(MacA, MacB, 60, (uint)i));
            _user.Receive(2);
        }

        Assert.Equal(0UL, _device.Counters.ReceiveLost);
        Assert.Equal(0, Rss(0x3F, [0], 0));
        Deliver(Net.Tcp(MacA, MacB, 60, 1));
        Assert.Equal(1UL, _device.Counters.ReceiveLost);
    }

    [Fact]
    public void Last_command_says_how_flows_are_steered_and_the_hash_is_reported_by_either()
    {
        var frame = Ip(IPAddress.Parse("66.9.149.187"), IPAddress.Parse("161.142.100.80"), 2794, 1766, 6);
        Assert.Equal(0, _user.Command(4, 2, [.. Types(0x3F), 0, 0, 0, 0, 0, 0, 0, 0, 40, .. Convert.FromHexString(Key)]));
        Deliver(frame);
        Assert.Equal(0x51ccc178u, BinaryPrimitives.ReadUInt32LittleEndian(_user.Receive().AsSpan(12)));
        Assert.Equal(0, Rss(0x3F, [3], 0));
        Deliver(frame);
        Assert.Equal(0x51ccc178u, BinaryPrimitives.ReadUInt32LittleEndian(_user.Receive(6).AsSpan(12)));
        Assert.Equal(0, _user.Command(4, 0, 1, 0));
        Deliver(frame);
        Assert.Equal(0x51ccc178u, BinaryPrimitives.ReadUInt32LittleEndian(_user.Receive().AsSpan(12)));
        _user.Restart();
        Deliver(frame);
        Assert.Equal(0u, BinaryPrimitives.ReadUInt32LittleEndian(_user.Receive().AsSpan(12)));
    }

    [Fact]
    public void Table_or_hash_that_is_wrong_changes_nothing()
    {
        Assert.Equal(0, Rss(0x3F, [1], 1));
        Assert.Equal(1, Rss(0x40, [0], 0));
        Assert.Equal(1, Rss(0x3F, [0], Pairs));
        Assert.Equal(1, Rss(0x3F, [0, Pairs], 0));
        Assert.Equal(1, Rss(0x3F, [0, 0x8000], 0));
        Assert.Equal(1, Rss(0x3F, [0, 0, 0], 0));
        Assert.Equal(1, Rss(0x3F, new ushort[256], 0));
        Assert.Equal(1, Rss(0x3F, [0], 0, transmit: 0));
        Assert.Equal(1, Rss(0x3F, [0], 0, transmit: Pairs + 1));
        Assert.Equal(1, Rss(0x3F, [0], 0, key: new byte[41]));
        var right = RssBytes(0x3F, [0, 0, 0, 0], 0, Pairs, Convert.FromHexString(Key));
        for (var length = 0; length < right.Length; length++)
            Assert.Equal(1, _user.Command(4, 1, right.AsSpan(0, length)));
        byte[] hash = [.. Types(0x3F), 0, 0, 0, 0, 0, 0, 0, 0, 40, .. Convert.FromHexString(Key)];
        for (var length = 0; length < hash.Length; length++)
            Assert.Equal(1, _user.Command(4, 2, hash.AsSpan(0, length)));
        Assert.Equal(1, _user.Command(4, 3));
        Deliver(Net.Tcp(MacA, MacB, 60, 1));
        _user.Receive(2);
        Assert.Equal(0, Rss(0x3F, new ushort[128], 0, key: []));
        Deliver(Net.Tcp(MacA, MacB, 60, 1));
        _user.Receive();
    }

    /// <summary>Linux's driver fills what is reserved, and sends a byte of padding behind the key.</summary>
    [Fact]
    public void Byte_behind_the_key_and_reserved_words_change_nothing()
    {
        var frame = Net.Tcp(MacA, MacB, 60, 1);
        Assert.Equal(0, _user.Command(4, 2, [.. Types(0x3F), 0, 0, 0, 0, 0, 0, 0, 0, 40, .. Convert.FromHexString(Key)]));
        Deliver(frame);
        var hash = _user.Receive().AsSpan(12, 6).ToArray();
        Assert.NotEqual(0u, BinaryPrimitives.ReadUInt32LittleEndian(hash));
        _user.Restart();
        Assert.Equal(0, _user.Command(4, 2, [.. Types(0x3F), 0, 0, 0, 0, 0, 0, Pairs, 0, 40, .. Convert.FromHexString(Key), 0xEE]));
        Deliver(frame);
        Assert.Equal(hash, _user.Receive().AsSpan(12, 6).ToArray());
        _user.Restart();
        Assert.Equal(0, _user.Command(4, 1, [.. RssBytes(0x3F, [0], 0, Pairs, Convert.FromHexString(Key)), 0xEE]));
        Deliver(frame);
        Assert.Equal(hash, _user.Receive().AsSpan(12, 6).ToArray());
    }

    // With 128 entries, the queue of each its number modulo the pairs; what has no hash goes to the last.
    private void Comes(byte[] frame, uint types, int report, uint hash)
    {
        Assert.Equal(0, Rss(types, [.. Enumerable.Range(0, 128).Select(i => (ushort)(i % (Pairs - 1)))], Pairs - 1));
        Deliver(frame);
        var got = _user.Receive(2 * (report == 0 ? Pairs - 1 : (int)(hash % 128 % (Pairs - 1))));
        Assert.Equal(frame, got[20..]);
        Assert.Equal((hash, report), (BinaryPrimitives.ReadUInt32LittleEndian(got.AsSpan(12)), BinaryPrimitives.ReadUInt16LittleEndian(got.AsSpan(16))));
    }

    private void Deliver(byte[] frame)
    {
        _device.Port.Sink.Deliver(new EthernetFrame(frame));
        _device.Port.Sink.Flush();
    }

    private int Next()
    {
        var found = -1;
        var bytes = new byte[100];
        Deadline.Until(() => (found = Enumerable.Range(0, Pairs).FirstOrDefault(pair => _user.Take(2 * pair, bytes) > 0, -1)) >= 0, "a frame");
        _user.Push(2 * found);
        return found;
    }

    private byte Rss(uint types, ushort[] table, ushort unclassified, ushort transmit = Pairs, byte[]? key = null) =>
        _user.Command(4, 1, RssBytes(types, table, unclassified, transmit, key ?? Convert.FromHexString(Key)));

    private static byte[] RssBytes(uint types, ushort[] table, ushort unclassified, ushort transmit, byte[] key) =>
        [.. Types(types), .. Word((ushort)(table.Length - 1)), .. Word(unclassified), .. table.SelectMany(Word), .. Word(transmit), (byte)key.Length, .. key];

    private static byte[] Types(uint types)
    {
        var bytes = new byte[4];
        BinaryPrimitives.WriteUInt32LittleEndian(bytes, types);
        return bytes;
    }

    private static byte[] Word(ushort value) => [(byte)value, (byte)(value >> 8)];

    private static byte[] Ip(IPAddress from, IPAddress to, ushort sourcePort, ushort port, byte protocol, ushort fragment = 0)
    {
        var isV6 = from.GetAddressBytes().Length == 16;
        byte[] header = isV6
            ? [0x60, 0, 0, 0, 0, 20, protocol, 64, .. from.GetAddressBytes(), .. to.GetAddressBytes()]
            : [0x45, 0, 0, 40, 0, 0, (byte)(fragment >> 8), (byte)fragment, 64, protocol, 0, 0, .. from.GetAddressBytes(), .. to.GetAddressBytes()];
        var frame = Net.Frame(MacA, MacB, 14, 1);
        BinaryPrimitives.WriteUInt16BigEndian(frame.AsSpan(12), (ushort)(isV6 ? 0x86DD : 0x0800));
        return [.. frame, .. header, (byte)(sourcePort >> 8), (byte)sourcePort, (byte)(port >> 8), (byte)port, .. new byte[16]];
    }
}
