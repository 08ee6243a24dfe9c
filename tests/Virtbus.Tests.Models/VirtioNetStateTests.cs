using Virtbus.Ethernet;
using Virtbus.Models.VirtioNet;
using Virtbus.Platform;
using Virtbus.Virtio;
using static Virtbus.Models.VirtioNet.VirtioNetConfig;
using static Virtbus.Virtio.VirtioStatus;

namespace Virtbus.Tests.Models;

/// <summary>A network device gives what its driver set to another one of its kind, and a state that does not fit changes nothing.</summary>
public sealed class VirtioNetStateTests
{
    private const ulong Mac = 0x02_00_00_00_00_0A;
    private const int MaxSize = 1 << 16;
    private readonly EthernetSwitch _network = new();

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void All_that_the_driver_set_goes_along(bool rss)
    {
        using var source = Configured(rss);
        var state = Save(source);
        using var target = new VirtioNetDevice("target", _network, new VirtioNetOptions(0x02_00_00_00_00_0F) { QueuePairs = 2 });
        target.TryPause(out _);
        Assert.NotEqual(state, Save(target));
        Assert.True(Restore(target, state, out var fault), fault.Message);
        Assert.Equal(state, Save(target));
        var (from, to) = (source.Settings, target.Settings);
        Assert.Equal((from.Filter.Mac, from.Filter.Modes, from.Offloads, from.Status, from.Steering.Pairs), (to.Filter.Mac, to.Filter.Modes, to.Offloads, to.Status, to.Steering.Pairs));
        Assert.Equal(from.Filter.Unicast, to.Filter.Unicast);
        Assert.Equal(from.Filter.Multicast, to.Filter.Multicast);
        Assert.Equal(from.Filter.Vlans, to.Filter.Vlans);
        Assert.Equal(from.Steering.Table, to.Steering.Table);
        Assert.Equal(from.Steering.Unclassified, to.Steering.Unclassified);
        Assert.Equal(from.Steering.Hash!.Types, to.Steering.Hash!.Types);
        Assert.Equal(from.Steering.Hash.Key, to.Steering.Hash.Key);
        Assert.False(target.IsLinkUp);
        Assert.Equal(VIRTIO_NET_S_ANNOUNCE, Net.Status(target));
        // A reset forgets all but the link.
        target.Reset();
        Assert.Equal((0x02_00_00_00_00_0FUL, 0, 1), (target.Settings.Filter.Mac, Net.Status(target), target.Settings.Steering.Pairs));
        Assert.Null(target.Settings.Steering.Hash);
        Assert.Null(target.Settings.Offloads);
    }

    [Fact]
    public void Traffic_goes_on_in_the_other_device_with_the_rings_as_they_were()
    {
        using var peer = new VirtioNetDevice("peer", _network, new VirtioNetOptions(Mac + 1));
        using var peerUser = new VirtioNetUser(peer);
        using var device = new VirtioNetDevice("net", _network, new VirtioNetOptions(Mac));
        using var user = new VirtioNetUser(device);
        Assert.Equal(0, user.Command(0, 0, 0));
        for (var round = 0; round < 20; round++)
        {
            peerUser.Send(Net.Frame(Mac, Mac + 1, 60, round));
            Assert.Equal(Net.Frame(Mac, Mac + 1, 60, round), user.Receive()[20..]);
            device.TryPause(out _);
            var state = Save(device);
            // What comes while it stands still is nobody's.
            peerUser.Send(Net.Frame(Mac, Mac + 1, 61, round));
            Deadline.Until(() => device.Counters.ReceiveLost == (ulong)round + 1, "the frame to be lost");
            Assert.True(Restore(device, state, out var fault), fault.Message);
            device.Resume();
            Assert.Equal(OffloadKinds.All, device.Port.Sink.Takes);
            // Not for it, as its driver said.
            peerUser.Send(Net.Frame(Mac + 7, Mac + 1, 60, round));
        }

        Assert.Equal(20UL, device.Counters.ReceivedFrames);
    }

