using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;
using static Virtbus.Tests.Memory.Dma.DmaFixture;

namespace Virtbus.Tests.Memory.Dma;

public class DirtyLogTests
{
    private const ulong Large = 1 << 21;

    [Theory]
    [InlineData(0, 0, 4096, Errno.EINVAL)]
    [InlineData(2048, 0, 4096, Errno.EINVAL)]
    [InlineData(12288, 0, 12288, Errno.EINVAL)]
    [InlineData(4096, 1, 4096, Errno.EINVAL)]
    [InlineData(4096, 0, 4097, Errno.EINVAL)]
    [InlineData(4096, 0, 0, Errno.EINVAL)]
    [InlineData(8192, 4096, 8192, Errno.EINVAL)]
    [InlineData(4096, 0xfffffffffffff000, 0x2000, Errno.EOVERFLOW)]
    [InlineData(4096, 0x100000, 0x1000, Errno.EINVAL)]
    [InlineData(4096, 0xff000, 0x2000, Errno.EINVAL)]
    [InlineData(4096, 0xfffffffffffff000, 0x1000, Errno.None)]
    [InlineData(4096, 0x101000, 0x1000, Errno.None)]
    [InlineData(1UL << 63, 1UL << 63, 1UL << 63, Errno.None)]
    public void Ranges_are_checked(ulong pageSize, ulong start, ulong size, Errno expected)
    {
        IovaRange[] ranges = pageSize == 4096 ? [Range(0x100000, 0x1000), Range(start, size)] : [Range(start, size)];
        Assert.Equal(expected == Errno.None, DirtyLog.TryCreate(pageSize, ranges, out var log, out var fault));
        Assert.Equal(expected, fault.Errno);
        Assert.Equal(expected == Errno.None, log is not null);
    }

    [Fact]
    public void More_ranges_than_a_page_holds_are_refused()
    {
        var ranges = Enumerable.Range(0, 257).Select(i => Range((ulong)i * 8192, 4096)).ToArray();
        Assert.False(DirtyLog.TryCreate(4096, ranges, out _, out var fault));
        Assert.Equal(Errno.E2BIG, fault.Errno);
        Assert.True(DirtyLog.TryCreate(4096, ranges.AsSpan(1), out _, out _));
    }

    [Theory]
    [InlineData(0, 4096, 2048, 1, Errno.EINVAL)]
    [InlineData(0, 4096, 0, 1, Errno.EINVAL)]
    [InlineData(0, 8192, 12288, 1, Errno.EINVAL)]
    [InlineData(1, 4096, 4096, 1, Errno.EINVAL)]
    [InlineData(0, 0, 4096, 1, Errno.EINVAL)]
    [InlineData(0, 65 * 4096, 4096, 1, Errno.EINVAL)]
    [InlineData(0, 4096, 4096, 0, Errno.EINVAL)]
    [InlineData(0xfffffffffffff000, 8192, 4096, 1, Errno.EOVERFLOW)]
    [InlineData(0xfffffffffffff000, 4096, 4096, 1, Errno.None)]
    [InlineData(0, 64 * 4096, 4096, 1, Errno.None)]
    public void Question_is_checked(ulong start, ulong size, ulong pageSize, int words, Errno expected)
    {
        Assert.True(DirtyLog.TryCreate(4096, [], out var log, out _));
        Assert.Equal(expected == Errno.None, log!.TryReadAndClear(Range(start, size), pageSize, new ulong[words], out var fault));
        Assert.Equal(expected, fault.Errno);
    }

    [Fact]
    public void Reading_clears_what_was_read_and_sets_only()
    {
        Assert.True(DirtyLog.TryCreate(4096, [], out var log, out _));
        log!.Mark(new Iova(0x1fff), 2);
        log.Mark(new Iova(0x5000), 1);
        var bits = new ulong[] { 0x8000 };
        Assert.True(log.TryReadAndClear(Range(0, 4 * Page), Page, bits, out _));
        Assert.Equal(0x8006ul, bits[0]);
        bits[0] = 0;
        Assert.True(log.TryReadAndClear(Range(0, 16 * Page), Page, bits, out _));
        Assert.Equal(0x20ul, bits[0]);
    }

