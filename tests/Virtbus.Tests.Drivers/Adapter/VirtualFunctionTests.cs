using Virtbus.Block;
using Virtbus.Buses.Pci;
using Virtbus.Buses.Vdpa;
using Virtbus.Core;
using Virtbus.Drivers.Nic;
using Virtbus.Drivers.NicRings;
using Virtbus.Drivers.VfioPci;
using Virtbus.Ethernet;
using Virtbus.Memory.Dma;
using Virtbus.Platform;
using Virtbus.Provisioning;
using Virtbus.Subsystems.Net;
using Virtbus.Subsystems.Vfio;

namespace Virtbus.Tests.Drivers.Adapter;

/// <summary>Virtual functions of adapters with their drivers: MS-08, MS-10, VP-06, PV-01, PV-02.</summary>
public sealed class VirtualFunctionTests
{
    private const ulong Broadcast = 0xFFFFFFFFFFFF;

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task Virtual_function_carries_the_same_parts_as_the_physical_one(bool merlin)
    {
        await using var fixture = await AdapterFixture.StartAsync();
        var adapter = merlin
            ? await fixture.AddMerlinAsync("adapter0", nets: 1, vdpas: 1, vfs: 4)
            : await fixture.AddHarrierAsync("adapter0", nets: 1, vdpas: 1, vfs: 4);
        var core = merlin ? "merlin_core" : "harrier_core";
        await fixture.Fabric.Tree.WriteAsync(adapter.Device.DevPath + "/sriov_numvfs", "2");

        Assert.Equal([$"{core}.net.0", $"{core}.vdpa.0", $"{core}.vfmig.0", "adapter0np0"], adapter.Device.Children.Select(d => d.Name));
        Assert.Equal([$"{core}.net.1", $"{core}.vdpa.1", "adapter0v0np0"], adapter.Device.VirtualFunctions[0].Children.Select(d => d.Name));
        Assert.Equal([$"{core}.net.2", $"{core}.vdpa.2", "adapter0v1np0"], adapter.Device.VirtualFunctions[1].Children.Select(d => d.Name));
        Assert.Equal("06:00:00:00:00:" + (merlin ? "10" : "20") + "\n", fixture.Fabric.Tree.Read("/class/net/adapter0v0np0/address"));

        // A frame from one virtual function to the other, by the interfaces.
        var sink = new FrameSink(1);
        fixture.Net("adapter0v1np0").AddReceiver(sink);
        Assert.True(fixture.Net("adapter0v0np0").TryTransmit(AdapterFixture.Frame(Broadcast, 0x060000000010, 7), out _));
        await sink.Done;
        Assert.Equal([7], sink.Sequences);

        // And a disk on a virtual function.
        using var memory = new MemoryBackend(1 << 20);
        adapter.Hardware.Engine.AttachMedium("disk0", memory);
        var management = fixture.Vdpa.Managements.Single(m => m.Device.Parent == adapter.Device.VirtualFunctions[1]);
        var disk = await management.AddDiskAsync("disk0", "disk0", "SERIAL");
        Assert.Equal("vhost-vdpa", disk.Driver?.Name);
    }

    [Fact]
    public async Task Long_frames_go_through_interfaces_whole()
    {
        await using var fixture = await AdapterFixture.StartAsync();
        await fixture.AddHarrierAsync("adapter0", nets: 2, vdpas: 0);
        var (from, to) = (fixture.Net("adapter0np0"), fixture.Net("adapter0np1"));
        await fixture.Fabric.Tree.WriteAsync("/class/net/adapter0np0/mtu", "9000");
        var received = new TaskCompletionSource<byte[]>(TaskCreationOptions.RunContinuationsAsynchronously);
        to.AddReceiver(new Catcher(received));
        var frame = new byte[9018];
        new Random(1).NextBytes(frame);
        AdapterFixture.Frame(Broadcast, from.Address, 0).AsSpan(0, 14).CopyTo(frame);
        Assert.True(from.TryTransmit(frame, out _));
        Assert.Equal(frame, await received.Task.WaitAsync(TimeSpan.FromSeconds(20)));
    }

