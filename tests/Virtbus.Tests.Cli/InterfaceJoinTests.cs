using System.Buffers.Binary;
using System.Diagnostics;
using System.Net;
using System.Net.NetworkInformation;
using System.Net.Sockets;
using Microsoft.Extensions.Logging.Abstractions;
using Virtbus.Buses.Pci;
using Virtbus.Core;
using Virtbus.Daemon.Manifest;
using Virtbus.Daemon.Provisioning;
using Virtbus.Ethernet;
using Virtbus.Hardware.VirtioPci;
using Virtbus.Models.VirtioNet;
using Virtbus.Platform;
using Virtbus.Provisioning;
using Virtbus.Subsystems.Net;
using Virtbus.Tests.Ethernet;
using Virtbus.Virtio;
using static Virtbus.Models.VirtioNet.VirtioNetConfig;

namespace Virtbus.Tests.Cli;

/// <summary>Interfaces of our own drivers as ports of other switches, and of TAP devices: frames cross whole or cut, and what comes and goes.</summary>
public sealed class InterfaceJoinTests : IAsyncLifetime
{
    private const ulong Everyone = 0xFFFF_FFFF_FFFF;
    private const ulong One = 0x02_00_00_00_00_01;
    private const ulong Two = 0x02_00_00_00_00_02;
    private static readonly VirtioFeatures TakesNothing = VirtioFeatures.Of(
        VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_USO4, VIRTIO_NET_F_GUEST_USO6);

    private FabricRig _rig = null!;
    private ModuleLoader _loader = null!;
    private ProvisioningContext _context = null!;
    private FabricHardware _hardware = null!;

    private InterfaceJoins Joins => _hardware.Joins;

    public async ValueTask InitializeAsync()
    {
        _rig = await FabricRig.StartAsync();
        _loader = new ModuleLoader(_rig.Fabric, Path.Combine(Path.GetDirectoryName(TestFabric.Program)!, "modules"), watch: false);
        ProvisioningEngine.Of(_rig.Fabric).Modules = _loader;
        _context = new ProvisioningContext(_rig.Fabric, _loader, Directory.CreateTempSubdirectory("vbj").FullName, NullLoggerFactory.Instance);
        _hardware = new FabricHardware(_context);
        await _hardware.StartAsync();
    }

    public async ValueTask DisposeAsync()
    {
        await _hardware.DisposeAsync();
        await _loader.UnloadAllAsync();
        _loader.Dispose();
        await _rig.DisposeAsync();
    }

    [Theory]
    [InlineData(false, true)]
    [InlineData(true, true)]
    [InlineData(false, false)]
    [InlineData(true, false)]
    public async Task Long_frames_cross_two_switches_whole_to_who_takes_them_and_cut_to_who_does_not(bool v6, bool tcp)
    {
        var one = await AddAsync("one", "lan", One);
        await AddAsync("nic", "lan", 0x020000000010, driver: "virtio-pci");
        var two = await AddAsync("two", "wan", Two);
        await Joins.AddAsync(new InterfaceJoin("nicnp0", "wan", null), mustBeThere: true);
        using var user = new VirtioNetUser(one, slotSize: 65600);
        var frame = new TransportFrame(v6, tcp, Payload: 60000);
        var header = new byte[12];
        frame.Offload.WriteTo(header, FrameFlags.NeedsChecksum);
        using (var whole = new VirtioNetUser(two))
        {
            user.Send(frame.Build(), header);
            var got = whole.Receive();
            Assert.Equal(frame.Build(), got[whole.HeaderSize..]);
            Assert.Equal(header[..10], got[..10]);
            // And the other way.
            whole.Send(Frame(Everyone, Two, 9));
            Assert.Equal(Frame(Everyone, Two, 9), user.Receive()[user.HeaderSize..]);
        }

        using var plain = new VirtioNetUser(two, without: TakesNothing);
        user.Send(frame.Build(), header);
        for (var i = 0; i < 43; i++)
            frame.Check(plain.Receive()[plain.HeaderSize..], i * 1400, Math.Min(1400, 60000 - (i * 1400)), i);
        // Nothing came back to who sent.
        Assert.Equal(1UL, one.Counters.ReceivedFrames);
    }

