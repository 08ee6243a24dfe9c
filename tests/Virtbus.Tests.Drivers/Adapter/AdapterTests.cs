using Virtbus.Block;
using Virtbus.Buses.Pci;
using Virtbus.Buses.Vdpa;
using Virtbus.Core;
using Virtbus.Drivers.MerlinCore;
using Virtbus.Drivers.Nic;
using Virtbus.Ethernet;
using Virtbus.Hardware.Adapter;
using Virtbus.Platform;
using Virtbus.Provisioning;
using Virtbus.Subsystems.Net;
using Virtbus.Subsystems.Vhost;

namespace Virtbus.Tests.Drivers.Adapter;

/// <summary>Adapters of several subsystems: MS-01, MS-03 to MS-09, VB-17 to VB-24, VB-33, DM-12, DM-21.</summary>
public sealed class AdapterTests
{
    private const ulong Broadcast = 0xFFFFFFFFFFFF;

    [Fact]
    public async Task Core_driver_creates_one_part_for_each_capability()
    {
        await using var fixture = await AdapterFixture.StartAsync();
        await fixture.AddMerlinAsync("adapter0", nets: 2, vdpas: 1);
        await fixture.AddHarrierAsync("adapter1", nets: 1, vdpas: 0);

        Assert.Equal(
            ["merlin_core.net.0", "merlin_core.net.1", "merlin_core.vdpa.0", "harrier_core.net.0"],
            fixture.Auxiliary.Devices.Select(d => d.Name));
        Assert.All(fixture.Auxiliary.Devices, d => Assert.Equal(BindingState.Bound, d.Binding.State));
    }

    [Fact]
    public async Task One_net_driver_serves_both_makes_and_several_adapters_of_each()
    {
        await using var fixture = await AdapterFixture.StartAsync();
        PluggedAdapter[] adapters =
        [
            await fixture.AddMerlinAsync("a0", 1, 0),
            await fixture.AddMerlinAsync("a1", 1, 0),
            await fixture.AddHarrierAsync("b0", 1, 0),
            await fixture.AddHarrierAsync("b1", 1, 0),
        ];

        Assert.True(fixture.Auxiliary.TryGetDriver("nic_net", out var driver));
        Assert.Equal(4, driver.Devices.Count);
        Assert.Equal(["a0np0", "a1np0", "b0np0", "b1np0"], NetSubsystem.Of(fixture.Fabric).Class.Devices.Select(d => d.Name));
        // Each probe got queue sets from its own adapter.
        Assert.All(adapters, a => Assert.Equal(1, a.Hardware.Engine.QueueSetCount));
    }

    [Fact]
    public async Task Interface_hangs_on_the_hardware_and_not_on_the_part()
    {
        await using var fixture = await AdapterFixture.StartAsync();
        var adapter = await fixture.AddMerlinAsync("adapter0", 1, 0);
        var net = fixture.Net("adapter0np0");

        Assert.Same(adapter.Device, net.Parent);
        Assert.Equal("/devices/pci0000:00/0000:00:01.0/0000:01:00.0/net/adapter0np0", net.DevPath);
        Assert.Equal("02:00:00:00:00:10\n", fixture.Fabric.Tree.Read("/class/net/adapter0np0/address"));
        Assert.Equal("merlin\n", fixture.Fabric.Tree.Read("/class/net/adapter0np0/device/model"));
    }

    [Fact]
    public async Task Interface_has_its_name_and_place_whether_its_driver_is_split_or_in_one_piece()
    {
        await using var fixture = await AdapterFixture.StartAsync();
        var adapter = await fixture.AddMerlinAsync("adapter0", 1, 0);
        var split = Describe();
        var whole = new WholeDriver(fixture.Pci);
        await fixture.Fabric.RegisterDriverAsync(whole);
        await fixture.Fabric.OverrideDriverAsync(adapter.Device, whole.Name);
        Assert.Same(whole, adapter.Device.Driver);
        Assert.Empty(fixture.Auxiliary.Devices);
        Assert.Equal(split, Describe());

        (string, string, string, string) Describe() =>
            (fixture.Net("adapter0np0").DevPath, fixture.Net("adapter0np0").Parent!.Name, fixture.Fabric.Tree.Read("/class/net/adapter0np0/address"),
                fixture.Fabric.Tree.Read("/class/net/adapter0np0/phys_port_name"));
    }