    [Fact]
    public async Task Unbinding_the_physical_function_takes_the_virtual_ones_away()
    {
        await using var fixture = await AdapterFixture.StartAsync();
        var adapter = await fixture.AddMerlinAsync("adapter0", nets: 1, vdpas: 0, vfs: 8);
        await fixture.Fabric.Tree.WriteAsync(adapter.Device.DevPath + "/sriov_numvfs", "8");
        await fixture.Fabric.Tree.WriteAsync("/bus/pci/drivers/merlin_core/unbind", adapter.Device.Name);
        Assert.Empty(adapter.Device.VirtualFunctions);
        Assert.Empty(adapter.Hardware.VirtualFunctions);
        Assert.Empty(fixture.Auxiliary.Devices);
        Assert.Equal(0, adapter.Hardware.Engine.QueueSetCount);
        Assert.Equal(DmaOwnerKind.None, adapter.Device.IommuGroup.OwnerKind);
        await fixture.Fabric.Tree.WriteAsync("/bus/pci/drivers/merlin_core/bind", adapter.Device.Name);
        await fixture.Fabric.Tree.WriteAsync(adapter.Device.DevPath + "/sriov_numvfs", "8");
        Assert.Equal(8, adapter.Device.VirtualFunctions.Count);
    }

    [Fact]
    public async Task Virtual_function_without_its_driver_belongs_to_nobody_and_a_user_can_have_it()
    {
        await using var fixture = await AdapterFixture.StartAsync();
        var adapter = await fixture.AddMerlinAsync("adapter0", nets: 1, vdpas: 0, vfs: 1);
        await fixture.Fabric.Tree.WriteAsync(adapter.Device.DevPath + "/sriov_numvfs", "1");
        var function = adapter.Device.VirtualFunctions[0];
        Assert.False(function.IommuGroup.TryClaimForUser(this, "user", out var fault));
        Assert.Equal(Errno.EBUSY, fault.Errno);
        await fixture.Fabric.Tree.WriteAsync("/bus/pci/drivers/merlin_core/unbind", function.Name);
        Assert.True(function.IommuGroup.TryClaimForUser(this, "user", out _));
        var error = await Assert.ThrowsAsync<VirtbusException>(async () => await fixture.Fabric.Tree.WriteAsync("/bus/pci/drivers/merlin_core/bind", function.Name));
        Assert.Equal(Errno.EBUSY, error.Errno);
        function.IommuGroup.ReleaseUser(this);
        await fixture.Fabric.Tree.WriteAsync("/bus/pci/drivers/merlin_core/bind", function.Name);
        Assert.True(fixture.Net("adapter0v0np0").IsUp);
    }