    [Fact]
    public void Ends_of_the_address_space_are_logged()
    {
        Assert.True(DirtyLog.TryCreate(4096, [], out var log, out _));
        log!.Mark(new Iova(ulong.MaxValue), 1);
        log.Mark(new Iova(0), 0);
        var bits = new ulong[1];
        Assert.True(log.TryReadAndClear(Range(0xffffffffffffe000, 0x2000), Page, bits, out _));
        Assert.Equal(2ul, bits[0]);
        log.Mark(new Iova(0xffffffffffffefff), ulong.MaxValue);
        bits[0] = 0;
        Assert.True(log.TryReadAndClear(Range(0xffffffffffffe000, 0x2000), Page, bits, out _));
        Assert.Equal(3ul, bits[0]);
    }

    [Fact]
    public void Large_page_of_the_log_stays_marked_while_only_a_part_of_it_is_asked_for()
    {
        Assert.True(DirtyLog.TryCreate(Large, [], out var log, out _));
        log!.Mark(new Iova(Large + 5), 1);
        var bits = new ulong[8];
        Assert.True(log.TryReadAndClear(Range(Large + Page, 2 * Page), Page, bits, out _));
        Assert.Equal(3ul, bits[0]);
        Assert.True(log.TryReadAndClear(Range(Large, Large), Page, bits, out _));
        Assert.All(bits, word => Assert.Equal(ulong.MaxValue, word));
        Array.Clear(bits);
        Assert.True(log.TryReadAndClear(Range(Large, Large), Page, bits, out _));
        Assert.All(bits, word => Assert.Equal(0ul, word));
    }

    [Theory]
    [InlineData(1, 4096, 4096, false)]
    [InlineData(2, 4096, 4096, true)]
    [InlineData(3, 4096, 1 << 21, false)]
    [InlineData(4, 1 << 21, 4096, false)]
    [InlineData(5, 16384, 65536, true)]
    [InlineData(6, 65536, 16384, true)]
    public void Log_says_what_a_set_of_pages_says(int seed, ulong logPage, ulong askPage, bool ranges)
    {
        const ulong Area = 1UL << 26;
        const ulong Base = 0x7f00000000000000;
        var random = new Random(seed);
        IovaRange[] logged = ranges ? [Range(Base + 0x100000, 0x400000), Range(Base, 0x40000), Range(Base + 0x3000000, 0x1000000)] : [];
        Assert.True(DirtyLog.TryCreate(logPage, logged, out var log, out _));
        var model = new HashSet<ulong>();
        for (var step = 0; step < 400; step++)
        {
            for (var i = random.Next(30); i > 0; i--)
            {
                var address = Base + (ulong)random.NextInt64((long)Area);
                var length = (ulong)random.NextInt64(1L << random.Next(1, 24));
                log!.Mark(new Iova(address), length);
                if (length == 0)
                    continue;
                for (var page = address / logPage; page <= (address + length - 1) / logPage; page++)
                {
                    // Only bytes that were written inside a range mark a page of the log.
                    if (!ranges || logged.Any(range => Math.Max(page * logPage, address) <= range.Last && Math.Min((page * logPage) + logPage - 1, address + length - 1) >= range.Start.Value))
                        model.Add(page);
                }
            }

            var unit = askPage;
            var start = Base + ((ulong)random.NextInt64((long)(Area / unit)) * unit);
            var size = (1 + (ulong)random.NextInt64(Math.Min(200, (long)((Base + Area - start) / unit)))) * unit;
            var bits = new ulong[((size / unit) + 63) / 64];
            Assert.True(log!.TryReadAndClear(Range(start, size), unit, bits, out _));
            for (var i = 0ul; i < size / unit; i++)
            {
                var first = (start + (i * unit)) / logPage;
                var last = (start + (i * unit) + unit - 1) / logPage;
                var dirty = false;
                for (var page = first; page <= last; page++)
                    dirty |= model.Contains(page);
                Assert.Equal(dirty, (bits[i / 64] >> (int)(i % 64) & 1) != 0);
            }

            model.RemoveWhere(page => page * logPage >= start && (page * logPage) + logPage <= start + size);
        }
    }

