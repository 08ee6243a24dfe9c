using System.Buffers.Binary;
using Virtbus.Pci;

namespace Virtbus.Tests.Pci.Functions;

/// <summary>
/// Threads that raise race with threads that mask, unmask and write messages anew. Each raise waits for its delivery before the next one of
/// its vector, so every one is counted: none is lost, and none comes twice. Half of the messages lead to a target that is signalled straight.
/// </summary>
public sealed class MessageRaceTests
{
    private const int Raisers = 3;
    private const int Rounds = 1500;

    [Theory]
    [InlineData(1, false)]
    [InlineData(2, false)]
    [InlineData(3, true)]
    [InlineData(4, true)]
    public void Msix_delivers_each_raise_once(int seed, bool straight)
    {
        var wire = new Wire(Raisers, straight);
        var table = new MsixTable(Raisers, wire.Send, wire.Find);
        table.Link(true);
        for (var v = 0; v < Raisers; v++)
            WriteEntry(table, v, (uint)v, masked: false);
        table.SetControl(enabled: true, functionMasked: false);
        wire.Race(seed, table.Raise, random =>
        {
            switch (random.Next(6))
            {
                case 0:
                    table.SetControl(enabled: true, functionMasked: true);
                    table.SetControl(enabled: true, functionMasked: false);
                    break;
                case 1:
                    table.Link(false);
                    table.Link(true);
                    break;
                case 2:
                    // Another message for the same vector, written while masked, as the standard wants it.
                    var at = random.Next(Raisers);
                    WriteEntry(table, at, (uint)at | (uint)(random.Next(4) << 8), masked: true);
                    WriteMask(table, at, masked: false);
                    break;
                default:
                    var vector = random.Next(Raisers);
                    WriteMask(table, vector, masked: true);
                    WriteMask(table, vector, masked: false);
                    break;
            }
        });
        for (var v = 0; v < Raisers; v++)
            Assert.False(table.IsPending(v));
    }

    [Theory]
    [InlineData(1, false)]
    [InlineData(2, true)]
    public void Msi_delivers_each_raise_once(int seed, bool straight)
    {
        var wire = new Wire(Raisers, straight);
        var shown = 0u;
        var msi = new MsiState(4, hasMasks: true, wire.Send, pending => shown = pending, wire.Find);
        const ushort control = PciMsi.PCI_MSI_FLAGS_ENABLE | (2 << PciMsi.PCI_MSI_FLAGS_QSIZE_SHIFT);
        msi.Link(true);
        msi.SetRegisters(control, 0xFEE00000, 0, 0);
        wire.Race(seed, msi.Raise, random =>
        {
            msi.SetRegisters(control, 0xFEE00000, (uint)(random.Next(4) << 8), (uint)random.Next(8));
            msi.SetRegisters(control, 0xFEE00000, 0, 0);
        });
        Assert.Equal((0u, 0u), (msi.Pending, shown));
    }

    [Fact]
    public void Raise_and_the_only_unmask_meet_and_the_message_comes_once()
    {
        const int meetings = 20_000;
        var count = 0;
        var table = new MsixTable(1, (_, _) => Interlocked.Increment(ref count));
        WriteEntry(table, 0, 0, masked: true);
        table.SetControl(enabled: true, functionMasked: false);
        var turn = 0;
        var done = 0;
        var raiser = new Thread(() =>
        {
            for (var i = 1; i <= meetings; i++)
            {
                while (Volatile.Read(ref turn) != i)
                    Thread.SpinWait(1);
                table.Raise(0);
                Volatile.Write(ref done, i);
            }
        })
        { IsBackground = true };
        raiser.Start();
        for (var i = 1; i <= meetings; i++)
        {
            WriteMask(table, 0, masked: true);
            Volatile.Write(ref turn, i);
            // Now and then a little later, so that each step of one meets each step of the other.
            Thread.SpinWait(i % 40);
            WriteMask(table, 0, masked: false);
            while (Volatile.Read(ref done) != i)
                Thread.SpinWait(1);
            Assert.Equal(i, Volatile.Read(ref count));
        }
        raiser.Join();
    }