    /// <summary>A driver of the whole function, as there were before the virtual bus.</summary>
    private sealed class WholeDriver(PciBus bus) : PciDriver(bus, "whole")
    {
        protected override async ValueTask ProbeAsync(PciDevice device, PciDeviceId id, CancellationToken cancellationToken)
        {
            var subsystem = NetSubsystem.Of(device.Fabric!);
            var net = await subsystem.RegisterAsync(device, new NoFrames(), new NetDeviceOptions(0x020000000010, "p0"));
            device.Resources.AddAction(() => subsystem.UnregisterAsync(net));
        }

        private sealed class NoFrames : INetOps
        {
            public ValueTask OpenAsync(NetDevice device) => default;

            public ValueTask StopAsync(NetDevice device) => default;

            public bool TryTransmit(int queue, in EthernetFrame frame, out Fault fault)
            {
                fault = new Fault(Errno.ENOBUFS, "nothing is sent");
                return false;
            }
        }
    }

    [Fact]
    public async Task Ids_of_parts_begin_at_zero_again_when_their_module_is_loaded_again()
    {
        await using var fixture = await AdapterFixture.StartAsync();
        var adapter = await fixture.AddMerlinAsync("adapter0", nets: 2, vdpas: 0);
        using var held = fixture.Auxiliary.Devices[0].Hold();
        Assert.True(fixture.Pci.TryGetDriver("merlin_core", out var driver));
        // As long as the module is there an id stays taken that somebody holds.
        await fixture.Fabric.UnbindAsync(driver, adapter.Device.Name);
        await fixture.Fabric.BindAsync(driver, adapter.Device.Name);
        Assert.Equal(["merlin_core.net.1", "merlin_core.net.2"], fixture.Auxiliary.Devices.Select(d => d.Name));
        await fixture.Fabric.UnregisterDriverAsync(driver);
        Assert.Empty(fixture.Auxiliary.Devices);
        // The allocator went with the module, whoever still holds a device of it.
        await new MerlinCoreModule().InitAsync(new ModuleContext(fixture.Fabric, "merlin_core"));
        Assert.Equal(["merlin_core.net.0", "merlin_core.net.1"], fixture.Auxiliary.Devices.Select(d => d.Name));
    }

    [Fact]
    public async Task Interface_keeps_its_name_when_its_part_is_bound_again()
    {
        await using var fixture = await AdapterFixture.StartAsync();
        await fixture.AddMerlinAsync("adapter0", 1, 0);
        await fixture.Fabric.Tree.WriteAsync("/bus/auxiliary/drivers/nic_net/unbind", "merlin_core.net.0");
        Assert.Empty(NetSubsystem.Of(fixture.Fabric).Class.Devices);
        await fixture.Fabric.Tree.WriteAsync("/bus/auxiliary/drivers/nic_net/bind", "merlin_core.net.0");
        Assert.True(fixture.Net("adapter0np0").IsUp);
    }

    [Fact]
    public async Task Frames_reach_the_learned_port_and_floods_reach_all_others()
    {
        await using var fixture = await AdapterFixture.StartAsync();
        await fixture.AddHarrierAsync("adapter0", nets: 3, vdpas: 0);
        var ports = Enumerable.Range(0, 3).Select(i => fixture.Net($"adapter0np{i}")).ToArray();
        var sinks = ports.Select((_, i) => new FrameSink(i == 0 ? 1 : 2)).ToArray();
        for (var i = 0; i < 3; i++)
            ports[i].AddReceiver(sinks[i]);

        // Ports 1 and 2 see the broadcast; the answer to port 0 goes there alone.
        Assert.True(ports[0].TryTransmit(AdapterFixture.Frame(Broadcast, ports[0].Address, 1), out _));
        Assert.True(ports[1].TryTransmit(AdapterFixture.Frame(ports[0].Address, ports[1].Address, 2), out _));
        await sinks[0].Done;
        Assert.True(ports[0].TryTransmit(AdapterFixture.Frame(Broadcast, ports[0].Address, 3), out _));
        await Task.WhenAll(sinks[1].Done, sinks[2].Done);

        Assert.Equal([2], sinks[0].Sequences);
        Assert.Equal([1, 3], sinks[1].Sequences);
        Assert.Equal([1, 3], sinks[2].Sequences);
        Assert.Equal("2\n", fixture.Fabric.Tree.Read("/class/net/adapter0np0/statistics/tx_packets"));
        Assert.Equal("1\n", fixture.Fabric.Tree.Read("/class/net/adapter0np0/statistics/rx_packets"));
    }

