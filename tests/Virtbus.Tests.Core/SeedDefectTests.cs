using Virtbus.Buses.Auxiliary;
using Virtbus.Core;
using Virtbus.Platform;

namespace Virtbus.Tests.Core;

/// <summary>The nine defects of the seed's code, each as a test that such code would fail.</summary>
public sealed class SeedDefectTests
{
    [Fact]
    public async Task Defect_1_failure_after_initialization_drops_the_reference_and_releases()
    {
        var world = await World.NewAsync();
        var ids = new IdAllocator(limit: 1);
        ids.Allocate();
        var parents = world.Parent.References;
        await Expect.RefusedAsync(Errno.ENOSPC, async () => await world.Bus.CreateAsync(world.Parent, "mod", "a", "payload", ids));
        Assert.Equal((parents, 1), (world.Parent.References, ids.Count));
        ids.Free(0);
        await world.Bus.CreateAsync(world.Parent, "mod", "a", "payload", 0u);
        await Expect.RefusedAsync(Errno.EEXIST, async () => await world.Bus.CreateAsync(world.Parent, "mod", "a", "payload", ids));
        Assert.Equal((parents + 1, 0), (world.Parent.References, ids.Count));
    }

    [Fact]
    public async Task Defect_2_failed_add_deletes_nothing()
    {
        var world = await World.NewAsync();
        await world.RegisterAsync("d", "a");
        await world.AddAsync("a", 1);
        var seqnum = world.Fabric.Uevents.Seqnum;
        world.ClearCalls();
        var twin = world.New("a", 1);
        await Expect.RefusedAsync(Errno.EEXIST, () => world.Fabric.AddAsync(twin));
        Assert.Equal(seqnum, world.Fabric.Uevents.Seqnum);
        Assert.Empty(world.Calls);
        Assert.Equal(DeviceState.Initialized, twin.State);
    }

    [Fact]
    public async Task Defect_3_id_is_not_free_before_release()
    {
        var world = await World.NewAsync();
        var ids = new IdAllocator();
        var device = await world.Bus.CreateAsync(world.Parent, "mod", "a", "payload", ids);
        using (device.Hold())
        {
            await world.Bus.DestroyAsync(device);
            Assert.Equal(1, ids.Count);
        }
        Assert.Equal(0, ids.Count);
    }

    [Fact]
    public async Task Defect_4_match_does_not_write_to_the_device()
    {
        var world = await World.NewAsync();
        var device = await world.AddAsync("a", 1);
        var before = (device.Binding, device.DriverOverride, device.GetDriverData<object>(), device.References, device.State);
        for (var i = 0; i < 100; i++)
            Assert.Equal(2ul, world.Bus.Match(device, world.Driver("d", "b", "a"))!.DriverData);
        Assert.Equal(before, (device.Binding, device.DriverOverride, device.GetDriverData<object>(), device.References, device.State));
        // What a match is given has no way to write.
        Assert.All(typeof(IAuxiliaryIdentity).GetInterfaces().Append(typeof(IAuxiliaryIdentity)).SelectMany(i => i.GetProperties()), p => Assert.False(p.CanWrite));
    }

    [Fact]
    public async Task Defect_5_id_table_needs_no_terminator_and_is_not_read_past_its_end()
    {
        var world = await World.NewAsync();
        var device = await world.AddAsync("zzz", 1);
        Assert.Null(world.Bus.Match(device, world.Driver("d", "a", "b")));
        Expect.Refused(Errno.EINVAL, () => new TestDriver(world, "d", new AuxiliaryDeviceId("mod.a"), new AuxiliaryDeviceId("")));
    }

    [Fact]
    public async Task Defect_6_creator_whose_register_fails_leaks_neither_device_nor_payload()
    {
        var world = await World.NewAsync();
        await world.AddAsync("a", 1);
        var (device, payload) = Make();
        for (var i = 0; i < 10 && (device.IsAlive || payload.IsAlive); i++)
        {
            GC.Collect();
            GC.WaitForPendingFinalizers();
        }
        Assert.False(device.IsAlive);
        Assert.False(payload.IsAlive);

        [System.Runtime.CompilerServices.MethodImpl(System.Runtime.CompilerServices.MethodImplOptions.NoInlining)]
        (WeakReference Device, WeakReference Payload) Make()
        {
            var content = new object();
            var made = new AuxiliaryDevice<object>(world.Bus, "mod", "a", 1, world.Parent, content);
            var add = world.Bus.AddAsync(made);
            Assert.True(add.IsFaulted);
            made.Put();
            return (new WeakReference(made), new WeakReference(content));
        }
    }

    [Fact]
    public void Defect_7_name_that_can_not_be_set_is_an_error() => Expect.Refused(Errno.EINVAL, () => new Device("a/b"));

    [Fact]
    public async Task Defect_8_ids_begin_at_zero_again_when_the_bus_was_taken_out_and_put_in()
    {
        for (var i = 0; i < 2; i++)
        {
            var world = await World.NewAsync();
            var ids = new IdAllocator();
            var device = await world.Bus.CreateAsync(world.Parent, "mod", "a", "payload", ids);
            Assert.Equal(0u, device.Id);
            await world.Bus.DestroyAsync(device);
            world.Fabric.UnregisterBus(world.Bus);
            Assert.Equal(0, ids.Count);
        }
        Assert.DoesNotContain(typeof(AuxiliaryBus).Assembly.GetTypes().SelectMany(t => t.GetFields(System.Reflection.BindingFlags.Static | System.Reflection.BindingFlags.NonPublic | System.Reflection.BindingFlags.Public)), f => f.FieldType == typeof(IdAllocator));
    }

    [Fact]
    public async Task Defect_9_payload_is_typed_whatever_number_the_entry_carries()
    {
        var world = await World.NewAsync();
        var driver = new StringDriver(world.Bus);
        await world.Fabric.RegisterDriverAsync(driver);
        var text = await world.Bus.CreateAsync(world.Parent, "mod", "a", "text", 0u);
        var number = await world.Bus.CreateAsync(world.Parent, "mod", "a", new Version(1, 2), 1u);
        Assert.Same(driver, text.Driver);
        Assert.Null(number.Driver);
        var e = await Expect.RefusedAsync(Errno.EINVAL, () => world.Fabric.BindAsync(driver, number.Name));
        Assert.Contains("Build driver and creator against the same contract.", e.Message, StringComparison.Ordinal);
    }

    private sealed class StringDriver(AuxiliaryBus bus) : AuxiliaryDriver<AuxiliaryDevice<string>>(bus, "strings", null, new AuxiliaryDeviceId("mod.a", 1));
}