    [Fact]
    public async Task Profile_is_set_before_and_refused_after()
    {
        await using var fixture = await AdapterFixture.StartAsync();
        var adapter = await fixture.AddMerlinAsync("adapter0", nets: 1, vdpas: 0, vfs: 2);
        const string Folder = "/kernel/config/functions/one/";
        await fixture.Fabric.Tree.WriteAsync("/kernel/config/define", "one kind=vf parent=adapter0 index=1 mac=02:00:00:00:00:77 queues=2");
        await fixture.Fabric.Tree.WriteAsync(adapter.Device.DevPath + "/sriov_numvfs", "2");
        Assert.Equal("02:00:00:00:00:77\n", fixture.Fabric.Tree.Read("/class/net/adapter0v1np0/address"));
        Assert.Equal("active\n", fixture.Fabric.Tree.Read(Folder + "state"));
        // The other one is shown too, as the hardware has made it.
        Assert.Equal("8\n", fixture.Fabric.Tree.Read("/kernel/config/functions/adapter0v0/profile/queues"));
        Assert.Equal(fixture.Fabric.Tree.Read("/class/net/adapter0v0np0/address"), fixture.Fabric.Tree.Read("/kernel/config/functions/adapter0v0/profile/mac"));
        Assert.Equal(Errno.EBUSY, (await Refused(Folder + "set", "queues=3")).Errno);
        Assert.Equal(Errno.EOPNOTSUPP, (await Refused(Folder + "set", "colour=red")).Errno);
        Assert.Equal(Errno.EINVAL, (await Refused(Folder + "set", "mac=02:00")).Errno);
        await fixture.Fabric.Tree.WriteAsync(adapter.Device.DevPath + "/sriov_numvfs", "0");
        Assert.Equal("configured\n", fixture.Fabric.Tree.Read(Folder + "state"));
        Assert.Equal(["one"], ProvisioningEngine.Of(fixture.Fabric).Functions.Select(f => f.Name));
        Assert.Equal(Errno.EINVAL, (await Refused(Folder + "set", "queues=17")).Errno);
        Assert.Equal(Errno.EINVAL, (await Refused(Folder + "set", "mac=01:00:00:00:00:77")).Errno);
        Assert.Equal(Errno.EINVAL, (await Refused("/kernel/config/define", "two kind=vf index=2")).Errno);
        Assert.Equal(Errno.EEXIST, (await Refused("/kernel/config/define", "two kind=vf index=1")).Errno);

        // A virtual function has two queue sets and not one more.
        await fixture.Fabric.Tree.WriteAsync(adapter.Device.DevPath + "/sriov_numvfs", "2");
        var core = NicCore.TryGet(adapter.Device.VirtualFunctions[1])!;
        using (core.Allocate("test", 16))
            Assert.Equal(Errno.ENOSPC, Assert.Throws<VirtbusException>(() => core.Allocate("test", 16)).Errno);
        Assert.Equal(Errno.EPERM, Assert.Throws<VirtbusException>(() => core.SetLink(false)).Errno);

        async Task<VirtbusException> Refused(string at, string value) =>
            await Assert.ThrowsAsync<VirtbusException>(async () => await fixture.Fabric.Tree.WriteAsync(at, value));
    }

    [Fact]
    public async Task Defined_functions_are_activated_as_the_set_that_they_are()
    {
        await using var fixture = await AdapterFixture.StartAsync();
        var adapter = await fixture.AddMerlinAsync("adapter0", nets: 1, vdpas: 0, vfs: 4);
        var engine = ProvisioningEngine.Of(fixture.Fabric);
        foreach (var index in Enumerable.Range(0, 3))
            engine.Define($"web{index}", "vf", "adapter0", [new("index", $"{index}"), new("queues", $"{index + 1}")]);
        engine.Define("none", "vf", "adapter0", [new("queues", "2")]);
        await Refused(Errno.EINVAL, "index (a number of the virtual function", () => engine.ActivateAsync(["none"]));
        await Refused(Errno.EINVAL, "Virtual function 2 ('web2') of 0000:01:00.0 can't come without virtual function 1", () => engine.ActivateAsync(["web0", "web2"]));
        Assert.Empty(adapter.Device.VirtualFunctions);

        await engine.ActivateAsync(["web1", "web0"]);
        Assert.Equal("2\n", fixture.Fabric.Tree.Read(adapter.Device.DevPath + "/sriov_numvfs"));
        Assert.Equal([adapter.Device.VirtualFunctions[0], adapter.Device.VirtualFunctions[1]], [engine.Get("web0").Device!, engine.Get("web1").Device!]);
        Assert.Equal("2\n", fixture.Fabric.Tree.Read("/kernel/config/functions/web1/profile/queues"));
        await Refused(Errno.EBUSY, "has 2 virtual functions, and PCI enables all at once", () => engine.ActivateAsync(["web2"]));
        await Refused(Errno.EBUSY, "go together, and adapter0v1 would stay", () => engine.DeactivateAsync(["web0"]));
        Assert.Equal(2, adapter.Device.VirtualFunctions.Count);
        Assert.Equal(FunctionState.Active, engine.Get("web0").State);
        await engine.DeactivateAsync(["web0", "web1"]);
        Assert.Empty(adapter.Device.VirtualFunctions);

        // A number that is written is another way to the same.
        await fixture.Fabric.Tree.WriteAsync(adapter.Device.DevPath + "/sriov_numvfs", "4");
        Assert.Equal(
            [("web0", FunctionState.Active), ("web1", FunctionState.Active), ("web2", FunctionState.Active), ("none", FunctionState.Defined), ("adapter0v3", FunctionState.Active)],
            engine.Functions.Select(f => (f.Name, f.State)));
        await fixture.Fabric.Tree.WriteAsync("/bus/pci/drivers/merlin_core/unbind", adapter.Device.Name);
        Assert.Equal(
            [("web0", FunctionState.Gone), ("web1", FunctionState.Gone), ("web2", FunctionState.Gone), ("none", FunctionState.Defined)],
            engine.Functions.Select(f => (f.Name, f.State)));
        await fixture.Fabric.Tree.WriteAsync("/bus/pci/drivers/merlin_core/bind", adapter.Device.Name);
        await engine.ActivateAsync(["web0", "web1", "web2"]);
        Assert.Equal(3, adapter.Device.VirtualFunctions.Count);
    }

