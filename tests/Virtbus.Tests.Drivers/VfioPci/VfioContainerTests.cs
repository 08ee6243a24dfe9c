using Virtbus.Buses.Pci;
using Virtbus.Hardware.Probe;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;
using Virtbus.Subsystems.Vfio;

namespace Virtbus.Tests.Drivers.VfioPci;

/// <summary>Several devices of one user, and functions that share an IOMMU group (VS-01, VS-08, section 6.1 of the semantics).</summary>
public sealed class VfioContainerTests
{
    private static readonly Iova At = new(0x10_0000);

    [Fact]
    public async Task Memory_is_mapped_once_for_all_devices_of_a_container()
    {
        var world = await VfioPciWorld.NewAsync();
        PciDevice[] devices = [await world.PlugAsync(new ScratchFunction()), await world.PlugAsync(new ScratchFunction())];
        using var memory = HostMemory.Allocate("guest", 1 << 16, out _);
        using var container = new VfioContainer("web1");
        // One is open before, the other after.
        var first = Open(container, devices[0]);
        Assert.True(container.Space.TryMap(At, 1 << 16, memory, 0, DmaAccess.ReadWrite, out _));
        using var second = Open(container, devices[1]);
        Assert.All(devices, d => Assert.True(Write(d)));
        Assert.Equal(devices.Select(_ => "web1"), devices.Select(d => d.IommuGroup.OwnerName));
        first.Dispose();
        Assert.False(Write(devices[0]));
        Assert.True(Write(devices[1]));
        Assert.True(container.Space.TryUnmapAll(out _, out _));
        Assert.False(Write(devices[1]));
    }

    [Fact]
    public async Task Functions_of_one_group_are_open_together_in_one_container_only()
    {
        var (_, one, two) = await TwoInASlotAsync();
        Assert.Same(one.IommuGroup, two.IommuGroup);
        using var memory = HostMemory.Allocate("guest", 1 << 16, out _);
        using var container = new VfioContainer("web1");
        Assert.True(container.Space.TryMap(At, 1 << 16, memory, 0, DmaAccess.ReadWrite, out _));
        var first = Open(container, one);
        // By itself, and in another container: the group has its owner.
        Assert.False(VfioPciWorld.DeviceOf(two).TryOpen("web2", out _, out var fault));
        Assert.Equal((Errno.EBUSY, true), (fault.Errno, fault.Message.Contains("'web1'", StringComparison.Ordinal)));
        using var other = new VfioContainer("web3");
        Assert.False(other.TryOpen(VfioPciWorld.DeviceOf(two), out _, out fault));
        Assert.Equal(Errno.EBUSY, fault.Errno);
        var second = Open(container, two);
        Assert.True(Write(one) && Write(two));

        // The one that is closed reaches nothing; the group is the container's until the last is.
        first.Dispose();
        Assert.Null(one.Dma.AddressSpace);
        Assert.False(other.TryOpen(VfioPciWorld.DeviceOf(one), out _, out _));
        Assert.True(Write(two));
        second.Dispose();
        Assert.Equal(DmaOwnerKind.None, one.IommuGroup.OwnerKind);

        // The other way round: what is open by itself keeps the container out.
        Assert.True(VfioPciWorld.DeviceOf(one).TryOpen("web2", out var alone, out _));
        Assert.False(container.TryOpen(VfioPciWorld.DeviceOf(two), out _, out fault));
        Assert.Equal((Errno.EBUSY, true), (fault.Errno, fault.Message.Contains("'web2'", StringComparison.Ordinal)));
        Assert.False(container.TryAttachGroup(two.IommuGroup, out fault));
        Assert.Equal(Errno.EBUSY, fault.Errno);
        alone!.Dispose();
        Open(container, two).Dispose();
    }

    [Fact]
    public async Task Group_is_not_viable_while_a_driver_of_the_host_does_DMA_in_it()
    {
        var (world, one, two) = await TwoInASlotAsync();
        var host = new HostDriver(world.Bus);
        await world.Fabric.RegisterDriverAsync(host);
        await world.BindAsync(two, "host");
        using var container = new VfioContainer("web1");
        Assert.False(container.TryOpen(VfioPciWorld.DeviceOf(one), out _, out var fault));
        Assert.Equal((Errno.EBUSY, true), (fault.Errno, fault.Message.Contains("driver host", StringComparison.Ordinal)));
        Assert.False(container.TryAttachGroup(one.IommuGroup, out fault));
        Assert.Equal(Errno.EBUSY, fault.Errno);

        // With no driver, and with one that leaves the DMA to users, it is.
        await world.UnbindAsync(two);
        var user = Open(container, one);
        // And now that driver gets none of it.
        world.Fabric.SetDriverOverride(two, "host");
        var e = await Assert.ThrowsAsync<VirtbusException>(() => world.Fabric.BindAsync(host, two.Name).AsTask());
        Assert.Equal(Errno.EBUSY, e.Errno);
        Assert.Contains("web1", e.Message, StringComparison.Ordinal);
        await world.BindAsync(two, "vfio-pci");
        user.Dispose();
        await world.BindAsync(two, "host");
    }

