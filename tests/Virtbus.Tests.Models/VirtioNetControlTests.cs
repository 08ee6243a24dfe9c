using System.Buffers.Binary;
using Virtbus.Ethernet;
using Virtbus.Models.VirtioNet;
using Virtbus.Virtio;
using static Virtbus.Models.VirtioNet.VirtioNetConfig;

namespace Virtbus.Tests.Models;

/// <summary>Each command of a network device's driver, right and wrong, and what frames it gets after that.</summary>
public sealed class VirtioNetControlTests : IDisposable
{
    private const byte Ok = 0;
    private const byte Error = 1;
    private const ulong Mac = 0x02_00_00_00_00_0A;
    private const ulong Other = 0x02_00_00_00_00_0B;
    private const ulong Group = 0x33_33_00_00_00_01;
    private const ulong Broadcast = 0xFFFF_FFFF_FFFF;
    private readonly VirtioNetDevice _device = new("net", new EthernetSwitch(), new VirtioNetOptions(Mac) { QueuePairs = 4 });
    private VirtioNetUser _user;

    public VirtioNetControlTests() => _user = new VirtioNetUser(_device);

    public void Dispose()
    {
        _user.Dispose();
        _device.Dispose();
    }

    [Fact]
    public void Command_of_the_user_before_changes_nothing()
    {
        var settings = _device.Settings;
        settings.Settle(_device.DeviceFeatures);
        var commands = new NetCommands(_device) { Features = _device.DeviceFeatures, Generation = settings.Generation };
        settings.Reset();
        settings.Settle(_device.DeviceFeatures);
        var (filter, steering) = (settings.Filter, settings.Steering);
        commands.TryDo(0, 0, [0]);
        commands.TryDo(1, 0, new byte[8]);
        commands.TryDo(1, 1, [2, 0, 0, 0, 0, 9]);
        commands.TryDo(2, 0, [1, 0]);
        commands.TryDo(4, 0, [2, 0]);
        commands.TryDo(5, 0, new byte[8]);
        Assert.Same(filter, settings.Filter);
        Assert.Same(steering, settings.Steering);
        Assert.Null(settings.Offloads);
        commands.TryDo(6, 0, [8, 0, 0, 0, 9, 0, 0, 0]);
        commands.TryDo(6, 2, [0, 0, 0, 0, 8, 0, 0, 0, 9, 0, 0, 0]);
        Assert.True(_device.Coalescing.IsDefault);
        settings.SetStatus(VIRTIO_NET_S_ANNOUNCE, true);
        Assert.False(commands.TryDo(3, 0, []));
        Assert.Equal(VIRTIO_NET_S_LINK_UP | VIRTIO_NET_S_ANNOUNCE, settings.Status);
        // Of the user of now they do.
        commands.Generation = settings.Generation;
        Assert.True(commands.TryDo(4, 0, [2, 0]));
        Assert.True(commands.TryDo(5, 0, new byte[8]));
        Assert.True(commands.TryDo(6, 0, [8, 0, 0, 0, 9, 0, 0, 0]));
        Assert.False(_device.Coalescing.IsDefault);
        Assert.True(commands.TryDo(6, 0, new byte[8]));
        Assert.True(_device.Coalescing.IsDefault);
        Assert.True(commands.TryDo(6, 2, [0, 0, 0, 0, 8, 0, 0, 0, 9, 0, 0, 0]));
        Assert.False(_device.Coalescing.IsDefault);
        Assert.True(commands.TryDo(3, 0, []));
        Assert.Equal(VIRTIO_NET_S_LINK_UP, settings.Status);
        Assert.Equal((2, 0UL), (settings.Steering.Pairs, settings.Offloads));
    }

    [Fact]
    public void Modes_say_which_frames_come()
    {
        // Who never chose gets all.
        Comes(Mac, Other, Group, Broadcast);
        Set(0, 0, false);
        Comes(Mac, Broadcast);
        Set(0, 1, true);
        Comes(Mac, Group, Broadcast);
        Set(0, 2, true);
        Comes(Mac, Other, Group, Broadcast);
        Set(0, 3, true);
        Comes(Mac, Other, Broadcast);
        Set(0, 4, true);
        Comes(Broadcast);
        Set(0, 5, true);
        Comes();
        Set(0, 0, true);
        Comes(Mac, Other, Group, Broadcast);
        _user.Restart();
        Set(0, 0, false);
        Comes(Mac, Broadcast);
        Set(0, 1, true);
        Set(0, 1, false);
        Comes(Mac, Broadcast);
    }