    [Fact]
    public async Task Vfio_device_of_a_virtual_function_is_configured_before_it_is_made_and_goes_when_its_user_has_gone()
    {
        await using var fixture = await AdapterFixture.StartAsync();
        await new VfioPciModule().InitAsync(new ModuleContext(fixture.Fabric, "vfio_pci"));
        await fixture.AddMerlinAsync("adapter0", nets: 1, vdpas: 0, vfs: 4);
        var engine = ProvisioningEngine.Of(fixture.Fabric);
        var devices = VfioSubsystem.Of(fixture.Fabric).Class;
        var one = engine.Define("web0", "vf", "adapter0", [new("index", "0"), new("driver", "vfio-pci")]);
        await engine.SetAsync("web0", [new("mac", "06:00:00:00:aa:01")]);
        Assert.Empty(devices.Devices);
        await engine.ActivateAsync(["web0"]);
        var device = Assert.IsType<VfioDevice>(Assert.Single(devices.Devices));
        Assert.Same(one.Device, device.Parent);
        Assert.Equal("06:00:00:00:aa:01\n", fixture.Fabric.Tree.Read("/kernel/config/functions/web0/profile/mac"));
        Assert.True(device.TryOpen("web1", out var handle, out var fault), fault.Message);
        Assert.Equal(FunctionState.InUse, one.State);
        var gone = engine.DeactivateAsync(["web0"]).AsTask();
        Assert.False(gone.IsCompleted);
        handle!.Dispose();
        await gone.In();
        Assert.Empty(devices.Devices);
    }

    [Fact]
    public async Task Functions_that_were_there_come_back_with_those_that_a_number_had_made()
    {
        await using var fixture = await AdapterFixture.StartAsync();
        var adapter = await fixture.AddMerlinAsync("adapter0", nets: 1, vdpas: 0, vfs: 4);
        var engine = ProvisioningEngine.Of(fixture.Fabric);
        engine.Define("web1", "vf", "adapter0", [new("index", "1"), new("queues", "3")]);
        engine.Define("web2", "vf", "adapter0", [new("index", "2")]);
        await fixture.Fabric.Tree.WriteAsync(adapter.Device.DevPath + "/sriov_numvfs", "4");
        await fixture.Fabric.Tree.WriteAsync("/bus/pci/drivers/merlin_core/unbind", adapter.Device.Name);
        Assert.Equal(["web1", "web2"], engine.Functions.Select(static f => f.Name));
        await fixture.Fabric.Tree.WriteAsync("/bus/pci/drivers/merlin_core/bind", adapter.Device.Name);
        await engine.ActivateAsync(["web2"]);
        Assert.Equal(
            [("web1", "0000:01:00.2"), ("web2", "0000:01:00.3"), ("adapter0v0", "0000:01:00.1")],
            engine.Functions.Select(static f => (f.Name, f.Device?.Name)));
        Assert.Equal("3\n", fixture.Fabric.Tree.Read("/kernel/config/functions/web1/profile/queues"));
        Assert.Equal(3, adapter.Device.VirtualFunctions.Count);
    }

