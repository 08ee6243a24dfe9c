using System.Buffers.Binary;
using System.Net;
using System.Net.NetworkInformation;
using System.Net.Sockets;
using System.Threading.Channels;
using Virtbus.Ethernet;
using Virtbus.Platform;
using Virtbus.Transports.Tap;

namespace Virtbus.Tests.Transports.Tap;

/// <summary>A TAP interface of the host as a port of a switch, with the host's own stack behind it.</summary>
public sealed class TapPortTests
{
    private const int Headers = 42;
    private const ushort Port = 4791;
    private const SocketOptionName UDP_SEGMENT = (SocketOptionName)103;
    private static readonly byte[] _hostAddress = [10, 213, 7, 1];
    private static readonly byte[] _peerAddress = [10, 213, 7, 2];
    private static readonly byte[] _peerMac = [2, 0, 0, 0, 7, 2];
    private static int _names;
    private readonly EthernetSwitch _switch = new();
    private readonly string _name = $"vbp{Environment.ProcessId % 100000}n{Interlocked.Increment(ref _names)}";
    private readonly Sink _sink = new();
    private readonly SwitchPort _peer;

    public TapPortTests()
    {
        _peer = new SwitchPort(_sink);
        _switch.Join(_peer);
    }

    [Theory]
    [InlineData(OffloadKinds.All)]
    [InlineData(OffloadKinds.Checksum)]
    [InlineData(OffloadKinds.None)]
    public async Task Datagrams_that_the_host_joined_come_uncut_to_who_takes_them(OffloadKinds takes)
    {
        SkipWithoutTap();
        using var tap = TapPort.Start(_name, _switch);
        Assert.SkipUnless(tap.Port.Sink.Takes == OffloadKinds.All, "This Linux joins no datagrams for a TAP interface (6.2 does).");
        SetUp();
        _sink.Takes = takes;
        using var host = HostSocket();
        host.SetRawSocketOption((int)SocketOptionLevel.Udp, (int)UDP_SEGMENT, BitConverter.GetBytes(1000));
        var payload = Payload(2500);
        host.SendTo(payload, new IPEndPoint(new IPAddress(_peerAddress), Port));
        var got = new List<byte>();
        while (got.Count < payload.Length)
        {
            var (bytes, offload) = await _sink.Datagrams.Reader.ReadAsync(TestContext.Current.CancellationToken).In();
            Assert.Equal(takes == OffloadKinds.All ? payload.Length : Math.Min(1000, payload.Length - got.Count), bytes.Length - Headers);
            Assert.Equal(takes == OffloadKinds.All ? (SegmentationType.UdpDatagrams, 1000) : (SegmentationType.None, 0), (offload.Segmentation, (int)offload.SegmentSize));
            got.AddRange(bytes[Headers..]);
        }
        Assert.Equal(payload, got);
        Assert.Equal((0L, 0L), (tap.Port.Malformed, tap.Dropped));
    }

    [Theory]
    [InlineData(1)]
    [InlineData(4)]
    public async Task Datagrams_that_a_peer_joined_reach_the_hosts_socket_one_by_one(int queues)
    {
        SkipWithoutTap();
        using var tap = TapPort.Start(_name, _switch, queues);
        Assert.Equal((_name, 1024), (tap.Port.Name, tap.Port.MaxAddresses));
        SetUp();
        using var host = HostSocket();
        var batch = new SwitchBatch(_switch);
        var buffer = new byte[65536];
        for (ushort flow = 1; flow <= 32; flow++)
        {
            var payload = Payload(2500);
            var (frame, offload) = Datagrams(payload, flow);
            batch.Forward(_peer, new EthernetFrame(frame, offload));
            batch.End(static (_, exception) => throw exception);
            for (var at = 0; at < payload.Length; at += 1000)
            {
                using var deadline = new CancellationTokenSource(Deadline.Limit);
                var length = await host.ReceiveAsync(buffer, deadline.Token);
                Assert.Equal(payload.AsSpan(at, Math.Min(1000, payload.Length - at)), buffer.AsSpan(0, length));
            }
        }
        Assert.Equal((0L, 0L), (_peer.Malformed, tap.Dropped));
    }

