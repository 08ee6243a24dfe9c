using Microsoft.Extensions.Logging.Abstractions;
using Virtbus.Buses.Pci;
using Virtbus.Core;
using Virtbus.Memory.Dma;
using Virtbus.Pci;
using Virtbus.Platform;
using Virtbus.Remote.Pci;

namespace Virtbus.Tests.Remote;

/// <summary>
/// A function that is elsewhere on the bus: a driver finds registers, interrupts and DMA as with any other function, whatever the link is: to another
/// process (true) or to the host (false).
/// </summary>
public sealed class RemoteFunctionTests
{
    private static readonly TimeSpan Limit = TimeSpan.FromSeconds(30);

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task Registers_and_config_space_are_the_devices_own(bool isPeer)
    {
        var (link, _, device) = await PlugAsync(isPeer);
        Assert.Equal((0x1AF4, 0x10F5), (device.VendorId, device.DeviceId));
        Assert.Equal(new PciBar(PciBarKind.Memory32, 0x4000), device.GetRegion(0).Bar);
        Assert.Equal(new PciBar(PciBarKind.Io, 32), device.GetRegion(1).Bar);
        device.Enable();
        device.GetRegion(0).Write32(4, 0x12345678);
        var bytes = new byte[4];
        link.Read(0, 4, bytes);
        Assert.Equal(0x12345678u, BitConverter.ToUInt32(bytes));
        Assert.True(device.TryReset(out _));
        Assert.Equal(0u, device.GetRegion(0).Read32(4));
    }

