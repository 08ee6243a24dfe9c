using Virtbus.Block;
using Virtbus.Buses.Pci;
using Virtbus.Buses.Vdpa;
using Virtbus.Core;
using Virtbus.Drivers.Nic;
using Virtbus.Drivers.NicRings;
using Virtbus.Memory.Dma;
using Virtbus.Platform;
using Virtbus.Subsystems.Net;
using Xunit;

namespace Virtbus.Tests.Adapter;

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
        var disk = await management.AddAsync(new VdpaProfile("disk0", 2, "disk0", "SERIAL"));
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
        var path = adapter.Device.DevPath + "/vf_profiles/1";
        await fixture.Fabric.Tree.WriteAsync(path, "mac 02:00:00:00:00:77 queues 2");
        await fixture.Fabric.Tree.WriteAsync(adapter.Device.DevPath + "/sriov_numvfs", "2");
        Assert.Equal("02:00:00:00:00:77\n", fixture.Fabric.Tree.Read("/class/net/adapter0v1np0/address"));
        Assert.Equal("mac 02:00:00:00:00:77 queues 2\n", fixture.Fabric.Tree.Read(path));
        Assert.Equal(Errno.EBUSY, (await Refused(path, "queues 3")).Errno);
        Assert.Equal(Errno.EINVAL, (await Refused(path, "colour red")).Errno);
        Assert.Equal(Errno.EINVAL, (await Refused(path, "mac 02:00")).Errno);
        await fixture.Fabric.Tree.WriteAsync(adapter.Device.DevPath + "/sriov_numvfs", "0");
        Assert.Equal(Errno.EINVAL, (await Refused(path, "queues 17")).Errno);
        Assert.Equal(Errno.EINVAL, (await Refused(path, "mac 01:00:00:00:00:77")).Errno);

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
    public async Task Link_of_the_adapter_reaches_its_virtual_functions()
    {
        await using var fixture = await AdapterFixture.StartAsync();
        var adapter = await fixture.AddMerlinAsync("adapter0", nets: 1, vdpas: 0, vfs: 1);
        await fixture.Fabric.Tree.WriteAsync(adapter.Device.DevPath + "/sriov_numvfs", "1");
        await fixture.Fabric.Tree.WriteAsync(adapter.Device.DevPath + "/link", "0");
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
        await tree.WriteAsync(adapter.Device.DevPath + "/vf_profiles/1", "mac 02:00:00:00:00:77 queues 4");
        await tree.WriteAsync(adapter.Device.DevPath + "/vf_profiles/3", "mac 02:00:00:00:00:99 queues 5");
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
        Assert.Equal("mac 02:00:00:00:00:77 queues 4\n", tree.Read(adapter.Device.DevPath + "/vf_profiles/1"));
        Assert.Equal("mac 02:00:00:00:00:99 queues 5\n", tree.Read(adapter.Device.DevPath + "/vf_profiles/3"));
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
        public void Receive(NetDevice device, ReadOnlySpan<byte> frame) => received.TrySetResult(frame.ToArray());
    }
}
