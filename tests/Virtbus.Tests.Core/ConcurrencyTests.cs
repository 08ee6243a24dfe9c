using System.Diagnostics;
using Virtbus.Buses.Auxiliary;
using Virtbus.Core;
using Virtbus.Platform;

namespace Virtbus.Tests.Core;

/// <summary>The same operations from several threads of the real pool, bounded in time; nothing hangs, nothing is left. DM-01 to DM-05, DM-24.</summary>
public sealed class ConcurrencyTests
{
    [Fact]
    public async Task Many_threads_leave_nothing_behind()
    {
        var world = await World.NewAsync(new FabricOptions());
        var overlaps = 0;
        var inCallback = new System.Collections.Concurrent.ConcurrentDictionary<Device, int>();
        var released = 0;
        var made = 0;
        for (var i = 0; i < 4; i++)
            await world.Fabric.RegisterDriverAsync(Make(i));
        using var events = world.Fabric.Uevents.Subscribe(1 << 20);
        var limit = TimeSpan.FromSeconds(3);
        var watch = Stopwatch.StartNew();
        var net = world.Fabric.RegisterClass(new Class("net"));
        await Task.WhenAll(Enumerable.Range(0, 6).Select(n => Task.Run(() => ActAsync(new Random(n), (uint)n * 1_000_000)))).WaitAsync(TimeSpan.FromSeconds(60));
        await world.Fabric.ResumeAsync();
        await world.Fabric.SettleAsync().In();
        await world.Fabric.DeleteAsync(world.Parent).In();
        foreach (var driver in world.Bus.Drivers)
            await world.Fabric.UnregisterDriverAsync(driver).In();
        await world.Fabric.SettleAsync().In();

        Assert.Equal(0, overlaps);
        Assert.Equal(made, released);
        Assert.Empty(world.Fabric.AllDevices);
        Assert.Empty(world.Fabric.DeferredDevices);
        Assert.Empty(world.Fabric.Links);
        Assert.Equal((0, 0, 0), (world.Fabric.WorkCount, world.Fabric.Transitions.Waiting, world.Fabric.Binder.ParkedCount));
        Assert.Equal((0, 0, 0), (world.Bus.DeviceCount, world.Bus.Unbound.Count, world.Bus.Busy.Count));
        Assert.Empty(net.Devices);
        var batch = await events.ReadAsync().In();
        Assert.Equal(0, batch.Lost);
        var last = new Dictionary<string, string>();
        var number = batch.Events[0].Seqnum;
        foreach (var uevent in batch.Events)
        {
            Assert.Equal(number++, uevent.Seqnum);
            if (uevent.Subsystem != "auxiliary")
                continue;
            var before = last.GetValueOrDefault(uevent.DevPath);
            Assert.True(
                uevent.ActionName switch { "add" => before is null or "remove", "bind" => before is "add" or "unbind", "unbind" => before is "bind", _ => before is "add" or "unbind" },
                $"{uevent} follows {before}");
            last[uevent.DevPath] = uevent.ActionName;
        }

        TestDriver Make(int i)
        {
            var driver = new TestDriver(world, "d" + i, new AuxiliaryDeviceId("mod.a"), new AuxiliaryDeviceId("mod.k" + i)) { ProbeType = (ProbeType)(i % 3) };
            driver.OnProbe = async (d, _, token) =>
            {
                Enter(d);
                await Task.Yield();
                Leave(d);
                if ((d.Id + i) % 5 == 0)
                    throw new VirtbusException(Errno.EIO, "no");
                if ((d.Id + i) % 7 == 0)
                    throw new ProbeDeferException("not yet");
                token.ThrowIfCancellationRequested();
            };
            driver.OnRemove = async d =>
            {
                Enter(d);
                await Task.Yield();
                Leave(d);
            };
            return driver;
        }

        void Enter(Device device)
        {
            if (!inCallback.TryAdd(device, 0))
                Interlocked.Increment(ref overlaps);
        }

        void Leave(Device device) => inCallback.TryRemove(device, out _);

        async Task ActAsync(Random random, uint id)
        {
            var mine = new List<AuxiliaryDevice>();
            while (watch.Elapsed < limit)
            {
                world.ClearCalls();
                try
                {
                    switch (random.Next(9))
                    {
                        case 0 or 1 or 2:
                            var all = world.Bus.Devices;
                            var device = world.New(random.Next(2) == 0 ? "a" : "k" + random.Next(4), id++, all.Count > 0 && random.Next(2) == 0 ? all[random.Next(all.Count)] : null, _ => Interlocked.Increment(ref released));
                            Interlocked.Increment(ref made);
                            try
                            {
                                await world.Fabric.AddAsync(device);
                                mine.Add(device);
                            }
                            catch
                            {
                                device.Put();
                                throw;
                            }
                            break;
                        case 3 when Take() is { } gone:
                            await world.Fabric.UnregisterAsync(gone);
                            break;
                        case 4 when Take() is { } gone:
                            await world.Fabric.SurpriseRemoveAsync(gone);
                            gone.Put();
                            break;
                        case 5 when world.Bus.Devices is { Count: > 1 } some:
                            var one = some[random.Next(some.Count)];
                            if (one.Driver is { } bound)
                                await world.Fabric.UnbindAsync(bound, one.Name);
                            else
                                await world.Fabric.ProbeAsync(world.Bus, one.Name);
                            break;
                        case 6 when world.Bus.Devices is { Count: > 1 } some:
                            world.Fabric.AddLink(some[random.Next(some.Count)], some[random.Next(some.Count)], DeviceLinkFlags.AutoremoveConsumer);
                            break;
                        case 7 when random.Next(10) == 0 && world.Bus.TryGetDriver("test.d" + random.Next(4), out var driver):
                            await world.Fabric.UnregisterDriverAsync(driver);
                            await world.Fabric.RegisterDriverAsync(driver);
                            break;
                        case 8 when random.Next(10) == 0:
                            await world.Fabric.SuspendAsync();
                            await world.Fabric.ResumeAsync();
                            break;
                    }
                }
                catch (VirtbusException)
                {
                    // A refusal is an answer; a hang or another exception is not.
                }
            }
            foreach (var device in mine)
                await world.Fabric.UnregisterAsync(device);

            AuxiliaryDevice? Take()
            {
                if (mine.Count == 0)
                    return null;
                var i = random.Next(mine.Count);
                var device = mine[i];
                mine.RemoveAt(i);
                return device;
            }
        }
    }
}