    [Fact]
    public async Task Adapter_s_interface_is_joined_like_any_other()
    {
        await _hardware.AddAdapterAsync(ManifestReader.ReadText("adapters: [{ name: left, model: merlin, ports: 2 }]", "/m.yaml").Adapters[0]);
        await _rig.Fabric.SettleAsync();
        var two = await AddAsync("two", "wan", Two);
        await Joins.AddAsync(new InterfaceJoin("leftnp0", "wan", null), mustBeThere: true);
        using var user = new VirtioNetUser(two);
        var other = Interface("leftnp1");
        Assert.True(other.TryTransmit(Frame(Two, other.Address, 1), out _));
        Assert.Equal(Frame(Two, other.Address, 1), user.Receive()[user.HeaderSize..]);
        // The other port of the adapter would be a second way.
        await AssertRefusedAsync(new InterfaceJoin("leftnp1", "wan", null), Errno.ELOOP);
    }

    [Fact]
    public async Task Ways_round_are_refused()
    {
        await AddAsync("a", "lan", One, driver: "virtio-pci");
        await AddAsync("b", "wan", Two, driver: "virtio-pci");
        await AddAsync("c", "far", 0x020000000003, driver: "virtio-pci");
        await AssertRefusedAsync(new InterfaceJoin("anp0", "lan", null), Errno.ELOOP);
        await Joins.AddAsync(new InterfaceJoin("anp0", "wan", null), mustBeThere: true);
        await AssertRefusedAsync(new InterfaceJoin("bnp0", "lan", null), Errno.ELOOP);
        await Joins.AddAsync(new InterfaceJoin("bnp0", "far", null), mustBeThere: true);
        await AssertRefusedAsync(new InterfaceJoin("cnp0", "lan", null), Errno.ELOOP);
        await AssertRefusedAsync(new InterfaceJoin("anp0", "elsewhere", null), Errno.EBUSY);
        await AssertRefusedAsync(new InterfaceJoin("dnp0", "lan", null), Errno.ENOENT);
        // An adapter's own switch, and what it is joined to.
        await _hardware.AddAdapterAsync(ManifestReader.ReadText("adapters: [{ name: left, model: merlin, switch: lan }]", "/m.yaml").Adapters[0]);
        await _rig.Fabric.SettleAsync();
        await AssertRefusedAsync(new InterfaceJoin("leftnp0", "wan", null), Errno.ELOOP);
        await Joins.RemoveAsync("bnp0");
        await Joins.AddAsync(new InterfaceJoin("leftnp0", "far", null), mustBeThere: true);
        Assert.Equal(["anp0 joined", "leftnp0 joined"], Joins.All.Select(static j => $"{j.Join.Interface} {j.State}"));
    }