    [Fact]
    public void Neighbours_marked_by_two_threads_at_once_are_both_marked()
    {
        const int Rounds = 6;
        const int Pages = 1 << 20;
        Assert.True(DirtyLog.TryCreate(4096, [], out var log, out _));
        using var turn = new Barrier(2);
        var other = new Thread(() =>
        {
            for (var round = 0; round < Rounds; round++)
                Mark(1);
        })
        { IsBackground = true };
        other.Start();
        var bits = new ulong[Pages / 64];
        for (var round = 0; round < Rounds; round++)
        {
            Mark(0);
            Array.Clear(bits);
            Assert.True(log!.TryReadAndClear(Range(0, (ulong)Pages * Page), Page, bits, out _));
            Assert.False(bits.AsSpan().ContainsAnyExcept(ulong.MaxValue));
        }

        Assert.True(other.Join(Deadline.Milliseconds));

        void Mark(int first)
        {
            turn.SignalAndWait(Deadline.Milliseconds);
            for (var page = (ulong)first; page < Pages; page += 2)
                log!.Mark(new Iova(page * Page), 1);
            turn.SignalAndWait(Deadline.Milliseconds);
        }
    }

    [Fact]
    public void Copy_that_follows_the_log_misses_no_write()
    {
        const int Sessions = 300;
        Assert.True(DirtyLog.TryCreate(4096, [], out var log, out _));
        using var dma = new DmaFixture();
        Assert.Equal(Errno.None, dma.Map(0, MemorySize));
        Assert.True(dma.Port.TryStartLog(log!, out _));
        using var turn = new Barrier(2);
        var finished = 0;
        var writer = new Thread(() =>
        {
            var random = new Random(4);
            var data = new byte[MemorySize / 4];
            for (var session = 1; session <= Sessions && turn.SignalAndWait(Deadline.Milliseconds); session++)
            {
                for (var i = 0; i < 6; i++)
                {
                    // Long ones mostly, so that a copy meets them half done.
                    var length = random.Next(4) == 0 ? 4 : random.Next(1, data.Length + 1);
                    random.NextBytes(data.AsSpan(0, Math.Min(length, 64)));
                    data.AsSpan(0, length)[^1]++;
                    dma.Port.TryWrite(new Iova((ulong)random.Next((int)MemorySize - length + 1)), data.AsSpan(0, length));
                }

                Volatile.Write(ref finished, session);
            }
        })
        { IsBackground = true };
        writer.Start();
        // What a migration does: clear, then copy; a last time when nobody writes any more.
        var copy = new byte[MemorySize];
        for (var session = 1; session <= Sessions; session++)
        {
            Assert.True(turn.SignalAndWait(Deadline.Milliseconds));
            bool last;
            do
            {
                last = Volatile.Read(ref finished) == session;
                var bits = new ulong[1];
                Assert.True(log!.TryReadAndClear(Range(0, MemorySize), Page, bits, out _));
                for (var i = 0; i < 64; i++)
                {
                    if ((bits[0] >> i & 1) != 0)
                        dma.Memory.Read((ulong)i * Page, copy.AsSpan(i * (int)Page, (int)Page));
                }
            }
            while (!last);
            Assert.True(dma.Bytes(0, (int)MemorySize).AsSpan().SequenceEqual(copy), $"session {session} lost a write");
        }

        Assert.True(writer.Join(Deadline.Milliseconds));
        Assert.Equal(0, dma.Port.Faults);
    }
}
