using Virtbus.Core;
using Virtbus.Ethernet;
using Virtbus.Platform;
using Virtbus.Subsystems.Net;
using Virtbus.Tests.Ethernet;

namespace Virtbus.Tests.Subsystems.Net;

/// <summary>Interfaces as ports of a switch.</summary>
public sealed class NetSwitchPortTests
{
    private readonly FakeNetOps _left = new();
    private readonly FakeNetOps _right = new();
    private readonly EthernetSwitch _lan = new();

    [Fact]
    public async Task Frames_go_from_one_interface_to_the_others_and_not_back()
    {
        await using var rig = await FabricRig.StartAsync();
        var left = await AddAsync(rig, _left, "left", OffloadKinds.All);
        var right = await AddAsync(rig, _right, "right", OffloadKinds.None);
        var (portLeft, portRight) = (await NetSwitchPort.JoinAsync(left, _lan), await NetSwitchPort.JoinAsync(right, _lan));
        Assert.Equal((true, true, true), (left.IsUp, left.IsPromiscuous, right.IsUp));
        Assert.Equal(["leftnp0", "rightnp0"], _lan.Ports.Select(static p => p.Name));
        var frame = new TransportFrame(false, true);
        // Cut by the switch for the one that does not take it, whole for the other.
        left.Receive(0, new EthernetFrame(frame.Build(), frame.Offload));
        Assert.Empty(_right.Flushed);
        left.EndReceive(0);
        Assert.Equal((0, 3, 1), (_left.Sent.Count, _right.Sent.Count, _right.Flushed[0]));
        frame.Check(_right.Sent[1].Bytes, 1400, 1400, 1);
        right.Receive(0, new EthernetFrame(frame.Build(), frame.Offload));
        right.EndReceive(0);
        Assert.Equal((3, frame.Offload), (_right.Sent.Count, Assert.Single(_left.Sent).Offload));
        // What the driver has no room for is lost there.
        _left.Room = 0;
        right.Receive(0, new EthernetFrame(frame.Build(), frame.Offload));
        Assert.Equal((1, 0), (portLeft.Port.Sink.Dropped, portRight.Port.Sink.Dropped));
        // A whole network may be behind it, and nothing is cut for one that is down.
        Assert.Equal(EthernetSwitch.MaxAddressesOfNetwork, portRight.Port.MaxAddresses);
        Assert.Equal(OffloadKinds.None, portRight.Port.Sink.Takes);
        await right.SetUpAsync(false);
        Assert.Equal(OffloadKinds.All, portRight.Port.Sink.Takes);
        await right.SetUpAsync(true);
        await portRight.LeaveAsync();
        await portRight.LeaveAsync();
        Assert.Equal((true, false), (right.IsUp, right.IsPromiscuous));
        Assert.Equal([portLeft.Port], _lan.Ports);
        _left.Room = int.MaxValue;
        left.Receive(0, new EthernetFrame(frame.Build(), frame.Offload));
        right.Receive(0, new EthernetFrame(frame.Build(), frame.Offload));
        Assert.Equal((1, 3), (_left.Sent.Count, _right.Sent.Count));
    }

    [Fact]
    public async Task Interface_whose_driver_refuses_is_not_joined()
    {
        await using var rig = await FabricRig.StartAsync();
        var left = await AddAsync(rig, _left, "left", OffloadKinds.All);
        _left.Refuses = new VirtbusException(Errno.EIO, "no");
        await Assert.ThrowsAsync<VirtbusException>(() => NetSwitchPort.JoinAsync(left, _lan).AsTask());
        Assert.Equal((0, false, false), (_lan.Ports.Count, left.IsUp, left.IsPromiscuous));
        _left.Refuses = null;
        await Assert.ThrowsAsync<ArgumentOutOfRangeException>(() => NetSwitchPort.JoinAsync(left, _lan, accessVlan: 4095).AsTask());
        Assert.Equal((0, false, false), (_lan.Ports.Count, left.IsUp, left.IsPromiscuous));
    }

    [Fact]
    public async Task Port_of_a_vlan_takes_its_tag_off_and_puts_it_on()
    {
        await using var rig = await FabricRig.StartAsync();
        var left = await AddAsync(rig, _left, "left", OffloadKinds.All);
        var right = await AddAsync(rig, _right, "right", OffloadKinds.All);
        await NetSwitchPort.JoinAsync(left, _lan, accessVlan: 100);
        await NetSwitchPort.JoinAsync(right, _lan);
        var (plain, tagged) = (new TransportFrame(false, true), new TransportFrame(false, true, Tags: 1));
        left.Receive(0, new EthernetFrame(plain.Build(), plain.Offload));
        Assert.Equal(tagged.Build(), Assert.Single(_right.Sent).Bytes);
        right.Receive(0, new EthernetFrame(tagged.Build(), tagged.Offload));
        Assert.Equal(plain.Build(), Assert.Single(_left.Sent).Bytes);
    }

    private static async Task<NetDevice> AddAsync(FabricRig rig, FakeNetOps ops, string name, OffloadKinds takes) => await NetSubsystem.Of(rig.Fabric).RegisterAsync(
        await rig.Fabric.RegisterAsync(new Device(name)), ops, new NetDeviceOptions(0x020000000009, "p0", 1500) { TransmitOffloads = takes, ReceiveOffloads = OffloadKinds.All });
}
