using Virtbus.Platform;
using Virtbus.Subsystems.Vfio;
using Virtbus.Virtio.Admin;

namespace Virtbus.Tests.Drivers.VfioPci;

/// <summary>What a user of a virtual function of a virtio device gets, by what the function is and what its physical one can do (VV-01, VV-04, VV-10).</summary>
public sealed class VirtioVfioTests
{
    private const ulong Legacy = 0x7F;
    private const ulong LegacyWithoutPlaces = 0x3F;
    private const ulong Parts = 0x3FC03;

    [Theory]
    [InlineData(0x1041, false, Legacy | Parts, 4, "virtio-vfio-pci-trans-lm")]
    [InlineData(0x1041, false, Legacy, 0, "virtio-vfio-pci-trans")]
    [InlineData(0x1041, false, Legacy | Parts, 0, "virtio-vfio-pci-trans")]
    [InlineData(0x1041, false, LegacyWithoutPlaces | Parts, 4, "virtio-vfio-pci-lm")]
    [InlineData(0x1041, true, Legacy | Parts, 4, "virtio-vfio-pci-lm")]
    [InlineData(0x1041, true, Legacy, 4, "virtio-vfio-pci")]
    [InlineData(0x1042, false, Legacy | Parts, 4, "virtio-vfio-pci-lm")]
    [InlineData(0x1042, false, Legacy, 4, "virtio-vfio-pci")]
    [InlineData(0x1041, false, 0x3, 4, "virtio-vfio-pci")]
    public async Task User_gets_what_function_and_owner_have_together(int device, bool hasBar0, ulong commands, int objects, string ops)
    {
        var world = await VirtioVfioWorld.NewAsync((ushort)device, hasBar0);
        world.Owner.Commands = new AdminCommandSet(commands);
        world.Owner.ObjectLimit = objects;
        await world.BindAsync(0);
        Assert.Equal(ops, world.Ops(0));
        Assert.Contains(world.Base.Lines.Lines, l => l.Contains($"{world.Functions[0].Name}: handed out as {ops}", StringComparison.Ordinal));
        using var user = VfioPciWorld.Open(world.Functions[0]);
        Assert.Equal(ops.EndsWith("-lm", StringComparison.Ordinal), user.Handle.Migration is not null);
        Assert.Equal(user.Handle.Migration is null, user.Handle.DmaLogging is null);
        var isLegacy = ops.Contains("-trans", StringComparison.Ordinal);
        Assert.Equal(isLegacy ? 0x1000 : device, user.Config16(2));
        Assert.True(user.Handle.TryGetRegionInfo(0, out var ports, out _));
        Assert.Equal(isLegacy ? 32ul : hasBar0 ? 0x1000ul : 0, ports!.Size);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task Physical_function_that_nobody_or_another_driver_has_gives_the_function_as_it_is(bool hasOther)
    {
        var world = await VirtioVfioWorld.NewAsync();
        world.Physical.SetDriverData(hasOther ? "another driver's" : null);
        await world.BindAsync(0);
        Assert.Equal("virtio-vfio-pci", world.Ops(0));
        using var user = VfioPciWorld.Open(world.Functions[0]);
        Assert.Equal((0x1041, 1), (user.Config16(2), (int)user.Read(PciUser.Config, 8, 1)));
        Assert.Empty(world.Owner.Calls);
    }

    [Fact]
    public async Task Device_that_is_no_virtual_function_is_handed_out_as_it_is()
    {
        var world = await VirtioVfioWorld.NewAsync();
        var card = await world.Base.PlugAsync(new HeadlessFunction(vendor: 0x1AF4, deviceId: 0x1041), VirtioVfioWorld.Variant);
        using var user = VfioPciWorld.Open(card);
        Assert.Equal(0x1041, user.Config16(2));
    }

    [Fact]
    public async Task Device_of_another_kind_is_refused_even_by_force_and_one_that_is_told_of_is_not()
    {
        var world = await VirtioVfioWorld.NewAsync();
        var other = await world.Base.Bus.PlugAsync(new HeadlessFunction(vendor: 0x1AF4, deviceId: 0x1043));
        world.Base.Fabric.SetDriverOverride(other, VirtioVfioWorld.Variant);
        Assert.True(world.Base.Bus.TryGetDriver(VirtioVfioWorld.Variant, out var driver));
        var e = await Assert.ThrowsAsync<VirtbusException>(() => world.Base.Fabric.BindAsync(driver, other.Name).AsTask());
        Assert.Equal(Errno.EINVAL, e.Errno);
        Assert.Contains("'vfio-pci'", e.Message, StringComparison.Ordinal);
        await ((Buses.Pci.PciDriver)driver).AddDynamicIdAsync(new Buses.Pci.PciDeviceId(0x1AF4, 0x1043)).In();
        if (other.Driver is null)
            await world.Base.Fabric.BindAsync(driver, other.Name).In();
        Assert.Same(driver, other.Driver);
    }

    [Fact]
    public async Task Function_without_a_place_of_its_own_for_notifications_does_not_open_and_opens_when_there_is_one()
    {
        var world = await VirtioVfioWorld.NewAsync();
        await world.BindAsync(0);
        var device = VfioPciWorld.DeviceOf(world.Functions[0]);
        var own = world.Owner.Places[1];
        world.Owner.Places.RemoveAt(1);
        Assert.False(device.TryOpen("web1", out _, out var fault));
        Assert.Equal(Errno.ENOENT, fault.Errno);
        Assert.Equal($"Device {world.Functions[0].Name} has no place of its own for the notifications of old drivers. Set driver_override to 'vfio-pci' to hand it out without them.", fault.Message);
        // What the physical function names is looked at.
        foreach (var wrong in new[] { own with { Offset = 0x3FFF }, own with { Offset = 0x4000 }, own with { Bar = 3 }, own with { Bar = 0 }, own with { Flags = 3 } })
        {
            world.Owner.Places.Add(wrong);
            Assert.False(device.TryOpen("web1", out _, out fault));
            Assert.Equal(Errno.ENOENT, fault.Errno);
            world.Owner.Places.Remove(wrong);
        }

        world.Physical.SetDriverData<FakeAdminOwner>(null);
        Assert.False(device.TryOpen("web1", out _, out fault));
        Assert.Equal(Errno.EOPNOTSUPP, fault.Errno);
        world.Physical.SetDriverData(world.Owner);
        world.Owner.Places.Add(own);
        using var user = VfioPciWorld.Open(world.Functions[0]);
        Assert.Equal(0x1000, user.Config16(2));
    }

    [Fact]
    public async Task Function_goes_with_its_physical_one_while_somebody_has_it_open()
    {
        var (world, user) = await VirtioVfioWorld.OpenAsync();
        user.Config16(4, 3);
        await world.Base.Bus.SurpriseRemoveAsync(world.Physical).In();
        Assert.Equal(Errno.ENODEV, user.ErrorOfRead(0, 0, 4));
        Assert.Equal(Errno.ENODEV, user.ErrorOfWrite(0, 16, 2));
        Assert.Equal(Errno.ENODEV, user.ErrorOfRead(PciUser.Config, 0, 4));
        user.Dispose();
        Assert.Empty(VfioSubsystem.Of(world.Base.Fabric).Class.Devices);
        Assert.Empty(world.Owner.Calls);
        Assert.DoesNotContain(world.Base.Lines.Lines, l => l.StartsWith("Error", StringComparison.Ordinal));
    }

    [Fact]
    public async Task Functions_of_one_owner_are_each_a_member_of_their_own()
    {
        var (world, user) = await VirtioVfioWorld.OpenAsync();
        await world.BindAsync(1);
        using var second = VfioPciWorld.Open(world.Functions[1]);
        world.Owner.Calls.Clear();
        foreach (var each in new[] { user, second })
        {
            each.Config16(4, 3);
            each.Read(0, 18, 1);
            each.Write(0, 16, 2, 1);
        }

        Assert.Equal(["3 0 1200000000000000 1", "3 1 1200000000000000 1"], world.Owner.Calls);
        Assert.Equal(["0 4 3000 0100", "1 4 3000 0100"], world.Hardware.Writes);
        user.Dispose();
    }

    [Fact]
    public async Task Vfio_device_is_offered_by_no_driver_but_the_one_that_was_asked_for()
    {
        var world = await VirtioVfioWorld.NewAsync();
        Assert.All(world.Functions, static f => Assert.Null(f.Driver));
        await world.BindAsync(0, "vfio-pci");
        Assert.Equal(Errno.ENOENT, Assert.Throws<VirtbusException>(() => world.Ops(0)).Errno);
        using var user = VfioPciWorld.Open(world.Functions[0]);
        Assert.Equal(0x1041, user.Config16(2));
        Assert.True(user.Handle.TryGetRegionInfo(0, out var none, out _));
        Assert.Equal(VfioRegionFlags.None, none!.Flags);
    }
}