    [Fact]
    public async Task Part_is_bound_again_while_its_siblings_carry_traffic()
    {
        await using var fixture = await AdapterFixture.StartAsync();
        await fixture.AddMerlinAsync("adapter0", nets: 3, vdpas: 0);
        var from = fixture.Net("adapter0np0");
        var to = fixture.Net("adapter0np1");
        const int Frames = 20_000;
        var sink = new FrameSink(Frames);
        to.AddReceiver(sink);
        using var stop = new CancellationTokenSource();

        var cycles = Task.Run(async () =>
        {
            var count = 0;
            while (!stop.IsCancellationRequested || count < 20)
            {
                await fixture.Fabric.Tree.WriteAsync("/bus/auxiliary/drivers/nic_net/unbind", "merlin_core.net.2");
                await fixture.Fabric.Tree.WriteAsync("/bus/auxiliary/drivers/nic_net/bind", "merlin_core.net.2");
                count++;
            }
        });
        // The receiver is known to the switch before the load, so no frame floods into the port that comes and goes.
        Assert.True(to.TryTransmit(AdapterFixture.Frame(Broadcast, to.Address, 0), out _));
        await Task.Run(() =>
        {
            for (var i = 0; i < Frames;)
            {
                if (from.TryTransmit(AdapterFixture.Frame(to.Address, from.Address, i), out var fault))
                {
                    i++;
                    // One flow of control: the receive queue is as deep as the transmit queue.
                    while (i - sink.Sequences.Count > 200)
                        Thread.Yield();
                }
                else
                {
                    Assert.Equal(Errno.ENOBUFS, fault.Errno);
                    Thread.Yield();
                }
            }
        });
        await sink.Done;
        await stop.CancelAsync();
        await cycles;

        Assert.Equal(Enumerable.Range(0, Frames), sink.Sequences);
        Assert.True(fixture.Net("adapter0np2").IsUp);
    }

    [Fact]
    public async Task Adapter_without_a_net_part_works()
    {
        await using var fixture = await AdapterFixture.StartAsync();
        var adapter = await fixture.AddMerlinAsync("adapter0", nets: 0, vdpas: 1);
        using var memory = new MemoryBackend(1 << 20);
        adapter.Hardware.Engine.AttachMedium("disk0", memory);

        var device = await fixture.Vdpa.Managements.Single().AddDiskAsync("disk0", "disk0", "SERIAL");

        Assert.Equal("vhost-vdpa", device.Driver?.Name);
        Assert.Equal("disk0\n", fixture.Fabric.Tree.Read("/bus/vdpa/devices/disk0/vhost-vdpa-0/label"));
        Assert.Equal(adapter.Device.DevPath + "/merlin_core.vdpa.0/disk0", device.DevPath);
    }

    [Fact]
    public async Task Vdpa_profile_that_the_provider_has_not_is_refused_whole()
    {
        await using var fixture = await AdapterFixture.StartAsync();
        await fixture.AddMerlinAsync("adapter0", nets: 0, vdpas: 1);
        var management = fixture.Vdpa.Managements.Single();

        Assert.Equal(Errno.EOPNOTSUPP, (await Refused("medium=m type=1")).Errno);
        Assert.Equal(Errno.EOPNOTSUPP, (await Refused("medium=m capacity=1MiB")).Errno);
        Assert.Equal(Errno.EINVAL, (await Refused("medium=m queues=0")).Errno);
        Assert.Equal(Errno.EINVAL, (await Refused("queues=1")).Errno);
        Assert.Contains("no medium 'm'", (await Refused("medium=m")).Message, StringComparison.Ordinal);
        Assert.Empty(fixture.Vdpa.Devices);

        async Task<VirtbusException> Refused(string profile) => await Assert.ThrowsAsync<VirtbusException>(
            async () => await management.AddAsync(management.Profile("d", ProfileText.ParsePairs(ProfileText.Split(profile)))));
    }