    [Fact]
    public void Mode_takes_one_byte_of_0_or_1()
    {
        foreach (var data in (byte[][])[[], [2], [0, 0]])
            Assert.Equal(Error, _user.Command(0, 0, data));
        Assert.Equal(Error, _user.Command(0, 6, 1));
        Comes(Mac, Other, Group, Broadcast);
    }

    [Fact]
    public void Tables_add_addresses_and_one_that_is_too_long_stands_for_all()
    {
        Set(0, 0, false);
        Assert.Equal(Ok, _user.Command(1, 0, Tables([Other], [Group])));
        Comes(Mac, Other, Group, Broadcast);
        NotFor(Other + 1, Group + 1);
        Assert.Equal(Ok, _user.Command(1, 0, Tables([.. Numbers(Other, 64)], [.. Numbers(Group, 64)])));
        Comes(Mac, Other + 63, Group + 63, Broadcast);
        NotFor(Other + 64, Group + 64);
        Assert.Equal(Ok, _user.Command(1, 0, Tables([.. Numbers(Other, 65)], [])));
        Comes(Mac, Other + 1000, Broadcast);
        NotFor(Group);
        Assert.Equal(Ok, _user.Command(1, 0, Tables([], [.. Numbers(Group, 65)])));
        Comes(Mac, Group + 1000, Broadcast);
        NotFor(Other);
        Assert.Equal(Ok, _user.Command(1, 0, Tables([], [])));
        Comes(Mac, Broadcast);
        NotFor(Other, Group);
    }

    [Fact]
    public void Tables_that_are_not_what_they_say_change_nothing()
    {
        Set(0, 0, false);
        Assert.Equal(Ok, _user.Command(1, 0, Tables([Other], [])));
        var right = Tables([Other + 1], [Group]);
        for (var length = 0; length < right.Length; length++)
            Assert.Equal(Error, _user.Command(1, 0, right.AsSpan(0, length)));
        Assert.Equal(Error, _user.Command(1, 0, [.. right, 0]));
        foreach (var entries in (uint[])[0x4000_0000, 0x2AAA_AAAB, uint.MaxValue])
        {
            BinaryPrimitives.WriteUInt32LittleEndian(right, entries);
            Assert.Equal(Error, _user.Command(1, 0, right));
        }

        // More than any command has.
        Assert.Equal(Error, _user.Command(1, 0, Tables([.. Numbers(Other, 3000)], [])));
        Comes(Mac, Other, Broadcast);
        NotFor(Other + 1, Group);
    }

    [Fact]
    public void Address_is_set_by_command_and_the_configuration_shows_it()
    {
        Set(0, 0, false);
        foreach (var data in (byte[][])[[2, 0, 0, 0, 0], [2, 0, 0, 0, 0, 11, 0], [1, 0, 0, 0, 0, 11], [0, 0, 0, 0, 0, 0]])
            Assert.Equal(Error, _user.Command(1, 1, data));
        Comes(Mac, Broadcast);
        Assert.Equal(Ok, _user.Command(1, 1, [2, 0, 0, 0, 0, 11]));
        Comes(Other, Broadcast);
        NotFor(Mac);
        Assert.Equal([2, 0, 0, 0, 0, 11], Config(0, 6));
        _user.Restart();
        Assert.Equal([2, 0, 0, 0, 0, 10], Config(0, 6));
    }

    [Fact]
    public void Vlans_are_chosen_one_by_one_and_only_tagged_frames_have_one()
    {
        Set(0, 0, false);
        Comes(Mac, Broadcast);
        Assert.False(Tagged(5));
        Assert.Equal(Ok, _user.Command(2, 0, 5, 0));
        Assert.Equal(Ok, _user.Command(2, 0, 0xFF, 0x0F));
        Assert.True(Tagged(5));
        Assert.True(Tagged(0x6005));
        Assert.True(Tagged(4095));
        Assert.False(Tagged(6));
        Assert.Equal(Ok, _user.Command(2, 1, 5, 0));
        Assert.False(Tagged(5));
        Assert.True(Tagged(4095));
        foreach (var data in (byte[][])[[], [1], [0, 16], [1, 0, 0]])
            Assert.Equal(Error, _user.Command(2, 0, data));
        Assert.Equal(Error, _user.Command(2, 2, 1, 0));
        Bring(VirtioFeatures.Of(VIRTIO_NET_F_CTRL_VLAN));
        Set(0, 0, false);
        Assert.True(Tagged(5));
        Assert.Equal(Error, _user.Command(2, 0, 5, 0));
    }

