using Virtbus.Buses.Pci;
using Virtbus.Pci;
using Virtbus.Platform;

namespace Virtbus.Tests.Buses.Pci;

/// <summary>Vectors: MSI-X, MSI and the line, as a driver programs them through config space and the table.</summary>
public sealed class InterruptTests
{
    private const int LoopLimit = 2000;

    [Fact]
    public async Task Best_kind_that_is_allowed_and_there_is_taken()
    {
        var world = await PciWorld.NewAsync();
        Assert.Equal((PciInterruptKinds.MsiX, 3), await AllocateAsync(world, new CardOptions(), 1, 3));
        Assert.Equal((PciInterruptKinds.MsiX, 8), await AllocateAsync(world, new CardOptions(), 1, 100));
        Assert.Equal((PciInterruptKinds.Msi, 4), await AllocateAsync(world, new CardOptions { HasMsix = false }, 1, 100));
        Assert.Equal((PciInterruptKinds.Msi, 3), await AllocateAsync(world, new CardOptions(), 3, 3, PciInterruptKinds.Msi | PciInterruptKinds.INTx));
        Assert.Equal((PciInterruptKinds.INTx, 1), await AllocateAsync(world, new CardOptions { HasMsix = false, HasMsi = false }, 1, 4));
        var (_, device) = await world.PlugAsync();
        device.Enable();
        var e = Expect.Refused(Errno.ENOSPC, () => device.AllocateVectors(9, 16));
        Assert.Equal($"Device {device.Name} has not 9 interrupt vectors of the kinds All. Ask for fewer, or allow another kind.", e.Message);
        Expect.Refused(Errno.ENOSPC, () => device.AllocateVectors(2, 4, PciInterruptKinds.INTx));
        device.AllocateVectors(1, 1);
        Expect.Refused(Errno.EBUSY, () => device.AllocateVectors(1, 1));
        device.FreeVectors();
        device.FreeVectors();
        device.Disable();
        Expect.Refused(Errno.EIO, () => device.AllocateVectors(1, 1));
    }

    [Theory]
    [InlineData(PciInterruptKinds.MsiX, true)]
    [InlineData(PciInterruptKinds.Msi, true)]
    [InlineData(PciInterruptKinds.Msi, false)]
    public async Task Messages_reach_the_handler_of_their_vector(PciInterruptKinds kind, bool hasMasks)
    {
        var world = await PciWorld.NewAsync();
        var (card, device) = await world.PlugAsync(new CardOptions { HasMsiMasks = hasMasks });
        device.Enable();
        device.SetMaster(true);
        var vectors = device.AllocateVectors(4, 4, kind);
        var counts = new int[4];
        for (var i = 0; i < 4; i++)
        {
            var at = i;
            vectors[i].SetHandler(() => counts[at]++);
        }
        device.GetRegion(0).Write32(Card.Message, 2);
        card.Raise(3);
        card.Raise(3);
        Assert.Equal([0, 0, 1, 2], counts);
        Assert.Equal(2, vectors[3].Count);

        // What comes while masked comes once when unmasked.
        vectors[1].Mask();
        card.Raise(1);
        card.Raise(1);
        card.Raise(0);
        Assert.Equal([1, 0, 1, 2], counts);
        vectors[1].Unmask();
        Assert.Equal([1, 1, 1, 2], counts);

        // Without a handler it waits for the next one.
        vectors[2].SetHandler(null);
        card.Raise(2);
        Assert.Equal([1, 1, 1, 2], counts);
        vectors[2].SetHandler(() => counts[2] += 10);
        Assert.Equal([1, 1, 11, 2], counts);

        // A function that is no bus master sends nothing.
        device.SetMaster(false);
        card.Raise(0);
        Assert.Equal([1, 1, 11, 2], counts);
        device.SetMaster(true);
        device.FreeVectors();
        card.Raise(0);
        Assert.Equal([1, 1, 11, 2], counts);
    }

