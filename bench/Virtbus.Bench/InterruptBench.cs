using System.Buffers.Binary;
using System.Diagnostics;
using Virtbus.Buses.Pci;
using Virtbus.Core;
using Virtbus.Memory.Dma;
using Virtbus.Pci;
using Virtbus.Platform;
using static Virtbus.Bench.Statistics;

namespace Virtbus.Bench;

/// <summary>What it costs a device model to raise an MSI-X vector: the table alone, and through the bus to a user's eventfd.</summary>
internal static class InterruptBench
{
    private const int Raises = 50_000;
    private const int Vectors = 8;

    public static async Task<int> RunAsync(string[] args)
    {
        var rounds = args is ["--rounds", var text] ? int.Parse(text) : 11;
        Console.WriteLine($"{"raise of an MSI-X vector",-52} {"1 thread ns",12} {"2 threads ns",13} {"bytes",6}   (medians of {rounds} rounds)");
        var table = new MsixTable(Vectors, static (_, _) => { });
        table.SetControl(enabled: true, functionMasked: false);
        Mask(table, masked: false);
        Print("the table alone", rounds, table.Raise);
        Mask(table, masked: true);
        Print("the table alone, masked", rounds, table.Raise);

        var fabric = new Fabric();
        var bus = fabric.RegisterBus(new PciBus());
        await bus.AddHostBridgeAsync();
        var card = new Card();
        var device = await bus.PlugAsync(card);
        device.Enable();
        device.SetMaster(true);
        var vectors = device.AllocateVectors(Vectors, Vectors, PciInterruptKinds.MsiX);
        var counts = new Padded[Vectors];
        for (var i = 0; i < Vectors; i++)
        {
            var at = i;
            vectors[i].SetHandler(() => counts[at].Value++);
        }
        Print("to a driver's handler", rounds, card.Raise);

        for (var i = 0; i < Vectors; i++)
            vectors[i].SetSignal(new SignalLine());
        Print("to a line without an eventfd", rounds, card.Raise);
        var own = Enumerable.Range(0, Vectors).Select(static _ => new EventFd()).ToArray();
        for (var i = 0; i < Vectors; i++)
            vectors[i].SetSignal(Line(own[i]));
        Print("to an eventfd of ours", rounds, card.Raise);
        var foreign = own.Select(static e => Adopt(e)).ToArray();
        for (var i = 0; i < Vectors; i++)
            vectors[i].SetSignal(Line(foreign[i]));
        Print("to a peer's eventfd", rounds, card.Raise);
        foreach (var vector in vectors)
            vector.Mask();
        Print("masked by the driver", rounds, card.Raise);
        Print("the signal alone: write", rounds, v => Signal(own[v]));
        Print("the signal alone: by the kernel", rounds, v => Signal(foreign[v]));
        device.FreeVectors();
        return 0;
    }

    private static bool Signal(EventFd eventFd)
    {
        eventFd.Signal();
        return true;
    }

    private static SignalLine Line(EventFd eventFd)
    {
        var line = new SignalLine();
        line.Set(eventFd);
        return line;
    }

    private static EventFd Adopt(EventFd eventFd)
    {
        if (!EventFd.TryAdopt(eventFd.Descriptor.Duplicate(), out var adopted, out var fault))
            throw new InvalidOperationException(fault.Message);
        return adopted!;
    }

    private static void Mask(MsixTable table, bool masked)
    {
        Span<byte> entry = stackalloc byte[16];
        for (var i = 0; i < table.Vectors; i++)
        {
            BinaryPrimitives.WriteUInt64LittleEndian(entry, 0xFEE00000);
            BinaryPrimitives.WriteUInt32LittleEndian(entry[8..], (uint)i);
            BinaryPrimitives.WriteUInt32LittleEndian(entry[12..], masked ? 1u : 0);
            table.Write((ulong)i * 16, entry);
        }
    }

    private static void Print(string name, int rounds, Func<int, bool> raise)
    {
        var (one, two) = (new List<double>(), new List<double>());
        var bytes = 0.0;
        for (var round = -2; round < rounds; round++)
        {
            var before = GC.GetAllocatedBytesForCurrentThread();
            var time = Measure(raise, 0);
            bytes = (double)(GC.GetAllocatedBytesForCurrentThread() - before) / Raises;
            var other = 0.0;
            using var begin = new Barrier(2);
            var thread = new Thread(() =>
            {
                begin.SignalAndWait();
                other = Measure(raise, 1);
            });
            thread.Start();
            begin.SignalAndWait();
            var both = Measure(raise, 0);
            thread.Join();
            if (round < 0)
                continue;
            one.Add(time);
            two.Add((both + other) / 2);
        }
        Console.WriteLine($"{name,-52} {Median(one),12:F1} {Median(two),13:F1} {bytes,6:F1}");
    }

    private static double Measure(Func<int, bool> raise, int vector)
    {
        var start = Stopwatch.GetTimestamp();
        for (var i = 0; i < Raises; i++)
            raise(vector);
        return Stopwatch.GetElapsedTime(start).TotalNanoseconds / Raises;
    }

    private struct Padded
    {
        public long Value;
#pragma warning disable CS0169, S1144, IDE0051 // Room, so that two threads' counts share no cache line.
        private readonly long _a, _b, _c, _d, _e, _f, _g, _h, _i, _j, _k, _l, _m, _n, _o;
#pragma warning restore CS0169, S1144, IDE0051
    }

    private sealed class Card() : PciFunction(
        ConfigSpaceBuilder.Function(0x5642, 0xBE0C).Class(0xFF0000, 1).MemoryBar64(0, 0x4000).Msix(Vectors, 0, 0x2000, 0, 0x3000).Build())
    {
        public bool Raise(int vector) => RaiseMsix(vector);

        protected override void ReadRegister(int bar, ulong offset, Span<byte> destination) => destination.Clear();

        protected override void WriteRegister(int bar, ulong offset, ReadOnlySpan<byte> source)
        {
        }

        protected override void OnReset(PciResetKind kind)
        {
        }
    }
}