    [Theory]
    [InlineData("asker")]
    [InlineData("deactivation")]
    [InlineData("end")]
    public async Task Activation_that_waits_for_its_turn_is_cancelled(string by)
    {
        await using var fixture = await AdapterFixture.StartAsync();
        var adapter = await fixture.AddMerlinAsync("adapter0", nets: 1, vdpas: 0, vfs: 1);
        var engine = ProvisioningEngine.Of(fixture.Fabric);
        engine.Define("web0", "vf", "adapter0", [new("index", "0")]);
        var (begun, goesOn) = (new TaskCompletionSource(), new TaskCompletionSource());
        var holder = fixture.Fabric.RunExclusiveAsync(adapter.Device, async () =>
        {
            begun.SetResult();
            await goesOn.Task;
        }).AsTask();
        await begun.Task;
        using var asker = new CancellationTokenSource();
        var activation = engine.ActivateAsync(["web0"], asker.Token).AsTask();
        Assert.True(SpinWait.SpinUntil(() => fixture.Fabric.Transitions.Waiting == 1, TimeSpan.FromSeconds(20)));
        switch (by)
        {
            case "asker":
                await asker.CancelAsync();
                await Assert.ThrowsAnyAsync<OperationCanceledException>(() => activation.WaitAsync(TimeSpan.FromSeconds(20)));
                break;
            case "deactivation":
                await engine.DeactivateAsync(["web0"]).AsTask().WaitAsync(TimeSpan.FromSeconds(20));
                break;
            default:
                engine.Close();
                break;
        }

        if (by != "asker")
            Assert.Equal(Errno.ECANCELED, (await Assert.ThrowsAsync<VirtbusException>(() => activation.WaitAsync(TimeSpan.FromSeconds(20)))).Errno);
        Assert.Equal(FunctionState.Configured, engine.Get("web0").State);
        goesOn.SetResult();
        await holder;
        Assert.Empty(adapter.Device.VirtualFunctions);
        // Nobody is left in the queue.
        await fixture.Fabric.RunExclusiveAsync(adapter.Device, static () => default).AsTask().WaitAsync(TimeSpan.FromSeconds(20));
    }

    [Fact]
    public async Task Definition_that_has_the_name_of_one_that_was_made_for_a_number_stays()
    {
        await using var fixture = await AdapterFixture.StartAsync();
        var adapter = await fixture.AddMerlinAsync("adapter0", nets: 1, vdpas: 0, vfs: 1);
        var engine = ProvisioningEngine.Of(fixture.Fabric);
        await fixture.Fabric.Tree.WriteAsync(adapter.Device.DevPath + "/sriov_numvfs", "1");
        await engine.DeactivateAsync(["adapter0v0"]);
        engine.Undefine("adapter0v0");
        engine.Define("adapter0v0", "vf", "adapter0", [new("index", "0")]);
        await engine.ActivateAsync(["adapter0v0"]);
        await fixture.Fabric.Tree.WriteAsync("/bus/pci/drivers/merlin_core/unbind", adapter.Device.Name);
        Assert.Equal(FunctionState.Gone, engine.Get("adapter0v0").State);
    }

    [Fact]
    public async Task Function_whose_driver_does_not_take_it_is_not_activated()
    {
        await using var fixture = await AdapterFixture.StartAsync();
        var adapter = await fixture.AddMerlinAsync("adapter0", nets: 1, vdpas: 0, vfs: 2);
        var engine = ProvisioningEngine.Of(fixture.Fabric);
        engine.Define("web0", "vf", "adapter0", [new("index", "0"), new("driver", "nobody")]);
        await Refused(Errno.ENODEV, "Function 'web0': driver nobody did not take", () => engine.ActivateAsync(["web0"]));
        Assert.Empty(adapter.Device.VirtualFunctions);
        Assert.Equal(FunctionState.Configured, engine.Get("web0").State);
        await engine.SetAsync("web0", [new("driver", "merlin_core")]);
        await engine.ActivateAsync(["web0"]);
        Assert.Equal("merlin_core", Assert.Single(adapter.Device.VirtualFunctions).DriverOverride);
    }