    [Fact]
    public async Task Capability_and_table_say_what_a_driver_would_write()
    {
        var world = await PciWorld.NewAsync();
        var (_, device) = await world.PlugAsync();
        device.Enable();
        var capability = device.FindCapability(0x11);
        var region = device.GetRegion(0);
        var vectors = device.AllocateVectors(2, 2);
        Assert.Equal(0x8007, device.ReadConfig16(capability + 2));
        Assert.Equal(0x0400, device.ReadConfig16(4) & 0x0400);
        for (var i = 0; i < 2; i++)
        {
            var entry = 0x2000u + ((ulong)i * 16);
            Assert.Equal(0xFEE00000u | ((uint)device.Address.RoutingId << 4), region.Read32(entry));
            Assert.Equal(0u, region.Read32(entry + 4));
            Assert.Equal((uint)i, region.Read32(entry + 8));
            Assert.Equal(1u, region.Read32(entry + 12));
        }
        vectors[0].SetHandler(() => { });
        Assert.Equal([0u, 1u, 1u], [region.Read32(0x200C), region.Read32(0x201C), region.Read32(0x202C)]);
        vectors[0].Mask();
        Assert.Equal(1u, region.Read32(0x200C));
        device.FreeVectors();
        Assert.Equal(0x0007, device.ReadConfig16(capability + 2));
        Assert.Equal(0, device.ReadConfig16(4) & 0x0400);

        capability = device.FindCapability(0x05);
        vectors = device.AllocateVectors(3, 3, PciInterruptKinds.Msi);
        Assert.Equal(0x21, device.ReadConfig16(capability + 2) & 0x71);
        Assert.Equal(0xFEE00000u | ((uint)device.Address.RoutingId << 4), device.ReadConfig32(capability + 4));
        Assert.Equal(7u, device.ReadConfig32(capability + 16) & 7);
        vectors[1].SetHandler(() => { });
        Assert.Equal(5u, device.ReadConfig32(capability + 16) & 7);
        device.FreeVectors();
        Assert.Equal(0, device.ReadConfig16(capability + 2) & 0x71);
    }

    [Fact]
    public async Task Message_of_one_function_never_reaches_another_one()
    {
        var world = await PciWorld.NewAsync();
        var (card, device) = await world.PlugAsync();
        var (_, victim) = await world.PlugAsync();
        foreach (var one in new[] { device, victim })
        {
            one.Enable();
            one.SetMaster(true);
        }
        var hits = 0;
        victim.AllocateVectors(1, 1)[0].SetHandler(() => hits++);
        device.AllocateVectors(1, 1)[0].SetHandler(() => { });
        // As a user might who reaches the table: the other one's address in its own table.
        device.GetRegion(0).Write32(0x2000, victim.GetRegion(0).Read32(0x2000));
        card.Raise(0);
        device.GetRegion(0).Write32(0x2008, 500);
        card.Raise(0);
        Assert.Equal(0, hits);
        Assert.Contains(world.Lines.Lines, l => l.Contains($"{device.Name}: a message to", StringComparison.Ordinal));
    }

    [Fact]
    public async Task Line_calls_the_handler_as_long_as_it_is_asserted()
    {
        var world = await PciWorld.NewAsync();
        var (card, device) = await world.PlugAsync(new CardOptions { HasMsix = false, HasMsi = false });
        device.Enable();
        card.SetLine(true);
        var vector = device.AllocateVectors(1, 1)[0];
        var calls = 0;
        // The line was up before the handler came.
        vector.SetHandler(() =>
        {
            if (++calls == 3)
                device.GetRegion(0).Write32(Card.Line, 0);
        });
        Assert.Equal(3, calls);
        Assert.Equal(3, vector.Count);
        // Down and up again: one call, for the handler masks what it does not quiet.
        vector.SetHandler(() =>
        {
            calls++;
            vector.Mask();
        });
        card.SetLine(true);
        Assert.Equal(4, calls);
    }

