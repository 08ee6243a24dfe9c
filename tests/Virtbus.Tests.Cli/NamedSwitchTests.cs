using System.Buffers.Binary;
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
using Adapter = Virtbus.Daemon.Provisioning.Adapter;

namespace Virtbus.Tests.Cli;

/// <summary>Adapters, virtio functions and TAP interfaces on the switches of a fabric: who hears whom, and what is counted at their ports.</summary>
public sealed class NamedSwitchTests : IAsyncLifetime
{
    private const ulong Everyone = 0xFFFF_FFFF_FFFF;
    private const ulong Mac = 0x02_00_00_00_01_00;
    private const ushort TestType = 0x88B5;
    private FabricRig _rig = null!;
    private ModuleLoader _loader = null!;
    private ProvisioningContext _context = null!;
    private NbdExports _exports = null!;
    private VirtioFunctions _functions = null!;

    public async ValueTask InitializeAsync()
    {
        _rig = await FabricRig.StartAsync();
        _loader = new ModuleLoader(_rig.Fabric, Path.Combine(Path.GetDirectoryName(TestFabric.Program)!, "modules"), watch: false);
        ProvisioningEngine.Of(_rig.Fabric).Modules = _loader;
        _context = new ProvisioningContext(_rig.Fabric, _loader, Path.GetTempPath(), NullLoggerFactory.Instance);
        _exports = new NbdExports(_context);
        _functions = new VirtioFunctions(_exports, _context);
        _rig.Fabric.Tree.AddKernelDirectory(SwitchTree.Make(_context.Switches));
    }

    public async ValueTask DisposeAsync()
    {
        await _functions.DisposeAsync();
        await _exports.DisposeAsync();
        await _loader.UnloadAllAsync();
        _loader.Dispose();
        await _rig.DisposeAsync();
    }

    [Fact]
    public async Task Frames_go_both_ways_between_an_adapter_and_a_function_and_what_the_adapter_does_not_take_is_counted()
    {
        var manifest = ManifestReader.ReadText("adapters: [{ name: left, model: merlin, switch: lan }]", "/lan.yaml").Adapters[0];
        await using var adapter = await Adapter.CreateAsync(_rig.Fabric, manifest, _context.Switches);
        var card = await AddAsync("nic", Mac);
        await _rig.Fabric.SettleAsync();
        using var user = new VirtioNetUser(card);
        Assert.True(NetSubsystem.Of(_rig.Fabric).Class.TryGetDevice("leftnp0", out var device));
        var part = (NetDevice)device;
        var sink = new Receiver();
        part.AddReceiver(sink);
        user.Send(Frame(Everyone, Mac, 1));
        Assert.Equal(Frame(Everyone, Mac, 1), await sink.Next.WaitAsync(Deadline.Limit, TestContext.Current.CancellationToken));
        Assert.True(part.TryTransmit(Frame(Mac, part.Address, 2), out _));
        Assert.Equal(Frame(Mac, part.Address, 2), user.Receive()[user.HeaderSize..]);

        // What the driver left undone is done before the adapter's ring has the frame, which can't say that anything is left.
        var open = Frame(Everyone, Mac, 3);
        sink.Clear();
        user.Send(open, Header(start: 14, offset: 10));
        var got = await sink.Next.WaitAsync(Deadline.Limit, TestContext.Current.CancellationToken);
        Assert.NotEqual(open[24..26], got[24..26]);
        Assert.Equal(0xFFFF, Sum(got.AsSpan(14)));

        Assert.Equal(["left", "nic"], Names("/kernel/switches/lan/ports"));
        Assert.Equal("0 0 0", Counters("lan", "left"));
        using var entered = new ManualResetEventSlim();
        using var goOn = new ManualResetEventSlim();
        using var slow = adapter.Engine.ConnectWire((in EthernetFrame frame) =>
        {
            entered.Set();
            goOn.Wait(Deadline.Limit);
        });
        try
        {
            // The adapter stands still, with this frame, and so many wait at most.
            user.Send(Frame(Everyone, Mac, 4));
            Assert.True(entered.Wait(Deadline.Limit, TestContext.Current.CancellationToken));
            var sent = 0;
            Deadline.Until(() =>
            {
                if (user.TryPut(1, default, Frame(Everyone, Mac, 5)))
                    sent++;
                user.Push(1);
                return Counters("lan", "left") != "0 0 0";
            }, "a frame to be dropped");
            Assert.InRange(sent, 64, 100_000);
        }
        finally
        {
            goOn.Set();
        }
    }