    [Fact]
    public async Task Unbinding_the_core_driver_takes_parts_interfaces_and_vdpa_devices_along()
    {
        await using var fixture = await AdapterFixture.StartAsync();
        var adapter = await fixture.AddMerlinAsync("adapter0", nets: 1, vdpas: 1);
        using var memory = new MemoryBackend(1 << 20);
        adapter.Hardware.Engine.AttachMedium("disk0", memory);
        await fixture.Vdpa.Managements.Single().AddDiskAsync("disk0", "disk0", "S");

        await fixture.Fabric.Tree.WriteAsync("/bus/pci/drivers/merlin_core/unbind", adapter.Device.Name);

        Assert.Empty(fixture.Auxiliary.Devices);
        Assert.Empty(fixture.Vdpa.Devices);
        Assert.Empty(NetSubsystem.Of(fixture.Fabric).Class.Devices);
        Assert.Empty(VhostSubsystem.Of(fixture.Fabric).Class.Devices);
        Assert.Equal(0, adapter.Hardware.Engine.QueueSetCount);
        await fixture.Fabric.Tree.WriteAsync("/bus/pci/drivers/merlin_core/bind", adapter.Device.Name);
        Assert.Equal(["merlin_core.net.0", "merlin_core.vdpa.0"], fixture.Auxiliary.Devices.Select(d => d.Name));
    }

    [Fact]
    public async Task Link_event_of_the_core_reaches_every_part()
    {
        await using var fixture = await AdapterFixture.StartAsync();
        var adapter = await fixture.AddHarrierAsync("adapter0", nets: 2, vdpas: 0);
        await fixture.Fabric.Tree.WriteAsync(adapter.Device.DevPath + "/carrier", "0");

        Assert.Equal("0\n", fixture.Fabric.Tree.Read("/class/net/adapter0np0/carrier"));
        Assert.Equal("down\n", fixture.Fabric.Tree.Read("/class/net/adapter0np1/operstate"));
        Assert.False(fixture.Net("adapter0np0").TryTransmit(AdapterFixture.Frame(1, 2, 3), out var fault));
        Assert.Equal(Errno.ENOTCONN, fault.Errno);
        await fixture.Fabric.Tree.WriteAsync(adapter.Device.DevPath + "/carrier", "1");
        Assert.True(fixture.Net("adapter0np0").TryTransmit(AdapterFixture.Frame(1, 2, 3), out _));
    }

    [Fact]
    public async Task Consumer_that_left_hears_of_no_event_any_more()
    {
        await using var fixture = await AdapterFixture.StartAsync();
        var adapter = await fixture.AddHarrierAsync("adapter0", nets: 1, vdpas: 0);
        var link = ((NicPart)fixture.Auxiliary.Devices.Single()).Require<INicLink>();
        var (stays, leaves) = (0, 0);
        using var subscription = link.Subscribe(_ => stays++);
        var other = link.Subscribe(_ => leaves++);
        await fixture.Fabric.Tree.WriteAsync(adapter.Device.DevPath + "/carrier", "0");
        Assert.Equal((1, 1), (stays, leaves));
        other.Dispose();
        other.Dispose();
        await fixture.Fabric.Tree.WriteAsync(adapter.Device.DevPath + "/carrier", "1");
        Assert.Equal((2, 1), (stays, leaves));

        // A driver leaves with its unbind, by the resources of its device.
        var gone = fixture.Net("adapter0np0");
        Assert.True(gone.HasCarrier);
        await fixture.Fabric.Tree.WriteAsync("/bus/auxiliary/drivers/nic_net/unbind", "harrier_core.net.0");
        await fixture.Fabric.Tree.WriteAsync(adapter.Device.DevPath + "/carrier", "0");
        Assert.Equal(3, stays);
        Assert.True(gone.HasCarrier);
    }