    [Fact]
    public void State_that_does_not_fit_is_refused_without_effect()
    {
        using var source = Configured(rss: true);
        var state = Save(source);
        using var target = new VirtioNetDevice("target", _network, new VirtioNetOptions(Mac) { QueuePairs = 2 });
        target.TryPause(out _);
        var own = Save(target);
        var at = state.AsSpan().IndexOf("virtio-net"u8) + "virtio-net".Length;
        foreach (var (offset, value, why) in new (int, byte, string)[]
        {
            (0, 1, "is of a device with an MTU of 1281; this one has 1500"),
            (2, 4, "has a status, a mode or a flag that there is not"),
            (4, 64, "has a status, a mode or a flag that there is not"),
            (5, 32, "has a status, a mode or a flag that there is not"),
            (6, 65, "has more addresses than a device keeps, or one that is none"),
            (7, 65, "has more addresses than a device keeps, or one that is none"),
            (14, 1, "has more addresses than a device keeps, or one that is none"),
            (VirtioNetUnicast + 6, 1, "has more addresses than a device keeps, or one that is none"),
            (16, 1, "has an offload or a hash type that there is not"),
            (32, 0x40, "has an offload or a hash type that there is not"),
            (24, 0, "has queue pairs or a table that such a device can't have"),
            (24, 3, "has queue pairs or a table that such a device can't have"),
            (28, 3, "has queue pairs or a table that such a device can't have"),
            (29, 1, "has queue pairs or a table that such a device can't have"),
            (5, 16, "has queue pairs or a table that such a device can't have"),
            (5, 8, "has queue pairs or a table that such a device can't have"),
            (26, 2, "names a queue pair that there is not"),
            (76, 2, "names a queue pair that there is not"),
        })
        {
            var changed = (byte[])state.Clone();
            changed[at + offset] = value;
            Assert.False(Restore(target, changed, out var fault), $"{offset}: {value}");
            Assert.Equal(new Fault(Errno.EINVAL, $"section 'virtio-net', version 1, {why}"), fault);
            Assert.Equal(own, Save(target));
        }

        for (var length = 0; length < state.Length; length += 7)
            Assert.False(Restore(target, state[..length], out _));
        // Any byte of it changed is refused, or gives a device that can be saved again.
        var random = new Random(4);
        for (var i = 0; i < 3000; i++)
        {
            var changed = (byte[])state.Clone();
            changed[random.Next(at, changed.Length)] = (byte)random.Next(256);
            if (Restore(target, changed, out _))
                Save(target);
        }
    }

    // Where the first unicast address stands in the section.
    private const int VirtioNetUnicast = 76 + 256;

    private VirtioNetDevice Configured(bool rss)
    {
        var device = new VirtioNetDevice("source", _network, new VirtioNetOptions(Mac) { QueuePairs = 2 });
        Assert.True(device.TrySetStatus(ACKNOWLEDGE | DRIVER, out _));
        Assert.True(device.TrySetDriverFeatures(device.DeviceFeatures, out _));
        Assert.True(device.TrySetStatus(ACKNOWLEDGE | DRIVER | FEATURES_OK, out _));
        device.Settings.Settle(device.DeviceFeatures);
        var commands = new NetCommands(device) { Features = device.DeviceFeatures };
        Assert.True(commands.TryDo(0, 0, [0]));
        Assert.True(commands.TryDo(0, 4, [1]));
        Assert.True(commands.TryDo(1, 0, [1, 0, 0, 0, 2, 1, 1, 1, 1, 1, 2, 0, 0, 0, 3, 1, 1, 1, 1, 1, 3, 2, 2, 2, 2, 2]));
        Assert.True(commands.TryDo(1, 1, [2, 9, 9, 9, 9, 9]));
        Assert.True(commands.TryDo(2, 0, [77, 0]));
        Assert.True(commands.TryDo(5, 0, [2, 0, 0, 0, 0, 0, 0, 0]));
        Assert.True(rss
            ? commands.TryDo(4, 1, [5, 0, 0, 0, 1, 0, 1, 0, 1, 0, 0, 0, 2, 0, 3, 7, 8, 9])
            : commands.TryDo(4, 2, [5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 7, 8, 9]) && commands.TryDo(4, 0, [2, 0]));
        device.SetLink(false);
        device.Settings.SetStatus(VIRTIO_NET_S_ANNOUNCE, true);
        device.TryPause(out _);
        return device;
    }

    private static byte[] Save(IMovableState device)
    {
        var writer = new StateWriter();
        Assert.True(device.TrySave(writer, out var fault), fault.Message);
        return writer.ToArray();
    }

    private static bool Restore(IMovableState device, byte[] state, out Fault fault) =>
        StateReader.TryRead(state, MaxSize, out var reader, out fault) && device.TryRestore(reader, out fault);
}