    [Fact]
    public async Task Masked_line_shows_in_the_command_register_and_comes_back_by_unmask()
    {
        var world = await PciWorld.NewAsync();
        var (card, device) = await world.PlugAsync(new CardOptions { HasMsix = false, HasMsi = false });
        device.Enable();
        var vector = device.AllocateVectors(1, 1)[0];
        var calls = 0;
        vector.SetHandler(() =>
        {
            calls++;
            vector.Mask();
        });
        card.SetLine(true);
        Assert.Equal(1, calls);
        Assert.Equal(0x0400, device.ReadConfig16(4) & 0x0400);
        vector.Unmask();
        Assert.Equal(2, calls);
        card.SetLine(false);
        vector.Unmask();
        Assert.Equal(2, calls);
        Assert.Equal(0, device.ReadConfig16(4) & 0x0400);
        // The bit counts whoever writes it.
        device.WriteConfig16(4, 0x0403);
        card.SetLine(true);
        Assert.Equal(2, calls);
        device.WriteConfig16(4, 0x0003);
        Assert.Equal(3, calls);
    }

    [Fact]
    public async Task Line_that_nobody_quiets_is_masked_in_the_end()
    {
        var world = await PciWorld.NewAsync();
        var (card, device) = await world.PlugAsync(new CardOptions { HasMsix = false, HasMsi = false });
        device.Enable();
        var calls = 0;
        device.AllocateVectors(1, 1)[0].SetHandler(() => calls++);
        card.SetLine(true);
        Assert.Equal(100_000, calls);
        Assert.Contains(world.Lines.Lines, l => l.Contains("its line stayed asserted through 100000 calls", StringComparison.Ordinal));
    }

    [Fact]
    public async Task Handler_that_was_taken_off_runs_no_more_when_the_call_returns()
    {
        var world = await PciWorld.NewAsync();
        var (card, device) = await world.PlugAsync();
        device.Enable();
        device.SetMaster(true);
        var vector = device.AllocateVectors(1, 1)[0];
        var end = false;
        using var started = new ManualResetEventSlim();
        var raiser = Task.Factory.StartNew(
            () =>
            {
                while (!Volatile.Read(ref end))
                {
                    card.Raise(0);
                    started.Set();
                }
            },
            CancellationToken.None,
            TaskCreationOptions.LongRunning,
            TaskScheduler.Default);
        Assert.True(started.Wait(Deadline.Limit));
        var late = 0;
        for (var i = 0; i < LoopLimit; i++)
        {
            var isOver = false;
            vector.SetHandler(() =>
            {
                Thread.SpinWait(200);
                if (Volatile.Read(ref isOver))
                    Interlocked.Increment(ref late);
            });
            Thread.SpinWait(i % 100);
            vector.SetHandler(null);
            Volatile.Write(ref isOver, true);
        }
        Assert.True(vector.Count > 0);
        Volatile.Write(ref end, true);
        await raiser.In();
        Assert.Equal(0, late);
    }

    [Fact]
    public async Task Handler_may_change_or_take_off_itself()
    {
        var world = await PciWorld.NewAsync();
        var (card, device) = await world.PlugAsync();
        device.Enable();
        device.SetMaster(true);
        var vector = device.AllocateVectors(1, 1)[0];
        var calls = new List<int>();
        vector.SetHandler(() =>
        {
            calls.Add(1);
            vector.SetHandler(() =>
            {
                calls.Add(2);
                vector.SetHandler(null);
            });
        });
        card.Raise(0);
        card.Raise(0);
        card.Raise(0);
        Assert.Equal([1, 2], calls);
    }