    [Fact]
    public async Task Attached_group_is_the_containers_with_no_device_open()
    {
        var (world, one, two) = await TwoInASlotAsync();
        using var container = new VfioContainer("web1");
        Assert.True(container.TryAttachGroup(one.IommuGroup, out _));
        Assert.False(container.TryAttachGroup(one.IommuGroup, out var fault));
        Assert.Equal(Errno.EBUSY, fault.Errno);
        Assert.False(VfioPciWorld.DeviceOf(two).TryOpen("web2", out _, out fault));
        Assert.Equal(Errno.EBUSY, fault.Errno);
        await world.Fabric.RegisterDriverAsync(new HostDriver(world.Bus));
        await world.UnbindAsync(two);
        await Assert.ThrowsAsync<VirtbusException>(() => world.BindAsync(two, "host"));
        var user = Open(container, one);
        Assert.True(container.TryDetachGroup(one.IommuGroup, out _));
        Assert.False(container.TryDetachGroup(one.IommuGroup, out fault));
        Assert.Equal(Errno.EINVAL, fault.Errno);
        Assert.Equal("web1", one.IommuGroup.OwnerName);
        user.Dispose();
        Assert.Null(one.IommuGroup.OwnerName);
    }

    [Fact]
    public async Task Pasid_of_a_device_reaches_the_container_or_a_space_of_its_own()
    {
        var world = await VfioPciWorld.NewAsync();
        var device = await world.PlugAsync(new ScratchFunction());
        using var memory = HostMemory.Allocate("guest", 1 << 16, out _);
        using var container = new VfioContainer("web1");
        using var nested = new IoAddressSpace();
        Assert.True(container.Space.TryMap(At, 1 << 16, memory, 0, DmaAccess.ReadWrite, out _));
        using var user = Open(container, device);
        Assert.True(user.TryAttach(container.Space, 5, out _));
        Assert.True(user.TryAttach(nested, 6, out _));
        Assert.True(device.Dma.ForPasid(5).TryWrite(At, [1]));
        Assert.False(device.Dma.ForPasid(6).TryWrite(At, [1]));
        Assert.False(device.Dma.ForPasid(7).TryWrite(At, [1]));
    }

    [Fact]
    public async Task Container_that_goes_closes_what_is_open_in_it()
    {
        var (_, one, two) = await TwoInASlotAsync();
        var container = new VfioContainer("web1");
        Assert.True(container.TryAttachGroup(one.IommuGroup, out _));
        var user = Open(container, one);
        Open(container, two).Dispose();
        container.Dispose();
        container.Dispose();
        Assert.False(user.TryReset(out var fault));
        Assert.Equal(Errno.ENODEV, fault.Errno);
        Assert.Equal(DmaOwnerKind.None, one.IommuGroup.OwnerKind);
        Assert.False(VfioPciWorld.DeviceOf(one).IsOpen);
        Assert.Throws<ObjectDisposedException>(() => container.TryOpen(VfioPciWorld.DeviceOf(one), out _, out _));
        Assert.Throws<ObjectDisposedException>(() => container.TryAttachGroup(one.IommuGroup, out _));
    }

    [Fact]
    public async Task Device_that_vanishes_leaves_the_others_of_its_container_alone()
    {
        var (world, one, two) = await TwoInASlotAsync();
        using var memory = HostMemory.Allocate("guest", 1 << 16, out _);
        using var container = new VfioContainer("web1");
        Assert.True(container.Space.TryMap(At, 1 << 16, memory, 0, DmaAccess.ReadWrite, out _));
        using var first = Open(container, one);
        using var second = Open(container, two);
        await world.Bus.SurpriseRemoveAsync(one).In();
        Assert.False(first.TryReset(out var fault));
        Assert.Equal(Errno.ENODEV, fault.Errno);
        Assert.True(Write(two));
        Assert.Equal("web1", two.IommuGroup.OwnerName);
    }

    private static async Task<(VfioPciWorld World, PciDevice One, PciDevice Two)> TwoInASlotAsync()
    {
        var world = await VfioPciWorld.NewAsync();
        var host = world.Bus.HostBridges[0];
        var one = await world.Bus.AddFunctionAsync(host, new ScratchFunction(), 5, 0);
        var two = await world.Bus.AddFunctionAsync(host, new ScratchFunction(), 5, 1);
        await world.BindAsync(one, "vfio-pci");
        await world.BindAsync(two, "vfio-pci");
        return (world, one, two);
    }

    private static VfioHandle Open(VfioContainer container, PciDevice device)
    {
        Assert.True(container.TryOpen(VfioPciWorld.DeviceOf(device), out var handle, out var fault), fault.Message);
        Span<byte> command = [6, 0];
        Assert.True(handle!.TryWrite(PciUser.Config, 4, command, out _));
        return handle;
    }

    private static bool Write(PciDevice device) => device.Dma.TryWrite(At, [1]);

    private sealed class HostDriver(PciBus bus) : PciDriver(bus, "host");
}