    [Fact]
    public async Task Functions_of_different_vlans_do_not_hear_each_other_and_what_is_dropped_at_their_ports_is_in_the_tree()
    {
        var seven = await AddAsync("seven", Mac, ("vlan", "7"));
        var eight = await AddAsync("eight", Mac + 1, ("vlan", "8"));
        var trunk = await AddAsync("trunk", Mac + 2);
        using var userSeven = new VirtioNetUser(seven);
        using var userEight = new VirtioNetUser(eight);
        using var userTrunk = new VirtioNetUser(trunk);
        userSeven.Send(Frame(Everyone, Mac, 1));
        Assert.Equal(Tagged(Frame(Everyone, Mac, 1), 7), userTrunk.Receive()[userTrunk.HeaderSize..]);
        userEight.Send(Frame(Everyone, Mac + 1, 2));
        Assert.Equal(Tagged(Frame(Everyone, Mac + 1, 2), 8), userTrunk.Receive()[userTrunk.HeaderSize..]);
        // Known or not, neither is reached by the other's frames; by the trunk's each is, in its VLAN.
        userSeven.Send(Frame(Mac + 1, Mac, 3));
        Assert.Equal(Tagged(Frame(Mac + 1, Mac, 3), 7), userTrunk.Receive()[userTrunk.HeaderSize..]);
        userTrunk.Send(Tagged(Frame(Mac + 1, Mac + 2, 4), 8));
        Assert.Equal(Frame(Mac + 1, Mac + 2, 4), userEight.Receive()[userEight.HeaderSize..]);
        Assert.Equal((0UL, 1UL), (seven.Counters.ReceivedFrames, eight.Counters.ReceivedFrames));

        userSeven.Send(Tagged(Frame(Everyone, Mac, 5), 8));
        userSeven.Send(Frame(Everyone, Mac, 6), Header(start: 13, offset: 0));
        userSeven.Send(Frame(Everyone, Mac, 7), Header(start: 13, offset: 0));
        Deadline.Until(() => seven.Counters.SendLost == 3, "the frames to be refused");
        Assert.Equal(["eight", "seven", "trunk"], Names("/kernel/switches/switch0/ports"));
        Assert.Equal("dropped 0, filtered 1, malformed 2", string.Join(", ", ((TreeDirectory)_rig.Fabric.Tree.Find("/kernel/switches/switch0/ports/seven")).List().Cast<TreeFile>().Select(f => $"{f.Name} {f.Read().TrimEnd()}")));
        trunk.SetLink(false);
        userSeven.Send(Frame(Everyone, Mac, 8));
        Deadline.Until(() => Counters("switch0", "trunk") == "1 0 0", "the frame to be dropped");
    }

