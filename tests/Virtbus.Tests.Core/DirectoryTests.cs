using Virtbus.Buses.Auxiliary;
using Virtbus.Core;
using Virtbus.Platform;

namespace Virtbus.Tests.Core;

/// <summary>How devices are found by name below their parent, on their bus and in their class: DM-01, DM-04.</summary>
public sealed class DirectoryTests
{
    [Fact]
    public async Task Children_on_a_bus_and_off_it_never_share_a_name()
    {
        var world = await World.NewAsync();
        var onBus = await world.AddAsync("a", 1);
        var plain = new Device("mod.a.2", world.Parent);
        await world.Fabric.AddAsync(plain);
        Assert.True(world.Parent.TryGetChild("mod.a.1", out var found) && found == onBus);
        Assert.True(world.Parent.TryGetChild("mod.a.2", out found) && found == plain);
        await Expect.RefusedAsync(Errno.EEXIST, () => world.Fabric.AddAsync(new Device("mod.a.1", world.Parent)));
        await Expect.RefusedAsync(Errno.EEXIST, () => world.Fabric.AddAsync(world.New("a", 2)));
        Assert.Equal([onBus, plain], world.Parent.Children);
        Assert.Equal(1, world.Bus.DeviceCount);

        // Free again with the device that had it, and below another parent free all along.
        await world.Fabric.DeleteAsync(onBus);
        Assert.False(world.Parent.TryGetChild("mod.a.1", out _));
        await world.Fabric.AddAsync(new Device("mod.a.1", world.Parent));
        await world.AddAsync("b", 1, plain);
        Assert.False(world.Parent.TryGetChild("mod.b.1", out _));
        Assert.True(plain.TryGetChild("mod.b.1", out _));
    }

    [Fact]
    public async Task Children_on_two_buses_never_share_a_name()
    {
        var world = await World.NewAsync();
        var other = world.Fabric.RegisterBus(new OtherBus());
        var first = await world.AddAsync("a", 1);
        await Expect.RefusedAsync(Errno.EEXIST, () => world.Fabric.AddAsync(new Device("mod.a.1", world.Parent, other)));
        var second = new Device("mod.a.2", world.Parent, other);
        await world.Fabric.AddAsync(second);
        Assert.True(world.Parent.TryGetChild("mod.a.1", out var found) && found == first);
        Assert.True(world.Parent.TryGetChild("mod.a.2", out found) && found == second);
        await Expect.RefusedAsync(Errno.EEXIST, () => world.Fabric.AddAsync(world.New("a", 2)));
        // Another parent is another directory.
        await world.Fabric.AddAsync(new Device("mod.a.1", first, other));
        Assert.Equal([first, second], world.Parent.Children);
    }

    [Fact]
    public async Task Device_that_stays_is_found_while_others_come_and_go()
    {
        var world = await World.NewAsync();
        var stays = new List<AuxiliaryDevice>();
        for (var i = 0u; i < 40; i++)
            stays.Add(await world.AddAsync("stays", i));
        var ended = false;
        var readers = Enumerable.Range(0, 2).Select(_ => Task.Run(() =>
        {
            var looks = 0;
            while (!Volatile.Read(ref ended) || looks == 0)
            {
                foreach (var device in stays)
                {
                    Assert.True(world.Bus.TryGetDevice(device.Name, out var found) && found == device, $"{device} is not on its bus");
                    Assert.True(world.Parent.TryGetChild(device.Name, out found) && found == device, $"{device} is not below its parent");
                }
                Assert.Equal(stays, world.Bus.Devices.Where(d => d.Name.StartsWith("mod.stays", StringComparison.Ordinal)));
                Assert.Equal(stays, world.Parent.Children.Where(d => d.Name.StartsWith("mod.stays", StringComparison.Ordinal)));
                looks++;
            }
        })).ToArray();
        var random = new Random(1);
        var others = new List<AuxiliaryDevice>();
        var id = 0u;
        // Up and down, so that the tables grow, fill with gaps, are closed up and shrink.
        foreach (var target in new[] { 3_000, 10, 1_000, 900, 0, 200, 0 })
        {
            while (others.Count < target)
                others.Add(await world.AddAsync("other", id++));
            while (others.Count > target)
            {
                var i = random.Next(others.Count);
                await world.Fabric.DeleteAsync(others[i]);
                others.RemoveAt(i);
                if (others.Count > target && random.Next(3) == 0)
                    others.Add(await world.AddAsync("other", id++));
            }
            Assert.Equal(stays.Count + target, world.Bus.DeviceCount);
            Assert.Equal(stays.Count + target, world.Parent.Children.Count);
            Assert.All(others, d => Assert.True(world.Parent.TryGetChild(d.Name, out var found) && found == d));
        }
        Volatile.Write(ref ended, true);
        await Task.WhenAll(readers).In();
    }

    private sealed class OtherBus() : Bus("other")
    {
        public override DeviceId? Match(IDeviceIdentity device, Driver driver) => null;
    }
}