    [Theory]
    [InlineData(true, PciInterruptKinds.MsiX, 2u, 8)]
    [InlineData(true, PciInterruptKinds.Msi, 1u, 4)]
    [InlineData(false, PciInterruptKinds.MsiX, 2u, 8)]
    [InlineData(false, PciInterruptKinds.Msi, 1u, 4)]
    public async Task Signals_become_messages_of_their_vector(bool isPeer, PciInterruptKinds kind, uint index, int signals)
    {
        var (link, _, device) = await PlugAsync(isPeer);
        device.Enable();
        device.SetMaster(true);
        var vectors = device.AllocateVectors(4, 4, kind);
        using var came = new SemaphoreSlim(0);
        var last = -1;
        for (var i = 0; i < 4; i++)
        {
            var at = i;
            vectors[i].SetHandler(() =>
            {
                Volatile.Write(ref last, at);
                came.Release();
            });
        }
        Assert.Contains($"{index} ActionTrigger {signals}", link.Calls);
        for (var i = 3; i >= 0; i--)
        {
            link.Fire(index, i);
            Assert.True(await came.WaitAsync(Limit));
            Assert.Equal(i, Volatile.Read(ref last));
        }
        // A masked one waits, as on hardware.
        vectors[2].Mask();
        link.Fire(index, 2);
        link.Fire(index, 1);
        Assert.True(await came.WaitAsync(Limit));
        Assert.Equal(1, Volatile.Read(ref last));
        vectors[2].Unmask();
        Assert.True(await came.WaitAsync(Limit));
        Assert.Equal(2, Volatile.Read(ref last));
        Assert.Equal(2, vectors[2].Count);
        device.FreeVectors();
        Assert.Equal("0 ActionTrigger 1", link.Calls[^1]);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task Line_is_asked_about_again_after_each_access(bool isPeer)
    {
        var (link, _, device) = await PlugAsync(isPeer);
        device.Enable();
        var vector = device.AllocateVectors(1, 1, PciInterruptKinds.INTx)[0];
        using var quiet = new SemaphoreSlim(0);
        var region = device.GetRegion(0);
        var calls = 0;
        vector.SetHandler(() =>
        {
            // The first call only looks, so the line is up again; the second one quiets it.
            if (Interlocked.Increment(ref calls) == 1)
            {
                region.Read32(4);
                return;
            }
            region.Write32(8, 1);
            quiet.Release();
        });
        link.RaiseLine();
        Assert.True(await quiet.WaitAsync(Limit));
        Assert.False(link.IsLineUp);
        link.RaiseLine();
        Assert.True(await quiet.WaitAsync(Limit));
        Assert.True(calls >= 3);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task Memory_of_the_owner_is_mapped_for_the_device_and_taken_away_with_the_ownership(bool isPeer)
    {
        var (link, world, device) = await PlugAsync(isPeer);
        Assert.Empty(link.Maps);
        DmaBuffer? buffer = null;
        var driver = new Driver(world, d =>
        {
            Assert.True(d.IommuGroup.TryAllocate(8192, out buffer, out _));
            d.SetMaster(true);
        });
        await world.Fabric!.RegisterDriverAsync(driver);
        Assert.Equal([$"{buffer!.Address.Value:x}+2000 ReadWrite"], link.Maps);
        Assert.True(link.Write(buffer.Address.Value + 4096, 77));
        Assert.Equal(77, BitConverter.ToInt32(buffer.Span[4096..]));
        Assert.True(link.WriteByMessage(buffer.Address.Value + 4100, 78));
        Assert.Equal(78, BitConverter.ToInt32(buffer.Span[4100..]));
        // A peer maps the file; the host maps what is mapped here.
        Assert.Equal(isPeer ? 1 : 0, link.Files);
        var address = buffer.Address.Value;
        buffer.Dispose();
        Assert.Empty(link.Maps);
        Assert.False(link.Write(address, 1));
        Assert.True(device.IommuGroup.TryAllocate(4096, out buffer, out _));
        Assert.Single(link.Maps);
        await world.Fabric!.UnbindAsync(driver, device.Name);
        Assert.Empty(link.Maps);
        await world.UnplugAsync(device);
        Assert.False(link.IsBusMaster);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task Function_that_the_other_end_wants_back_is_lost(bool isPeer)
    {
        var (link, bus, device) = await PlugAsync(isPeer);
        link.Fire(4, 0);
        await GoneAsync(bus, device);
        Assert.Equal(uint.MaxValue, device.ReadConfig32(0));
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task Masked_vector_is_pending_until_it_is_unmasked(bool isPeer)
    {
        var (link, _, device) = await PlugAsync(isPeer);
        device.Enable();
        device.SetMaster(true);
        var vectors = device.AllocateVectors(4, 4, PciInterruptKinds.MsiX);
        using var came = new SemaphoreSlim(0);
        var onPollThread = false;
        foreach (var vector in Enumerable.Range(0, 4).Select(i => vectors[i]))
        {
            vector.SetHandler(() =>
            {
                // Who may have to wait for a peer has a thread of its own.
                onPollThread = PollThread.IsSharedCurrent;
                came.Release();
            });
        }

        vectors[3].Mask();
        link.Fire(2, 3);
        link.Fire(2, 0);
        Assert.True(await came.WaitAsync(Limit));
        Assert.Equal(!isPeer, onPollThread);
        var region = device.GetRegion(0);
        await UntilAsync(() => region.Read32(0x3000) == 8, "the pending bit");
        Assert.Equal(0, vectors[3].Count);
        vectors[3].Unmask();
        Assert.True(await came.WaitAsync(Limit));
        Assert.Equal(1, vectors[3].Count);
        Assert.Equal(0u, region.Read32(0x3000));
        // The table is not the device's: nothing of it was written there.
        var bytes = new byte[16];
        link.Read(0, 0x2030, bytes);
        Assert.All(bytes[..12], b => Assert.Equal(0, b));
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task Handler_of_a_vector_that_config_space_unmasks_holds_nobody_up(bool isPeer)
    {
        var (link, _, device) = await PlugAsync(isPeer);
        device.Enable();
        device.SetMaster(true);
        var vectors = device.AllocateVectors(1, 1, PciInterruptKinds.MsiX);
        var control = device.FindCapability(PciCapabilityId.PCI_CAP_ID_MSIX) + PciMsix.PCI_MSIX_FLAGS;
        var seen = 0;
        vectors[0].SetHandler(() =>
        {
            var look = Task.Run(() => device.ReadConfig16(control));
            seen = look.Wait(Limit) ? look.Result : -1;
        });
        var flags = device.ReadConfig16(control);
        device.WriteConfig(control, BitConverter.GetBytes((ushort)(flags | PciMsix.PCI_MSIX_FLAGS_MASKALL)));
        link.Fire(2, 0);
        var region = device.GetRegion(0);
        await UntilAsync(() => region.Read32(0x3000) == 1, "the pending bit");
        device.WriteConfig(control, BitConverter.GetBytes(flags));
        Assert.Equal(flags, seen);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task Access_over_the_edge_of_the_table_reaches_both_sides(bool isPeer)
    {
        var (link, _, device) = await PlugAsync(isPeer);
        device.Enable();
        var region = device.GetRegion(0);
        // Registers, then the first entry.
        Assert.True(region.Write(0x1FFC, [1, 2, 3, 4, 0x50, 0, 0xE0, 0xFE]));
        Assert.Equal(0xFEE00050u, region.Read32(0x2000));
        var bytes = new byte[8];
        Assert.True(region.Read(0x1FFC, bytes));
        Assert.Equal([0, 0, 0, 0, 0x50, 0, 0xE0, 0xFE], bytes);
        link.Read(0, 0x2000, bytes);
        Assert.All(bytes, b => Assert.Equal(0, b));
        // The mask of the last entry, then registers.
        Assert.True(region.Read(0x207C, bytes));
        Assert.Equal([1, 0, 0, 0, 0, 0, 0, 0], bytes);
        // An access over the whole of it.
        var all = new byte[0x100];
        Assert.True(region.Read(0x1FC0, all));
        Assert.Equal((0x50, 1, 0), (all[0x40], all[0xBC], all[0xC0]));
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task Line_that_rises_while_others_access_the_device_goes_down_again(bool isPeer)
    {
        var (link, _, device) = await PlugAsync(isPeer);
        device.Enable();
        var vector = device.AllocateVectors(1, 1, PciInterruptKinds.INTx)[0];
        var region = device.GetRegion(0);
        using var quiet = new SemaphoreSlim(0);
        vector.SetHandler(() =>
        {
            // Somebody else looks while the line rises: it is lowered for that when it is up, and not lost.
            Task.Run(() => region.Read32(4)).Ends("an access beside the handler");
            if (!link.IsLineUp)
                return;
            region.Write32(8, 1);
            quiet.Release();
        });
        for (var round = 0; round < 20; round++)
        {
            link.RaiseLine();
            Assert.True(await quiet.WaitAsync(Limit), $"round {round}");
        }

        Assert.Contains("0 ActionUnmask 1", link.Calls);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task Memory_that_comes_and_goes_is_mapped_as_it_is_now(bool isPeer)
    {
        var (link, bus, device) = await PlugAsync(isPeer);
        await bus.Fabric!.RegisterDriverAsync(new Driver(bus, static d => d.SetMaster(true)));
        Assert.True(device.IommuGroup.TryAllocate(4096, out var first, out _));
        var address = first!.Address;
        first.Dispose();
        Assert.Empty(link.Maps);
        Assert.False(link.Write(address.Value, 1));
        Assert.True(device.IommuGroup.TryAllocate(4096, out var second, out _));
        Assert.True(device.IommuGroup.TryAllocate(4096, out var third, out _));
        Assert.Equal(2, link.Maps.Length);
        Assert.True(link.Write(second!.Address.Value, 2));
        Assert.True(link.Write(third!.Address.Value, 3));
        Assert.Equal((2, 3), (BitConverter.ToInt32(second.Span), BitConverter.ToInt32(third.Span)));
        second.Dispose();
        Assert.False(link.WriteByMessage(second.Address.Value, 4));
        Assert.Single(link.Maps);
    }

    [Fact]
    public async Task Memory_is_cut_into_what_the_link_takes_at_once()
    {
        var (link, bus, device) = await PlugAsync(new FakeLink { LargestMap = 0x2000 });
        await bus.Fabric!.RegisterDriverAsync(new Driver(bus, static d => d.SetMaster(true)));
        Assert.True(device.IommuGroup.TryAllocate(0x5000, out var buffer, out _));
        Assert.Equal(["+2000", "+2000", "+1000"], link.Maps.Select(m => m[m.IndexOf('+')..m.IndexOf(' ')]));
        Assert.True(link.Write(buffer!.Address.Value + 0x4800, 5));
        Assert.Equal(5, BitConverter.ToInt32(buffer.Span[0x4800..]));
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task Link_that_dies_is_a_function_that_is_pulled_out(bool isPeer)
    {
        var (link, bus, device) = await PlugAsync(isPeer);
        device.Enable();
        var region = device.GetRegion(0);
        device.AllocateVectors(1, 1, PciInterruptKinds.MsiX);
        link.Die();
        await GoneAsync(bus, device);
        Assert.Equal(uint.MaxValue, device.ReadConfig32(0));
        Assert.Equal(uint.MaxValue, region.Read32(4));
        region.Write32(4, 1);
        var calls = link.Calls.Count;
        link.Fire(2, 0);
        Assert.Equal(calls, link.Calls.Count);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task Link_that_answers_late_keeps_nobody_but_who_asked(bool isPeer)
    {
        var (link, _, device) = await PlugAsync(isPeer);
        device.Enable();
        device.SetMaster(true);
        var vectors = device.AllocateVectors(1, 1, PciInterruptKinds.MsiX);
        using var came = new SemaphoreSlim(0);
        vectors[0].SetHandler(() => came.Release());
        var region = device.GetRegion(0);
        region.Write32(4, 0x77);
        link.AnswerLate();
        var read = Task.Run(() => region.Read32(4));
        await UntilAsync(() => link.Waiting == 1, "the read");
        // Interrupts and what is kept here need no answer.
        link.Fire(2, 0);
        Assert.True(await came.WaitAsync(Limit));
        var table = new byte[4];
        await Task.Run(() => region.Read(0x2000, table)).EndsAsync("a look at the table");
        Assert.NotEqual(0u, BitConverter.ToUInt32(table));
        Assert.False(read.IsCompleted);
        link.Answer();
        await read.EndsAsync("the read");
        Assert.Equal(0x77u, await read);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task Function_that_is_disposed_lets_go_of_who_waits_for_an_answer(bool isPeer)
    {
        var link = new FakeLink(isPeer);
        var function = new RemoteFunction(link, NullLogger.Instance);
        link.AnswerLate();
        var bytes = new byte[4];
        var read = Task.Run(() => function.ReadBar(0, 4, bytes));
        await UntilAsync(() => link.Waiting == 1, "the read");
        await Task.Run(function.Dispose).EndsAsync("the function's end");
        await read.EndsAsync("the read");
        Assert.All(bytes, b => Assert.Equal(0xFF, b));
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void Areas_leave_the_pages_of_the_tables_out(bool isPeer)
    {
        using var file = MemoryFile.Create("virtbus-test", 0x4000);
        using var link = new FakeLink(isPeer) { Area = new VfioRegionArea(0, 0x4000, file, 0x10000) };
        using var function = new RemoteFunction(link, NullLogger.Instance);
        var area = Assert.Single(function.GetBarAreas(0));
        Assert.Equal((0UL, 0x2000UL, 0x10000UL, isPeer), (area.Offset, area.Size, area.FileOffset, area.IsPeerMemory));
        Assert.Empty(function.GetBarAreas(1));
    }

    [Fact]
    public void Every_word_of_the_capabilities_reads_as_written_and_the_rest_is_the_devices()
    {
        using var link = new FakeLink();
        using var function = new RemoteFunction(link, NullLogger.Instance);
        var real = new byte[function.ConfigSize];
        link.Read(7, 0, real);
        var shown = new byte[function.ConfigSize];
        function.ReadConfig(0, shown);
        // Nothing is enabled, so nothing differs.
        Assert.Equal(real, shown);
        var msi = Find(real, 5);
        function.WriteConfig(msi + 4, [0x70, 0x01, 0xE0, 0xFE, 0, 0, 0, 0, 0x21, 0x43]);
        function.WriteConfig(msi + 2, [0x21]);
        function.ReadConfig(msi, shown.AsSpan(0, 14));
        Assert.Equal([0x70, 0x01, 0xE0, 0xFE, 0, 0, 0, 0, 0x21, 0x43], shown[4..14]);
        Assert.Equal(0x21, shown[2] & 0x71);
        // The device's own registers were not touched, and one write over their border reaches both.
        link.Read(7, (ulong)msi, shown.AsSpan(0, 14));
        Assert.All(shown[4..14], b => Assert.Equal(0, b));
        function.WriteConfig(msi - 1, [0xFF]);
        function.WriteConfig(0x3C, [0x0B]);
        function.ReadConfig(0x3C, shown.AsSpan(0, 1));
        Assert.Equal(0x0B, shown[0]);

        static int Find(byte[] config, byte id)
        {
            var at = (int)config[0x34];
            while (config[at] != id)
                at = config[at + 1];
            return at;
        }
    }

    [Fact]
    public async Task Write_of_a_doorbell_is_a_signal_in_place_of_a_message_until_the_function_ends()
    {
        using EventFd any = new(), seven = new(), nine = new();
        var link = new FakeLink(isPeer: true)
        {
            Doorbells = [(new VfioDoorbell(0x10, 4, null), any), (new VfioDoorbell(0x14, 4, 7), seven), (new VfioDoorbell(0x14, 4, 9), nine)],
        };
        var (_, bus, device) = await PlugAsync(link);
        device.Enable();
        var region = device.GetRegion(0);
        Ring(0x10, 5, any);
        Ring(0x10, uint.MaxValue, any);
        Ring(0x14, 7, seven);
        Ring(0x14, 9, nine);
        // Another value, another length, another register: written.
        Ring(0x14, 8, null);
        Ring(0x18, 7, null);
        region.Write(0x10, [1, 2]);
        Assert.Equal(0x0201u, Written(0x10));
        var function = device.Function;
        await bus.UnplugAsync(device);
        function.Dispose();
        function.WriteBar(0, 0x10, [1, 0, 0, 0]);
        Assert.Equal("", Signalled());

        void Ring(ulong offset, uint value, EventFd? expected)
        {
            var before = Written(offset);
            region.Write32(offset, value);
            Assert.Equal(expected == any ? "any " : expected == seven ? "seven " : expected == nine ? "nine " : "", Signalled());
            Assert.Equal(expected is null ? value : before, Written(offset));
        }

        uint Written(ulong offset)
        {
            var bytes = new byte[4];
            link.Read(0, offset, bytes);
            return BitConverter.ToUInt32(bytes);
        }

        string Signalled() => (any.TryRead(out _) ? "any " : "") + (seven.TryRead(out _) ? "seven " : "") + (nine.TryRead(out _) ? "nine " : "");
    }

    [Fact]
    public void Doorbells_that_are_closed_are_written_and_not_signalled()
    {
        using var signal = new EventFd();
        var doorbells = new RemoteDoorbells();
        doorbells.Add(0, new VfioDoorbell(0, 4, null), signal);
        doorbells.Add(2, new VfioDoorbell(8, 2, 7), signal);
        Assert.Equal([new PciDoorbell(0, 0, 4, null), new PciDoorbell(2, 8, 2, 7)], doorbells.All);
        Assert.True(doorbells.TrySignal(0, 0, [1, 0, 0, 0]));
        Assert.False(doorbells.TrySignal(1, 0, [1, 0, 0, 0]));
        doorbells.Close();
        Assert.False(doorbells.TrySignal(0, 0, [1, 0, 0, 0]));
    }

    private static Task<(FakeLink Link, PciBus Bus, PciDevice Device)> PlugAsync(bool isPeer) => PlugAsync(new FakeLink(isPeer));

    private static async Task<(FakeLink Link, PciBus Bus, PciDevice Device)> PlugAsync(FakeLink link)
    {
        var fabric = new Fabric();
        var bus = fabric.RegisterBus(new PciBus());
        return (link, bus, await bus.PlugAsync(new RemoteFunction(link, NullLogger.Instance)));
    }

    private static Task GoneAsync(PciBus bus, PciDevice device) => UntilAsync(() => bus.Find(device.Address) is null, "the removal");

    private static async Task UntilAsync(Func<bool> condition, string what)
    {
        var deadline = Environment.TickCount64 + (long)Limit.TotalMilliseconds;
        while (!condition())
        {
            Assert.True(Environment.TickCount64 < deadline, what);
            await Task.Yield();
        }
    }

    private sealed class Driver(PciBus bus, Action<PciDevice> probe) : PciDriver(bus, "card", new PciDeviceId(0x1AF4, 0x10F5))
    {
        protected override ValueTask ProbeAsync(PciDevice device, PciDeviceId id, CancellationToken cancellationToken)
        {
            probe(device);
            return default;
        }
    }
}