    [Fact]
    public async Task Cable_of_a_function_is_pulled_out_and_its_driver_asked_to_announce_itself_by_the_tree()
    {
        var card = await AddAsync("one", Mac, ("speed", "25000"));
        var other = await AddAsync("two", Mac + 1);
        await ProvisioningEngine.Of(_rig.Fabric).AddAsync("dice", "virtio", null, [new("virtio", "rng")], cancellationToken: TestContext.Current.CancellationToken);
        var (path, second) = (PathOf("one"), PathOf("two"));
        Assert.Equal(("1\n", "25000\n", "-1\n"), (_rig.Read(path + "/carrier"), _rig.Read(path + "/speed"), _rig.Read(second + "/speed")));
        Assert.Equal(Errno.EOPNOTSUPP, (await RefusedAsync(path + "/announce", "1")).Errno);
        using var user = new VirtioNetUser(card);
        using var peer = new VirtioNetUser(other);
        var told = 0;
        card.SetConfigCallback(() => told++);
        await WriteAsync(path + "/carrier", "0");
        Assert.Equal(("0\n", 1, 0, "1\n"), (_rig.Read(path + "/carrier"), told, Status(), _rig.Read(second + "/carrier")));
        user.Send(Frame(Everyone, Mac, 1));
        Deadline.Until(() => card.Counters.SendLost == 1, "the frame to be lost");
        await WriteAsync(path + "/carrier", "1");
        user.Send(Frame(Everyone, Mac, 2));
        Assert.Equal(Frame(Everyone, Mac, 2), peer.Receive()[peer.HeaderSize..]);
        await WriteAsync(path + "/announce", "1");
        Assert.Equal((3, VirtioNetConfig.VIRTIO_NET_S_LINK_UP | VirtioNetConfig.VIRTIO_NET_S_ANNOUNCE), (told, Status()));
        foreach (var (file, value) in ((string, string)[])[("carrier", "sideways"), ("carrier", ""), ("announce", "0"), ("announce", "2")])
            Assert.Equal(Errno.EINVAL, (await RefusedAsync($"{path}/{file}", value)).Errno);
        Assert.Equal(Errno.EACCES, (await RefusedAsync(path + "/speed", "1")).Errno);
        Assert.DoesNotContain("carrier", Names(PathOf("dice")));

        int Status()
        {
            var status = new byte[2];
            Assert.True(card.TryGetConfig(VirtioNetConfig.StatusOffset, status, out _));
            return BinaryPrimitives.ReadUInt16LittleEndian(status);
        }
    }

    [Fact]
    public async Task Addresses_that_a_port_may_have_are_bounded_for_each_kind()
    {
        var manifest = ManifestReader.ReadText("adapters: [{ name: left, model: merlin, switch: lan }]", "/lan.yaml").Adapters[0];
        await using var adapter = await Adapter.CreateAsync(_rig.Fabric, manifest, _context.Switches);
        var card = await AddAsync("nic", Mac);
        using var user = new VirtioNetUser(card);
        for (var i = 0UL; i < 300; i++)
        {
            Deadline.Until(() => user.TryPut(1, default, Frame(Mac, Mac + i, 1)), "room");
            user.Push(1);
        }

        Deadline.Until(() => card.Counters.SentFrames == 300, "the frames to be sent");
        Assert.Equal(256, card.Port.Learned);
        Assert.Equal(1024, _context.Switches.Find("lan")!.Ports.Single(static p => p.Name == "left").MaxAddresses);
    }

    [Fact]
    public void Tap_interface_is_a_port_with_its_name_and_counts_what_the_host_does_not_take()
    {
        Assert.SkipUnless(Environment.UserName == "root" && File.Exists("/dev/net/tun"), "A TAP interface needs root and /dev/net/tun.");
        var tap = $"vbs{Environment.ProcessId % 100000}";
        using var declared = new DeclaredSwitches(_context.Switches);
        declared.Add(ManifestReader.ReadText($"switches: [{{ name: lan, tap: {tap} }}]", "/lan.yaml").Switches[0]);
        var network = _context.Switches.Find("lan")!;
        var port = network.Ports.Single();
        Assert.Equal(1024, port.MaxAddresses);
        // A device may have the name of an interface.
        var twin = new SwitchPort(port.Sink) { Name = tap };
        var nobody = new SwitchPort(port.Sink);
        network.Join(twin);
        network.Join(nobody);
        Assert.Equal([tap, tap + ".2"], Names("/kernel/switches/lan/ports"));
        network.Leave(twin);
        // The interface is down.
        var batch = new SwitchBatch(network);
        Assert.True(batch.Forward(nobody, new EthernetFrame(Frame(Everyone, Mac, 1))));
        Assert.Equal("1 0 0", Counters("lan", tap));
        declared.Remove("lan");
        Assert.Empty(Names("/kernel/switches"));
    }

