using Virtbus.Memory;
using Virtbus.Memory.Dma;

namespace Virtbus.Tests.Memory.Dma;

/// <summary>The table by itself: what is in it is found, what is not is not, and what went leaves nothing behind.</summary>
public class TranslationTableTests
{
    private static readonly PeerMemory Peer = new(0, 0);

    [Theory]
    [InlineData(1, 12, 6)]
    [InlineData(2, 20, 12)]
    [InlineData(3, 24, 22)]
    [InlineData(4, 40, 30)]
    [InlineData(5, 64, 62)]
    [InlineData(6, 64, 20)]
    public void Ranges_that_come_and_go_are_found_and_leave_no_entry(int seed, int addressBits, int sizeBits)
    {
        var random = new Random(seed);
        var live = new List<IoMapping>();
        var index = new MappingIndex();
        var table = TranslationTable.Create(index);
        var hint = 0;
        for (var round = 0; round < 40; round++)
        {
            // To many and back to none: at the end of a round every line is free again, whatever lay behind it.
            for (var step = 0; step < 400; step++)
            {
                if (live.Count == 0 || random.Next(400) > step)
                    Add();
                else
                    Remove(random.Next(live.Count));
                if (live.Count > 0)
                    Check(live[random.Next(live.Count)]);
            }

            while (live.Count > 0)
            {
                Remove(live.Count - 1);
                if (live.Count > 0)
                    Check(live[random.Next(live.Count)]);
            }
        }

        // A table made for none has room for few; all of that room is there again after so many.
        table = TranslationTable.Create(index);
        for (var round = 0; round < 2_000; round++)
        {
            Assert.False(table.IsFull);
            while (!table.IsFull)
                Add();
            while (live.Count > 0)
                Remove(random.Next(live.Count));
        }

        void Add()
        {
            var size = Math.Max(1, (ulong)random.NextInt64() & ((1UL << random.Next(1, sizeBits + 1)) - 1));
            var start = (ulong)random.NextInt64(long.MinValue, long.MaxValue) & (ulong.MaxValue >> (64 - addressBits));
            // Next to another one more often than not; or, in some, hardly ever.
            if (live.Count > 0 && random.Next(seed % 2 == 0 ? 12 : 3) > 0 == (seed % 2 != 0))
                start = live[random.Next(live.Count)].Last + 1;
            if (size - 1 > ulong.MaxValue - start || live.Exists(other => other.Start <= start + (size - 1) && other.Last >= start))
                return;
            if (table.IsFull)
                table = TranslationTable.Create(index);
            live.Add(IoMapping.ForRemote(new IovaRange(new Iova(start), size), Peer, DmaAccess.Read));
            table.Add(live[^1], index);
            index.Add(live[^1]);
        }

        void Remove(int at)
        {
            var gone = live[at];
            live.RemoveAt(at);
            index.Remove(gone);
            table.Remove(gone);
            table.Reclaim(gone);
            Assert.False(table.TryFind(gone.Start, ref hint, out _));
        }

        void Check(IoMapping mapping)
        {
            foreach (var address in (ulong[])[mapping.Start, mapping.Last, mapping.Start + ((ulong)random.NextInt64() % mapping.Range.Size), mapping.Start - 1, mapping.Last + 1])
            {
                var expected = live.Find(other => address - other.Start < other.Range.Size);
                Assert.Equal(expected is not null, table.TryFind(address, ref hint, out var found));
                if (expected is not null)
                    Assert.Equal((expected.Start, expected.Range.Size), (found.Start, found.Size));
            }
        }
    }
}