    [Fact]
    public async Task Freed_vectors_wait_for_a_handler_that_runs()
    {
        var world = await PciWorld.NewAsync();
        var (card, device) = await world.PlugAsync();
        device.Enable();
        device.SetMaster(true);
        using var entered = new ManualResetEventSlim();
        using var go = new ManualResetEventSlim();
        var isOver = false;
        device.AllocateVectors(1, 1)[0].SetHandler(() =>
        {
            entered.Set();
            go.Wait(Deadline.Limit);
            Volatile.Write(ref isOver, true);
        });
        var raiser = Task.Run(() => card.Raise(0));
        Assert.True(entered.Wait(Deadline.Limit));
        var free = Task.Run(device.FreeVectors);
        Assert.False(free.IsCompleted);
        go.Set();
        await free.In();
        Assert.True(Volatile.Read(ref isOver));
        await raiser.In();
    }

    [Fact]
    public async Task Error_of_a_handler_is_logged_and_the_function_goes_on()
    {
        var world = await PciWorld.NewAsync();
        var (card, device) = await world.PlugAsync();
        device.Enable();
        device.SetMaster(true);
        var vectors = device.AllocateVectors(1, 1);
        vectors[0].SetHandler(() => throw new InvalidOperationException("a bug"));
        card.Raise(0);
        card.Raise(0);
        Assert.Equal(2, vectors[0].Count);
        Assert.Equal(2, world.Lines.Lines.Count(l => l.Contains("the handler of vector 0 failed", StringComparison.Ordinal)));
    }

    [Fact]
    public async Task Masks_from_many_threads_end_as_the_last_one_said()
    {
        var world = await PciWorld.NewAsync();
        var (card, device) = await world.PlugAsync(new CardOptions { HasMsix = false });
        device.Enable();
        device.SetMaster(true);
        var vectors = device.AllocateVectors(4, 4);
        var counts = new int[4];
        for (var i = 0; i < 4; i++)
        {
            var at = i;
            vectors[i].SetHandler(() => Interlocked.Increment(ref counts[at]));
        }
        await Task.WhenAll(Enumerable.Range(0, 4).Select(i => Task.Run(() =>
        {
            for (var n = 0; n < LoopLimit; n++)
            {
                vectors[i].Mask();
                vectors[i].Unmask();
            }
            if (i % 2 == 0)
                vectors[i].Mask();
        }))).In();
        // Four vectors share one register.
        var capability = device.FindCapability(0x05);
        Assert.Equal(5u, device.ReadConfig32(capability + 16) & 0xF);
        for (var i = 0; i < 4; i++)
            card.Raise(i);
        Assert.Equal([0, 1, 0, 1], counts);
    }

    [Fact]
    public async Task Unbind_frees_what_the_driver_left()
    {
        var world = await PciWorld.NewAsync();
        var driver = new Leaver(world.Bus);
        await world.Fabric.RegisterDriverAsync(driver);
        var (card, device) = await world.PlugAsync();
        Assert.Single(device.Vectors);
        await world.Fabric.UnbindAsync(driver, device.Name);
        Assert.Empty(device.Vectors);
        card.Raise(0);
        Assert.Contains(world.Lines.Lines, l => l.Contains("driver leaver left its interrupt vectors", StringComparison.Ordinal));
    }

    private static async Task<(PciInterruptKinds Kind, int Count)> AllocateAsync(PciWorld world, CardOptions options, int min, int max, PciInterruptKinds kinds = PciInterruptKinds.All)
    {
        var (_, device) = await world.PlugAsync(options);
        device.Enable();
        var vectors = device.AllocateVectors(min, max, kinds);
        Assert.Equal(vectors, device.Vectors);
        Assert.All(vectors, (v, i) => Assert.Equal(i, v.Index));
        return (vectors[0].Kind, vectors.Count);
    }

    private sealed class Leaver(PciBus bus) : PciDriver(bus, "leaver", new PciDeviceId(0x1AF4, 0x10F5))
    {
        protected override ValueTask ProbeAsync(PciDevice device, PciDeviceId id, CancellationToken cancellationToken)
        {
            device.Enable();
            device.AllocateVectors(1, 1)[0].SetHandler(() => { });
            return default;
        }
    }
}