    [Fact]
    public async Task Join_lasts_over_unbind_and_pull_and_ends_when_it_is_taken_away()
    {
        var one = await AddAsync("one", "lan", One);
        await AddAsync("nic", "lan", 0x020000000010, driver: "virtio-pci");
        var two = await AddAsync("two", "wan", Two);
        await Joins.AddAsync(new InterfaceJoin("nicnp0", "wan", null), mustBeThere: true);
        using var user = new VirtioNetUser(one);
        using var peer = new VirtioNetUser(two);
        Check(1);
        var there = Interface("nicnp0");
        Assert.True(there.IsPromiscuous);
        var virtio = there.Parent!;
        Assert.True(_rig.Virtio.TryGetDriver("virtio_net", out var driver));
        // While frames flow.
        using var stop = new CancellationTokenSource();
        var sender = Task.Run(
            () =>
            {
                while (!stop.IsCancellationRequested)
                {
                    if (user.TryPut(1, default, Frame(Everyone, One, 0)))
                        user.Push(1);
                    while (peer.Take(0, new byte[100]) > 0)
                        peer.Push(0);
                }
            },
            TestContext.Current.CancellationToken);
        try
        {
            await Deadline.UntilAsync(() => there.Statistics.ReceivedFrames > 50, "frames");
            await _rig.Fabric.UnbindAsync(driver, virtio.Name).In();
            Assert.Equal(("waiting", "two"), (State(), Ports("wan")));
            await _rig.Fabric.BindAsync(driver, virtio.Name).In();
            Assert.Equal(("joined", "nicnp0 two"), (State(), Ports("wan")));
            await Deadline.UntilAsync(() => Interface("nicnp0").Statistics.ReceivedFrames > 50, "frames");
            var pci = _rig.Pci.Devices.Cast<PciDevice>().Single(static d => d.Label == "nic");
            await _rig.Pci.SurpriseRemoveAsync(pci).In();
            await Deadline.UntilAsync(() => State() == "waiting" && Ports("wan") == "two", "the port's end");
        }
        finally
        {
            // Before the memory that it uses goes.
            await stop.CancelAsync();
            await sender.In();
        }

        // Hardware that was pulled out is not plugged in again; another function of that name may be.
        await ProvisioningEngine.Of(_rig.Fabric).DeactivateAsync(["nic"], TestContext.Current.CancellationToken);
        await AddAsync("nic", "lan", 0x020000000012, driver: "virtio-pci");
        Assert.Equal(("joined", "nicnp0 two"), (State(), Ports("wan")));
        Check(2);
        await Joins.RemoveAsync("nicnp0");
        Assert.Equal(("two", true, false), (Ports("wan"), Interface("nicnp0").IsUp, Interface("nicnp0").IsPromiscuous));
        await Assert.ThrowsAsync<VirtbusException>(() => Joins.RemoveAsync("nicnp0").AsTask());

        string State() => Joins.All.Single().State;

        void Check(byte mark)
        {
            user.Send(Frame(Everyone, One, mark));
            byte[] got;
            do
                got = peer.Receive()[peer.HeaderSize..];
            while (got[14] == 0);
            Assert.Equal(Frame(Everyone, One, mark), got);
        }
    }

    [Fact]
    public async Task Interface_is_joined_by_its_attribute()
    {
        await AddAsync("nic", "lan", One, driver: "virtio-pci");
        var path = Interface("nicnp0").DevPath + "/join";
        Assert.Equal("", _rig.Read(path));
        await WriteAsync(path, "switch=wan vlan=7");
        Assert.Equal(("switch=wan vlan=7\n", "nicnp0 switch=wan vlan=7 joined\n", (ushort)7), (_rig.Read(path), _rig.Read("/kernel/joins/list"), _context.Switches.Find("wan")!.Ports.Single().AccessVlan));
        await WriteAsync(path, "");
        Assert.Equal("", _rig.Read(path) + _rig.Read("/kernel/joins/list"));
        foreach (var wrong in (string[])["lan", "switch=", "switch=wan tap=tap0", "switch=wan queues=2", "switch=wan vlan=0", "switch=wan vlan=4095", "switch=w:n", "tap=a/b", "tap=0123456789abcdef", "sweets=wan", "vlan=7", "tap=t queues=257"])
            Assert.Equal((wrong, Errno.EINVAL), (wrong, (await Assert.ThrowsAsync<VirtbusException>(() => WriteAsync(path, wrong))).Errno));
        await WriteAsync("/kernel/joins/add", "nicnp0 switch=wan");
        await WriteAsync("/kernel/joins/remove", "nicnp0");
        foreach (var (wrong, errno) in ((string, Errno)[])[("nicnp0", Errno.EINVAL), ("nicnp0 wan", Errno.EINVAL), ("nicnp1 switch=wan", Errno.ENOENT)])
            Assert.Equal(errno, (await Assert.ThrowsAsync<VirtbusException>(() => WriteAsync("/kernel/joins/add", wrong))).Errno);
    }