    [Fact]
    public void Announcement_is_asked_for_by_the_configuration_until_it_is_acknowledged()
    {
        var notices = 0;
        _device.SetConfigCallback(() => notices++);
        Assert.Equal(Error, _user.Command(3, 0));
        Assert.True(_device.Announce());
        Assert.Equal((1, VIRTIO_NET_S_LINK_UP | VIRTIO_NET_S_ANNOUNCE), (notices, Net.Status(_device)));
        Assert.Equal(Error, _user.Command(3, 0, 1));
        Assert.Equal(Error, _user.Command(3, 1));
        Assert.Equal(Ok, _user.Command(3, 0));
        Assert.Equal(VIRTIO_NET_S_LINK_UP, Net.Status(_device));
        Assert.Equal(Error, _user.Command(3, 0));
        Assert.True(_device.Announce());
        _user.Restart();
        Assert.Equal(VIRTIO_NET_S_LINK_UP, Net.Status(_device));
        Bring(VirtioFeatures.Of(VIRTIO_NET_F_GUEST_ANNOUNCE));
        Assert.False(_device.Announce());
        Assert.Equal(Error, _user.Command(3, 0));
        Assert.Equal(2, notices);
    }

    [Fact]
    public void Offloads_are_turned_off_and_on_among_those_that_were_taken()
    {
        Bring(VirtioFeatures.Of(VIRTIO_NET_F_GUEST_TSO6));
        Assert.Equal(OffloadKinds.All & ~OffloadKinds.TcpV6, _device.Port.Sink.Takes);
        Assert.Equal(Ok, Offloads(1UL << VIRTIO_NET_F_GUEST_CSUM));
        Assert.Equal(OffloadKinds.Checksum, _device.Port.Sink.Takes);
        Assert.Equal(Error, Offloads((1UL << VIRTIO_NET_F_GUEST_CSUM) | (1UL << VIRTIO_NET_F_GUEST_TSO6)));
        Assert.Equal(Error, Offloads(1UL << VIRTIO_NET_F_MAC));
        Assert.Equal(Error, _user.Command(5, 0, 2, 0, 0, 0));
        Assert.Equal(Error, _user.Command(5, 1, 2, 0, 0, 0, 0, 0, 0, 0));
        Assert.Equal(OffloadKinds.Checksum, _device.Port.Sink.Takes);
        // Nothing can be cut whose checksum is not to be put in.
        Assert.Equal(Ok, Offloads(1UL << VIRTIO_NET_F_GUEST_TSO4));
        Assert.Equal(OffloadKinds.None, _device.Port.Sink.Takes);
        Assert.Equal(Ok, Offloads((1UL << VIRTIO_NET_F_GUEST_CSUM) | (1UL << VIRTIO_NET_F_GUEST_TSO4) | (1UL << VIRTIO_NET_F_GUEST_USO6)));
        Assert.Equal(OffloadKinds.Checksum | OffloadKinds.TcpV4 | OffloadKinds.UdpV6, _device.Port.Sink.Takes);
        _user.Restart();
        Assert.Equal(OffloadKinds.All & ~OffloadKinds.TcpV6, _device.Port.Sink.Takes);
    }

    [Theory]
    [InlineData(VIRTIO_NET_F_CTRL_RX, 0, 0, "00")]
    [InlineData(VIRTIO_NET_F_CTRL_RX, 0, 1, "00")]
    [InlineData(VIRTIO_NET_F_CTRL_RX_EXTRA, 0, 2, "00")]
    [InlineData(VIRTIO_NET_F_CTRL_RX_EXTRA, 0, 5, "00")]
    [InlineData(VIRTIO_NET_F_CTRL_RX, 1, 0, "0000000000000000")]
    [InlineData(VIRTIO_NET_F_CTRL_MAC_ADDR, 1, 1, "02000000000B")]
    [InlineData(VIRTIO_NET_F_CTRL_VLAN, 2, 0, "0100")]
    [InlineData(VIRTIO_NET_F_CTRL_VLAN, 2, 1, "0100")]
    [InlineData(VIRTIO_NET_F_MQ, 4, 0, "0200")]
    [InlineData(VIRTIO_NET_F_RSS, 4, 1, "00000000000000000000010000")]
    [InlineData(VIRTIO_NET_F_HASH_REPORT, 4, 2, "00000000000000000000000000")]
    [InlineData(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS, 5, 0, "0000000000000000")]
    public void Command_of_a_feature_that_was_not_taken_is_wrong(int feature, byte @class, byte command, string data)
    {
        Assert.Equal(Ok, _user.Command(@class, command, Convert.FromHexString(data)));
        Bring(VirtioFeatures.Of(feature));
        Assert.Equal(Error, _user.Command(@class, command, Convert.FromHexString(data)));
    }