    [Fact]
    public async Task Suspended_adapter_takes_its_interfaces_down_and_resume_brings_them_up()
    {
        await using var fixture = await AdapterFixture.StartAsync();
        var adapter = await fixture.AddMerlinAsync("adapter0", nets: 1, vdpas: 0);
        await fixture.Fabric.SuspendAsync(adapter.Device);
        Assert.False(fixture.Net("adapter0np0").IsUp);
        await fixture.Fabric.ResumeAsync(adapter.Device);
        Assert.True(fixture.Net("adapter0np0").IsUp);
    }

    [Fact]
    public async Task Interface_that_the_user_took_down_stays_down_over_a_suspend()
    {
        await using var fixture = await AdapterFixture.StartAsync();
        var adapter = await fixture.AddMerlinAsync("adapter0", nets: 1, vdpas: 0);
        await fixture.Fabric.Tree.WriteAsync("/class/net/adapter0np0/flags", "0");
        await fixture.Fabric.SuspendAsync(adapter.Device);
        await fixture.Fabric.ResumeAsync(adapter.Device);

        Assert.Equal("down\n", fixture.Fabric.Tree.Read("/class/net/adapter0np0/operstate"));
        Assert.Equal(0, adapter.Hardware.Engine.QueueSetCount);
        await fixture.Fabric.Tree.WriteAsync("/class/net/adapter0np0/flags", "1");
        Assert.True(fixture.Net("adapter0np0").IsUp);
    }

    [Fact]
    public async Task Interface_of_an_adapter_with_a_long_name_has_a_lasting_name_too()
    {
        await using var fixture = await AdapterFixture.StartAsync();
        await fixture.AddMerlinAsync("adapter-with-a-long-name-0", nets: 1, vdpas: 0);
        await fixture.AddMerlinAsync("adapter-with-a-long-name-1", nets: 1, vdpas: 0);
        var names = NetSubsystem.Of(fixture.Fabric).Class.Devices.Select(d => d.Name).ToArray();
        Assert.Equal(2, names.Distinct().Count());
        Assert.All(names, n => Assert.Equal(15, n.Length));

        await fixture.Fabric.Tree.WriteAsync("/bus/auxiliary/drivers/nic_net/unbind", "merlin_core.net.0");
        await fixture.Fabric.Tree.WriteAsync("/bus/auxiliary/drivers/nic_net/bind", "merlin_core.net.0");
        Assert.Equal(names.Order(), NetSubsystem.Of(fixture.Fabric).Class.Devices.Select(d => d.Name).Order());
    }

    [Fact]
    public async Task Surprise_removal_of_an_adapter_under_traffic_leaves_nothing()
    {
        await using var fixture = await AdapterFixture.StartAsync();
        var adapter = await fixture.AddMerlinAsync("adapter0", nets: 2, vdpas: 1);
        var from = fixture.Net("adapter0np0");
        var frame = AdapterFixture.Frame(Broadcast, from.Address, 1);
        // It hears the first of them, so the traffic is there when the adapter goes, and goes on until it is told.
        var heard = new FrameSink(100);
        fixture.Net("adapter0np1").AddReceiver(heard);
        var sender = Task.Run(() =>
        {
            Fault fault;
            while (from.TryTransmit(frame, out fault) || fault.Errno == Errno.ENOBUFS)
            {
            }
            return fault;
        });
        await heard.Done;
        Assert.False(sender.IsCompleted);
        await fixture.Pci.SurpriseRemoveAsync(adapter.Device);
        Assert.True((await sender.In()).Errno is Errno.ENOTCONN or Errno.ENODEV or Errno.EIO);

        Assert.Empty(fixture.Auxiliary.Devices);
        Assert.Empty(fixture.Vdpa.Managements);
        Assert.Equal(0, adapter.Hardware.Engine.QueueSetCount);
        Assert.False(from.TryTransmit(frame, out _));
    }
}
