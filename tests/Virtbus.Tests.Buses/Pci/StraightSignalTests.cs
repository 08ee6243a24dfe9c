using Virtbus.Buses.Pci;
using Virtbus.Pci;
using Virtbus.Platform;

namespace Virtbus.Tests.Buses.Pci;

/// <summary>From a function's raise to a user's eventfd, while the vector is masked, exchanged, freed, and the function pulled out.</summary>
public sealed class StraightSignalTests
{
    [Theory]
    [InlineData(PciInterruptKinds.MsiX, true)]
    [InlineData(PciInterruptKinds.Msi, true)]
    [InlineData(PciInterruptKinds.Msi, false)]
    public async Task Raises_reach_the_eventfd_and_are_counted(PciInterruptKinds kind, bool masksAtTheFunction)
    {
        var world = await PciWorld.NewAsync();
        var (card, device) = await world.PlugAsync(new CardOptions { HasMsiMasks = masksAtTheFunction });
        var vectors = Allocate(device, 2, kind);
        using var signal = new EventFd();
        vectors[1].SetSignal(Line(signal));
        for (var i = 0; i < 5; i++)
            card.Raise(1);
        Assert.Equal((5ul, 5), (Count(signal), vectors[1].Count));
        vectors[1].Mask();
        card.Raise(1);
        card.Raise(1);
        Assert.Equal(0ul, Count(signal));
        vectors[1].Unmask();
        Assert.Equal(1ul, Count(signal));
        // Without a bus master there is no message.
        device.SetMaster(false);
        card.Raise(1);
        Assert.Equal(0ul, Count(signal));
        device.SetMaster(true);
        card.Raise(1);
        Assert.Equal(1ul, Count(signal));
        device.FreeVectors();
        card.Raise(1);
        Assert.Equal(0ul, Count(signal));
        // The same message leads to another vector now.
        vectors = Allocate(device, 2, kind);
        vectors[1].SetSignal(Line(signal));
        card.Raise(1);
        card.Raise(1);
        Assert.Equal((2ul, 2), (Count(signal), vectors[1].Count));
        card.Pull();
        card.Raise(1);
        Assert.Equal(0ul, Count(signal));
    }

    [Fact]
    public async Task Straight_raise_allocates_nothing_and_the_line_needs_a_handler()
    {
        var world = await PciWorld.NewAsync();
        var (card, device) = await world.PlugAsync();
        using var signal = new EventFd();
        var vectors = Allocate(device, 1, PciInterruptKinds.MsiX);
        vectors[0].SetSignal(Line(signal));
        for (var round = 0; round < 2; round++)
        {
            var before = GC.GetAllocatedBytesForCurrentThread();
            for (var i = 0; i < 100; i++)
                card.Raise(0);
            if (round == 1)
                Assert.Equal(before, GC.GetAllocatedBytesForCurrentThread());
        }
        device.FreeVectors();
        Assert.Throws<InvalidOperationException>(() => Allocate(device, 1, PciInterruptKinds.INTx)[0].SetSignal(Line(signal)));
    }

    [Fact]
    public async Task Nobody_signals_the_old_eventfd_when_the_call_that_takes_it_away_has_returned()
    {
        var world = await PciWorld.NewAsync();
        var (card, device) = await world.PlugAsync();
        var vectors = Allocate(device, 1, PciInterruptKinds.MsiX);
        using var first = new EventFd();
        using var second = new EventFd();
        var line = Line(first);
        vectors[0].SetSignal(line);
        var isEnding = false;
        var raises = 0L;
        var raisers = Enumerable.Range(0, 2).Select(_ => new Thread(() =>
        {
            while (!Volatile.Read(ref isEnding))
            {
                card.Raise(0);
                Interlocked.Increment(ref raises);
            }
        })
        { IsBackground = true }).ToList();
        raisers.ForEach(t => t.Start());
        var signals = 0ul;
        for (var i = 0; i < 200; i++)
        {
            var seen = Interlocked.Read(ref raises);
            SpinWait.SpinUntil(() => Interlocked.Read(ref raises) > seen + 3);
            switch (i % 3)
            {
                case 0:
                    line.Set(second);
                    break;
                case 1:
                    vectors[0].Mask();
                    break;
                default:
                    vectors[0].SetHandler(null);
                    break;
            }
            signals += Count(first);
            Thread.Yield();
            Assert.Equal(0ul, Count(first));
            line.Set(first);
            vectors[0].SetSignal(line);
            vectors[0].Unmask();
            signals += Count(second);
        }
        Volatile.Write(ref isEnding, true);
        raisers.ForEach(t => t.Join());
        signals += Count(first);
        Assert.True(signals > 0 && signals <= (ulong)raises, $"{signals} signals for {raises} raises");
        // The last word is the raise's: it is not lost.
        card.Raise(0);
        Assert.Equal(1ul, Count(first));
    }

    private static IReadOnlyList<PciVector> Allocate(PciDevice device, int count, PciInterruptKinds kind)
    {
        device.Enable();
        device.SetMaster(true);
        return device.AllocateVectors(count, count, kind);
    }

    private static SignalLine Line(EventFd eventFd)
    {
        var line = new SignalLine();
        line.Set(eventFd);
        return line;
    }

    private static ulong Count(EventFd eventFd) => eventFd.TryRead(out var count) ? count : 0;
}