    [Fact]
    public void Driver_of_one_pair_finds_the_control_queue_behind_it()
    {
        Bring(VirtioFeatures.Of(VIRTIO_NET_F_MQ, VIRTIO_NET_F_RSS));
        Assert.Equal(2, _user.ControlQueue);
        Set(0, 0, false);
        Comes(Mac, Broadcast);
        Assert.Equal(Error, _user.Command(6, 0));
        Bring(VirtioFeatures.Of(VIRTIO_NET_F_MQ));
        Assert.Equal(8, _user.ControlQueue);
        Set(0, 0, false);
    }

    private void Bring(VirtioFeatures without)
    {
        _user.Dispose();
        _user = new VirtioNetUser(_device, without);
    }

    private void Set(byte @class, byte command, bool on) => Assert.Equal(Ok, _user.Command(@class, command, on ? (byte)1 : (byte)0));

    private byte Offloads(ulong bits)
    {
        var data = new byte[8];
        BinaryPrimitives.WriteUInt64LittleEndian(data, bits);
        return _user.Command(5, 0, data);
    }

    private byte[] Config(int offset, int length)
    {
        var bytes = new byte[length];
        Assert.True(_device.TryGetConfig(offset, bytes, out _));
        return bytes;
    }

    // Of the four kinds those come, and no other.
    private void Comes(params ulong[] addresses)
    {
        foreach (var address in addresses)
            Assert.True(Arrives(Net.Frame(address, 0x02_99_00_00_00_01, 60, 1)), $"{address:x12} does not come");
        NotFor([.. new[] { Mac, Other, Group, Broadcast }.Where(address => !addresses.Contains(address) && !addresses.Contains(address + 1000) && !addresses.Contains(address + 63))]);
    }

    private void NotFor(params ulong[] addresses)
    {
        foreach (var address in addresses)
            Assert.False(Arrives(Net.Frame(address, 0x02_99_00_00_00_01, 60, 1)), $"{address:x12} comes");
    }

    private bool Tagged(ushort tag)
    {
        var frame = Net.Frame(Mac, 0x02_99_00_00_00_01, 60, 1);
        BinaryPrimitives.WriteUInt16BigEndian(frame.AsSpan(12), 0x8100);
        BinaryPrimitives.WriteUInt16BigEndian(frame.AsSpan(14), tag);
        return Arrives(frame);
    }

    // Behind it comes the beacon, which is always for the driver: what comes before that has come, what does not, does not.
    private bool Arrives(byte[] frame)
    {
        var beacon = Net.Frame(Mac, 0x02_99_00_00_00_01, 99, 2);
        var filter = _device.Settings.Filter;
        _device.Port.Sink.Deliver(new EthernetFrame(frame));
        _device.Settings.Change((ReceiveFilter _) => new ReceiveFilter(Mac), _device.Settings.Generation);
        _device.Port.Sink.Deliver(new EthernetFrame(beacon));
        _device.Settings.Change((ReceiveFilter _) => filter, _device.Settings.Generation);
        _device.Port.Sink.Flush();
        var first = _user.Receive()[_user.HeaderSize..];
        if (first.AsSpan().SequenceEqual(beacon))
            return false;
        Assert.Equal(frame, first);
        Assert.Equal(beacon, _user.Receive()[_user.HeaderSize..]);
        return true;
    }

    private static IEnumerable<ulong> Numbers(ulong first, int count) => Enumerable.Range(0, count).Select(i => first + (ulong)i);

    private static byte[] Tables(ulong[] unicast, ulong[] multicast)
    {
        var bytes = new byte[8 + ((unicast.Length + multicast.Length) * 6)];
        var at = 0;
        foreach (var table in new[] { unicast, multicast })
        {
            BinaryPrimitives.WriteUInt32LittleEndian(bytes.AsSpan(at), (uint)table.Length);
            at += 4;
            foreach (var address in table)
            {
                WriteMac(bytes.AsSpan(at), address);
                at += 6;
            }
        }

        return bytes;
    }
}