    private string PathOf(string label) => _rig.Pci.Devices.Cast<PciDevice>().Single(d => d.Label == label).DevPath;

    private ValueTask WriteAsync(string path, string value) => _rig.Fabric.Tree.WriteAsync(path, value, TestContext.Current.CancellationToken);

    private Task<VirtbusException> RefusedAsync(string path, string value) => Assert.ThrowsAsync<VirtbusException>(() => WriteAsync(path, value).AsTask());

    private async Task<VirtioNetDevice> AddAsync(string name, ulong mac, params (string Key, string Value)[] more)
    {
        var text = string.Join(':', Enumerable.Range(0, 6).Select(i => $"{(byte)(mac >> (40 - (8 * i))):x2}"));
        (string Key, string Value)[] all = [("virtio", "net"), ("mac", text), .. name == "nic" ? [("switch", "lan")] : ((string, string)[])[], .. more];
        await ProvisioningEngine.Of(_rig.Fabric).AddAsync(name, "virtio", null, [.. all.Select(static a => new KeyValuePair<string, string>(a.Key, a.Value))], cancellationToken: TestContext.Current.CancellationToken);
        return (VirtioNetDevice)((VirtioFunction)_functions.Parts.Single(p => p.Name == name).Function).Device;
    }

    private string[] Names(string path) => [.. ((TreeDirectory)_rig.Fabric.Tree.Find(path)).List().Select(static n => n.Name).Order(StringComparer.Ordinal)];

    private string Counters(string place, string port) =>
        string.Join(' ', ((string[])["dropped", "filtered", "malformed"]).Select(name => _rig.Read($"/kernel/switches/{place}/ports/{port}/{name}").TrimEnd()));

    private static byte[] Frame(ulong to, ulong from, byte mark)
    {
        var frame = new byte[60];
        VirtioNetConfig.WriteMac(frame, to);
        VirtioNetConfig.WriteMac(frame.AsSpan(6), from);
        BinaryPrimitives.WriteUInt16BigEndian(frame.AsSpan(12), TestType);
        frame[14] = mark;
        return frame;
    }

    private static byte[] Tagged(byte[] frame, byte vlan) => [.. frame[..12], 0x81, 0, 0, vlan, .. frame[12..]];

    private static byte[] Header(ushort start, ushort offset)
    {
        var header = new byte[10];
        header[0] = 1;
        BinaryPrimitives.WriteUInt16LittleEndian(header.AsSpan(6), start);
        BinaryPrimitives.WriteUInt16LittleEndian(header.AsSpan(8), offset);
        return header;
    }

    private static int Sum(ReadOnlySpan<byte> bytes)
    {
        var sum = 0;
        for (var i = 0; i < bytes.Length; i += 2)
            sum += BinaryPrimitives.ReadUInt16BigEndian(bytes[i..]);
        return (sum & 0xFFFF) + (sum >> 16);
    }

    private sealed class Receiver : IFrameReceiver
    {
        private TaskCompletionSource<byte[]> _next = new(TaskCreationOptions.RunContinuationsAsynchronously);

        public Task<byte[]> Next => Volatile.Read(ref _next).Task;

        public void Clear() => Volatile.Write(ref _next, new(TaskCreationOptions.RunContinuationsAsynchronously));

        public void Receive(NetDevice device, int queue, in EthernetFrame frame)
        {
            if (BinaryPrimitives.ReadUInt16BigEndian(frame.Bytes[12..]) == TestType)
                Volatile.Read(ref _next).TrySetResult(frame.Bytes.ToArray());
        }
    }
}