    private static async Task Refused(Errno errno, string message, Func<ValueTask> act)
    {
        var error = await Assert.ThrowsAsync<VirtbusException>(async () => await act());
        Assert.Equal(errno, error.Errno);
        Assert.Contains(message, error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Link_of_the_adapter_reaches_its_virtual_functions()
    {
        await using var fixture = await AdapterFixture.StartAsync();
        var adapter = await fixture.AddMerlinAsync("adapter0", nets: 1, vdpas: 0, vfs: 1);
        await fixture.Fabric.Tree.WriteAsync(adapter.Device.DevPath + "/sriov_numvfs", "1");
        await fixture.Fabric.Tree.WriteAsync(adapter.Device.DevPath + "/carrier", "0");
        Assert.False(fixture.Net("adapter0np0").HasCarrier);
        Assert.True(SpinWait.SpinUntil(() => !fixture.Net("adapter0v0np0").HasCarrier, TimeSpan.FromSeconds(20)));
        // One that comes while the link is down knows it.
        await fixture.Fabric.Tree.WriteAsync("/bus/pci/drivers/merlin_core/unbind", adapter.Device.VirtualFunctions[0].Name);
        await fixture.Fabric.Tree.WriteAsync("/bus/pci/drivers/merlin_core/bind", adapter.Device.VirtualFunctions[0].Name);
        Assert.False(fixture.Net("adapter0v0np0").HasCarrier);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task Reset_attribute_resets_the_function_and_its_parts_come_back(bool physical)
    {
        await using var fixture = await AdapterFixture.StartAsync();
        var adapter = await fixture.AddMerlinAsync("adapter0", nets: 1, vdpas: 1, vfs: 1);
        await fixture.Fabric.Tree.WriteAsync(adapter.Device.DevPath + "/sriov_numvfs", "1");
        var device = physical ? adapter.Device : adapter.Device.VirtualFunctions[0];
        await fixture.Fabric.Tree.WriteAsync(device.DevPath + "/reset", "1");
        var name = physical ? "adapter0np0" : "adapter0v0np0";
        Assert.True(fixture.Net(name).IsUp);
        Assert.True(fixture.Net(name).TryTransmit(AdapterFixture.Frame(Broadcast, 1, 1), out _));
        Assert.Single(adapter.Device.VirtualFunctions);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task Reset_of_the_physical_function_keeps_the_virtual_ones_and_what_they_are(bool merlin)
    {
        await using var fixture = await AdapterFixture.StartAsync();
        var adapter = merlin
            ? await fixture.AddMerlinAsync("adapter0", nets: 1, vdpas: 1, vfs: 4)
            : await fixture.AddHarrierAsync("adapter0", nets: 1, vdpas: 1, vfs: 4);
        var tree = fixture.Fabric.Tree;
        await tree.WriteAsync("/kernel/config/define", "one kind=vf parent=adapter0 index=1 mac=02:00:00:00:00:77 queues=4");
        await tree.WriteAsync(adapter.Device.DevPath + "/sriov_numvfs", "2");
        var functions = adapter.Device.VirtualFunctions.ToArray();
        var channel = fixture.Auxiliary.Devices.Single(d => d.Name.Contains(".vfmig.", StringComparison.Ordinal));
        var hardware = functions[1].Function;

        await tree.WriteAsync(adapter.Device.DevPath + "/reset", "1");

        Assert.Equal("2\n", tree.Read(adapter.Device.DevPath + "/sriov_numvfs"));
        Assert.Equal(functions, adapter.Device.VirtualFunctions);
        Assert.NotSame(hardware, functions[1].Function);
        Assert.All(functions, f => Assert.True(f.Function.IsPresent));
        Assert.Equal("02:00:00:00:00:77\n", tree.Read("/class/net/adapter0v1np0/address"));
        // Who holds a virtual function by the channel keeps it.
        Assert.Same(channel, fixture.Auxiliary.Devices.Single(d => d.Name.Contains(".vfmig.", StringComparison.Ordinal)));
        var sink = new FrameSink(1);
        fixture.Net("adapter0v1np0").AddReceiver(sink);
        Assert.True(fixture.Net("adapter0v0np0").TryTransmit(AdapterFixture.Frame(Broadcast, 0x060000000010, 7), out _));
        await sink.Done;
        Assert.Equal([7], sink.Sequences);
    }

    [Fact]
    public async Task Migration_part_saves_and_loads_a_virtual_function()
    {
        await using var fixture = await AdapterFixture.StartAsync();
        var adapter = await fixture.AddMerlinAsync("adapter0", nets: 1, vdpas: 0, vfs: 2);
        await fixture.Fabric.Tree.WriteAsync(adapter.Device.DevPath + "/sriov_numvfs", "2");
        var part = Assert.IsType<NicPart>(fixture.Auxiliary.Devices.Single(d => d.Name == "merlin_core.vfmig.0"));
        Assert.Same(adapter.Device, part.Parent);
        var migration = part.Require<INicMigration>();
        Assert.True(migration.TryGetFunctionId(adapter.Device.VirtualFunctions[1], out var second));
        Assert.Equal(2u, second);
        Assert.False(migration.TryGetFunctionId(adapter.Device, out _));

        Assert.False(migration.TrySaveState(1, out _, out var fault));
        Assert.Equal(Errno.EBUSY, fault.Errno);
        Assert.False(migration.TrySuspend(3, false, out fault));
        Assert.Equal(Errno.ENOENT, fault.Errno);
        var generation = migration.StateGeneration(1);
        Assert.NotEqual(0UL, generation);
        Assert.True(migration.TrySuspend(1, true, out _));
        Assert.True(migration.TrySuspend(1, false, out _));
        Assert.True(migration.TrySaveState(1, out var state, out _));
        Assert.True(migration.TrySuspend(2, false, out _));
        Assert.True(migration.TryLoadState(2, state, out _));
        Assert.True(migration.TrySaveState(2, out var copy, out _));
        Assert.Equal(state, copy);
        Assert.False(migration.TryLoadState(2, state.AsSpan(1), out fault));
        Assert.Equal(Errno.EINVAL, fault.Errno);
        Assert.False(migration.TryLoadState(2, new byte[100_000], out fault));
        Assert.Equal(Errno.EINVAL, fault.Errno);
        Assert.True(migration.TryResume(1, out _));
        Assert.True(fixture.Net("adapter0v0np0").TryTransmit(AdapterFixture.Frame(Broadcast, 1, 1), out _));
        Assert.True(SpinWait.SpinUntil(() => migration.StateGeneration(1) != generation, TimeSpan.FromSeconds(20)));
    }

    [Fact]
    public async Task Driver_of_the_other_make_refuses_the_adapter_and_says_so()
    {
        await using var fixture = await AdapterFixture.StartAsync();
        var adapter = await fixture.AddMerlinAsync("adapter0", nets: 1, vdpas: 0);
        await fixture.Fabric.Tree.WriteAsync("/bus/pci/drivers/merlin_core/unbind", adapter.Device.Name);
        await fixture.Fabric.Tree.WriteAsync(adapter.Device.DevPath + "/driver_override", "harrier_core");
        var error = await Assert.ThrowsAsync<VirtbusException>(async () => await fixture.Fabric.Tree.WriteAsync("/bus/pci/drivers/harrier_core/bind", adapter.Device.Name));
        Assert.Contains("is no harrier", error.Message);
        Assert.False(adapter.Device.IsEnabled);
    }

    private sealed class Catcher(TaskCompletionSource<byte[]> received) : IFrameReceiver
    {
        public void Receive(NetDevice device, int queue, in EthernetFrame frame) => received.TrySetResult(frame.Bytes.ToArray());
    }
}