    [Fact]
    public void Nothing_goes_straight_when_a_write_that_masks_has_returned()
    {
        var wire = new Wire(1, straight: true);
        var table = new MsixTable(1, wire.Send, wire.Find);
        table.Link(true);
        WriteEntry(table, 0, 0, masked: false);
        table.SetControl(enabled: true, functionMasked: false);
        var isEnding = false;
        var raiser = new Thread(() =>
        {
            while (!Volatile.Read(ref isEnding))
                table.Raise(0);
        })
        { IsBackground = true };
        raiser.Start();
        for (var i = 0; i < 300; i++)
        {
            var before = wire.Straight;
            WriteMask(table, 0, masked: false);
            Deadline.Until(() => wire.Straight > before, "a signal");
            if (i % 2 == 0)
                WriteMask(table, 0, masked: true);
            else
                table.Link(false);
            var after = wire.Straight;
            Thread.Yield();
            Assert.Equal(after, wire.Straight);
            WriteMask(table, 0, masked: true);
            table.Link(true);
        }
        Volatile.Write(ref isEnding, true);
        raiser.Join();
    }

    private static void WriteMask(MsixTable table, int vector, bool masked)
    {
        Span<byte> word = stackalloc byte[4];
        BinaryPrimitives.WriteUInt32LittleEndian(word, masked ? 1u : 0);
        table.Write(((ulong)vector * 16) + 12, word);
    }

    private static void WriteEntry(MsixTable table, int vector, uint data, bool masked)
    {
        WriteMask(table, vector, masked: true);
        Span<byte> entry = stackalloc byte[12];
        BinaryPrimitives.WriteUInt64LittleEndian(entry, 0xFEE00000);
        BinaryPrimitives.WriteUInt32LittleEndian(entry[8..], data);
        table.Write((ulong)vector * 16, entry);
        if (!masked)
            WriteMask(table, vector, masked: false);
    }

    /// <summary>Where messages arrive, counted by the vector in the low bits of their data.</summary>
    private sealed class Wire
    {
        private readonly int[] _arrived;
        private readonly Target[] _targets;
        private readonly bool _isStraight;

        public Wire(int vectors, bool straight)
        {
            _isStraight = straight;
            _arrived = new int[vectors];
            _targets = [.. Enumerable.Range(0, vectors).Select(v => new Target(this, v))];
        }

        public int Straight => _targets.Sum(t => Volatile.Read(ref t.Count));

        public void Send(ulong address, uint data) => Interlocked.Increment(ref _arrived[data & 0xFF]);

        public IPciMessageTarget? Find(ulong address, uint data) => _isStraight ? _targets[data & 0xFF] : null;

        public void Race(int seed, Func<int, bool> raise, Action<Random> disturb)
        {
            var isEnding = false;
            var disturber = new Thread(() =>
            {
                var random = new Random(seed);
                while (!Volatile.Read(ref isEnding))
                    disturb(random);
            });
            var raisers = Enumerable.Range(0, _arrived.Length).Select(v => new Thread(() =>
            {
                for (var i = 1; i <= Rounds; i++)
                {
                    raise(v);
                    Deadline.Until(() => Volatile.Read(ref _arrived[v]) >= i, "the message of a raise");
                }
            })).ToList();
            disturber.Start();
            raisers.ForEach(t => t.Start());
            raisers.ForEach(t => t.Join());
            Volatile.Write(ref isEnding, true);
            disturber.Join();
            Assert.All(_arrived, count => Assert.Equal(Rounds, count));
            Assert.Equal(_isStraight, Straight > 0);
        }

        /// <summary>Sometimes it has a reason not to be signalled straight; then the message goes the long way.</summary>
        private sealed class Target(Wire wire, int vector) : IPciMessageTarget
        {
            public int Count;
            private int _inside;
            private int _calls;

            public bool IsRevoked => _calls % 16 == 7;

            public bool TrySignal(PciMessageRoute route)
            {
                Interlocked.Increment(ref _inside);
                try
                {
                    if (!route.IsDirect || Interlocked.Increment(ref _calls) % 8 == 7)
                        return false;
                    Interlocked.Increment(ref Count);
                    Interlocked.Increment(ref wire._arrived[vector]);
                    return true;
                }
                finally
                {
                    Interlocked.Decrement(ref _inside);
                }
            }

            public void Drain()
            {
                Interlocked.MemoryBarrier();
                while (Volatile.Read(ref _inside) != 0)
                    Thread.SpinWait(1);
            }
        }
    }
}