    [Fact]
    public async Task Tcp_between_two_stacks_passes_uncut()
    {
        SkipWithoutTap();
        const int Bytes = 16 << 20;
        var space = _name + "s";
        using var tap = TapPort.Start(_name, _switch, queues: 2);
        using var other = TapPort.Start(_name + "o", _switch, accessVlan: 0);
        Ip("netns", "add", space);
        try
        {
            SetUp();
            Ip("link", "set", _name + "o", "netns", space);
            Ip("-n", space, "addr", "add", "10.213.7.3/24", "dev", _name + "o");
            Ip("-n", space, "link", "set", _name + "o", "up");
            using var listener = new Socket(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
            listener.Bind(new IPEndPoint(new IPAddress(_hostAddress), 0));
            listener.Listen();
            // What the other stack runs connects, and sends a stream of zeros.
            var port = ((IPEndPoint)listener.LocalEndPoint!).Port;
            var program = $"head -c {Bytes} /dev/zero > /dev/tcp/10.213.7.1/{port}";
            var sender = Task.Run(() => Programs.Run("ip", "netns", "exec", space, "bash", "-c", program), TestContext.Current.CancellationToken);
            var accepted = listener.AcceptAsync(TestContext.Current.CancellationToken);
            using var connection = await accepted.AsTask().In();
            connection.ReceiveTimeout = (int)Deadline.Limit.TotalMilliseconds;
            var buffer = new byte[1 << 16];
            var received = 0;
            for (int length; (length = connection.Receive(buffer)) > 0; received += length)
                Assert.Equal(-1, buffer.AsSpan(0, length).IndexOfAnyExcept((byte)0));
            Assert.Equal(Bytes, received);
            sender.Ends("the other stack's program");
            var frames = long.Parse(File.ReadAllText($"/sys/class/net/{_name}/statistics/rx_packets"));
            Assert.True(received / frames > EthernetFrame.MaxLength, $"{frames} frames");
            Assert.Equal((0L, 0L), (tap.Port.Malformed, other.Port.Malformed));
        }
        finally
        {
            Ip("netns", "del", space);
        }
    }

    [Fact]
    public void Interface_goes_with_its_port()
    {
        SkipWithoutTap();
        var tap = TapPort.Start(_name, _switch, queues: 3);
        Assert.Equal(_name, tap.Name);
        Assert.Equal(2, _switch.Ports.Count);
        Assert.Contains(NetworkInterface.GetAllNetworkInterfaces(), i => i.Name == _name);
        var error = Assert.Throws<VirtbusException>(() => TapPort.Start(_name, _switch));
        Assert.Equal(Errno.EINVAL, error.Errno);
        Assert.Equal(2, _switch.Ports.Count);
        tap.Dispose();
        Assert.DoesNotContain(NetworkInterface.GetAllNetworkInterfaces(), i => i.Name == _name);
        Assert.Single(_switch.Ports);
        // What is under way to it still is taken and goes nowhere.
        tap.Port.Sink.Deliver(new EthernetFrame(new byte[60]));
        Assert.Equal(0, tap.Dropped);
    }

    [Fact]
    public void Frame_that_the_host_does_not_take_is_counted()
    {
        SkipWithoutTap();
        using var tap = TapPort.Start(_name, _switch);
        // The interface is down.
        tap.Port.Sink.Deliver(new EthernetFrame(new byte[60]));
        Assert.Equal(1, tap.Dropped);
    }

    [Theory]
    [InlineData(0)]
    [InlineData(TapPort.MaxQueues + 1)]
    public void Number_of_queues_is_bounded(int queues) =>
        Assert.Throws<ArgumentOutOfRangeException>(() => TapPort.Start(_name, _switch, queues));

    [Fact]
    public void Frames_of_a_flow_have_one_hash_and_flows_have_many()
    {
        var hashes = new HashSet<uint>();
        for (ushort flow = 0; flow < 256; flow++)
        {
            var (frame, offload) = Datagrams(Payload(100), flow);
            var (longer, _) = Datagrams(Payload(900), flow);
            var hash = TapPort.HashOf(new EthernetFrame(frame, offload));
            Assert.Equal(hash, TapPort.HashOf(new EthernetFrame(longer, offload)));
            byte[] tagged = [.. frame[..12], 0x81, 0, 0, 10, .. frame[12..]];
            Assert.Equal(hash, TapPort.HashOf(new EthernetFrame(tagged)));
            hashes.Add(hash % 4 + (hash & 0xFFFFFF00));
            // Short ones have no ports, and no fault.
            for (var length = EthernetFrame.MinLength; length < Headers; length++)
                TapPort.HashOf(new EthernetFrame(tagged.AsSpan(0, length)));
        }
        Assert.True(hashes.Count > 200);
        Assert.Equal(77u, TapPort.HashOf(new EthernetFrame(new byte[60], new FrameOffload { HashReport = 1, Hash = 77 })));
    }

    [Fact]
    public void Fragments_of_a_datagram_have_one_hash()
    {
        var (frame, _) = Datagrams(Payload(100), 1);
        frame[20] = 0x20;
        var first = TapPort.HashOf(new EthernetFrame(frame));
        frame[20] = 0;
        frame[21] = 100;
        frame[Headers - 8]++;
        Assert.Equal(first, TapPort.HashOf(new EthernetFrame(frame)));
    }

    [Fact]
    public void Header_says_no_more_than_the_host_takes()
    {
        Span<byte> header = stackalloc byte[TapFile.HeaderSize];
        var offload = new FrameOffload(FrameFlags.NeedsChecksum, SegmentationType.TcpV4 | SegmentationType.Ecn, 9999, 1448, 34, 16, 1, 2);
        TapHeader.Write(header, offload, 1500);
        Assert.Equal([1, 0x81, 0xDC, 5, 0xA8, 5, 34, 0, 16, 0, 0, 0], header.ToArray());
        Assert.Equal(offload with { HeaderLength = 1500, HashReport = 0, Hash = 0 }, FrameOffload.Read(header));
        TapHeader.Write(header, new FrameOffload(FrameFlags.DataValid | FrameFlags.SegmentInfo, SegmentationType.None, 1, 2, 3, 4, 5, 6), 60);
        Assert.Equal([2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], header.ToArray());
    }

    private static void SkipWithoutTap() =>
        Assert.SkipUnless(Environment.UserName == "root" && File.Exists("/dev/net/tun"), "A TAP interface needs root and /dev/net/tun.");

    private static void Ip(params string[] arguments)
    {
        var (_, errors, code) = Programs.Run("ip", arguments);
        Assert.True(code == 0, $"ip {string.Join(' ', arguments)}: {errors}");
    }

    private static byte[] Payload(int length) => [.. Enumerable.Range(0, length).Select(i => (byte)(i * 31 + (i >> 8)))];

    private static Socket HostSocket()
    {
        var socket = new Socket(AddressFamily.InterNetwork, SocketType.Dgram, ProtocolType.Udp);
        socket.Bind(new IPEndPoint(new IPAddress(_hostAddress), Port));
        return socket;
    }

    private void SetUp()
    {
        Ip("addr", "add", "10.213.7.1/24", "dev", _name);
        Ip("link", "set", _name, "up");
        Ip("neigh", "add", "10.213.7.2", "lladdr", "02:00:00:00:07:02", "dev", _name);
    }

    // Several datagrams of 1000 bytes in one, with the sum of the pseudo header where the checksum comes.
    private (byte[] Frame, FrameOffload Offload) Datagrams(byte[] payload, ushort flow)
    {
        var frame = new byte[Headers + payload.Length];
        var mac = NetworkInterface.GetAllNetworkInterfaces().FirstOrDefault(i => i.Name == _name)?.GetPhysicalAddress().GetAddressBytes();
        (mac ?? _peerMac).CopyTo(frame, 0);
        _peerMac.CopyTo(frame, 6);
        frame[12] = 8;
        var ip = frame.AsSpan(14);
        ip[0] = 0x45;
        BinaryPrimitives.WriteUInt16BigEndian(ip[2..], (ushort)ip.Length);
        ip[8] = 64;
        ip[9] = 17;
        _peerAddress.CopyTo(ip[12..]);
        _hostAddress.CopyTo(ip[16..]);
        BinaryPrimitives.WriteUInt16BigEndian(ip[10..], InternetChecksum.Of(ip[..20]));
        var udp = ip[20..];
        BinaryPrimitives.WriteUInt16BigEndian(udp, (ushort)(20000 + flow));
        BinaryPrimitives.WriteUInt16BigEndian(udp[2..], Port);
        BinaryPrimitives.WriteUInt16BigEndian(udp[4..], (ushort)udp.Length);
        BinaryPrimitives.WriteUInt16BigEndian(udp[6..], InternetChecksum.Sum([.. ip[12..20], 0, 17, .. udp[4..6]]));
        payload.CopyTo(udp[8..]);
        return (frame, new FrameOffload(FrameFlags.NeedsChecksum, SegmentationType.UdpDatagrams, Headers, 1000, 34, 6, 0, 0));
    }

    private sealed class Sink : IFrameSink
    {
        public Channel<(byte[] Bytes, FrameOffload Offload)> Datagrams { get; } = Channel.CreateUnbounded<(byte[], FrameOffload)>();

        public OffloadKinds Takes { get; set; } = OffloadKinds.All;

        // The host's own chatter on a new interface is none of ours.
        public void Deliver(in EthernetFrame frame)
        {
            var bytes = frame.Bytes;
            if (bytes.Length > Headers && bytes[12] == 8 && bytes[23] == 17 && BinaryPrimitives.ReadUInt16BigEndian(bytes[36..]) == Port)
                Datagrams.Writer.TryWrite((bytes.ToArray(), frame.Offload));
        }

        public void Miss()
        {
        }

        public void Flush()
        {
        }
    }
}