    [Fact]
    public async Task Interface_is_joined_to_a_tap_device_of_the_host()
    {
        Assert.SkipUnless(Environment.UserName == "root" && File.Exists("/dev/net/tun"), "A TAP interface needs root and /dev/net/tun.");
        var tap = $"vbj{Environment.ProcessId % 100000}";
        var one = await AddAsync("one", "lan", One);
        await AddAsync("nic", "lan", 0x020000000010, driver: "virtio-pci");
        await AddAsync("more", "lan", 0x020000000011, driver: "virtio-pci");
        await Joins.AddAsync(new InterfaceJoin("nicnp0", null, tap), mustBeThere: true);
        await AssertRefusedAsync(new InterfaceJoin("morenp0", null, tap), Errno.EBUSY);
        using (var up = Process.Start("ip", ["link", "set", tap, "up"]))
            await up.EndsAsync();
        using var user = new VirtioNetUser(one);
        var before = Packets();
        user.Send(Frame(Everyone, One, 1));
        await Deadline.UntilAsync(() => Packets() > before, "the host to have the frame");
        // The host asks who has an address, which goes to all.
        using (var address = Process.Start("ip", ["address", "add", "10.213.8.1/30", "dev", tap]))
            await address.EndsAsync();
        using (var host = new Socket(AddressFamily.InterNetwork, SocketType.Dgram, ProtocolType.Udp))
            host.SendTo([1], new IPEndPoint(IPAddress.Parse("10.213.8.2"), 9));
        byte[] got;
        do
            got = user.Receive()[user.HeaderSize..];
        while (got[12] != 8 || got[13] != 6);
        await Joins.RemoveAsync("nicnp0");
        Assert.DoesNotContain(NetworkInterface.GetAllNetworkInterfaces(), i => i.Name == tap);

        long Packets() => long.Parse(File.ReadAllText($"/sys/class/net/{tap}/statistics/rx_packets"));
    }

    private NetDevice Interface(string name) => NetSubsystem.Of(_rig.Fabric).Class.TryGetDevice(name, out var device) ? (NetDevice)device : throw new InvalidOperationException(name);

    private string Ports(string network) => string.Join(' ', ((TreeDirectory)_rig.Fabric.Tree.Find($"/kernel/switches/{network}/ports")).List().Select(static n => n.Name).Order(StringComparer.Ordinal));

    private async Task WriteAsync(string path, string value) => await _rig.Fabric.Tree.WriteAsync(path, value, TestContext.Current.CancellationToken);

    private async Task AssertRefusedAsync(InterfaceJoin join, Errno errno) =>
        Assert.Equal(errno, (await Assert.ThrowsAsync<VirtbusException>(() => Joins.AddAsync(join, mustBeThere: true).AsTask())).Errno);

    private async Task<VirtioNetDevice> AddAsync(string name, string network, ulong mac, string? driver = null)
    {
        var text = NetDevice.FormatAddress(mac);
        (string Key, string Value)[] all = [("virtio", "net"), ("mac", text), ("switch", network), .. driver is null ? ((string, string)[])[] : [("driver", driver)]];
        await ProvisioningEngine.Of(_rig.Fabric).AddAsync(name, "virtio", null, [.. all.Select(static a => new KeyValuePair<string, string>(a.Key, a.Value))], cancellationToken: TestContext.Current.CancellationToken);
        await _rig.Fabric.SettleAsync();
        return (VirtioNetDevice)((VirtioFunction)_hardware.Virtio.Parts.Single(p => p.Name == name).Function).Device;
    }

    private static byte[] Frame(ulong to, ulong from, byte mark)
    {
        var frame = new byte[60];
        VirtioNetConfig.WriteMac(frame, to);
        VirtioNetConfig.WriteMac(frame.AsSpan(6), from);
        BinaryPrimitives.WriteUInt16BigEndian(frame.AsSpan(12), 0x88B5);
        frame[14] = mark;
        return frame;
    }
}
