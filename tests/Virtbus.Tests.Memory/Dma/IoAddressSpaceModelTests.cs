using Virtbus.Memory;
using Virtbus.Platform;
using static Virtbus.Tests.Memory.Dma.DmaFixture;

namespace Virtbus.Tests.Memory.Dma;

/// <summary>Random calls on a space and on a plain list; both have to say the same.</summary>
public class IoAddressSpaceModelTests
{
    [Theory]
    [InlineData(1, 4096, 12, 6)]
    [InlineData(2, 4096, 30, 9)]
    [InlineData(3, 4096, 52, 40)]
    [InlineData(4, 1, 12, 8)]
    [InlineData(5, 1, 17, 13)]
    [InlineData(6, 1, 64, 18)]
    [InlineData(7, 64, 20, 12)]
    public void Space_does_what_a_list_of_ranges_does(int seed, ulong granule, int addressBits, int sizeBits)
    {
        var random = new Random(seed);
        using var dma = new DmaFixture(new IoAddressSpaceOptions { Granule = granule, MaxMaps = 500 });
        var content = new byte[MemorySize];
        random.NextBytes(content);
        dma.Memory.Write(0, content);
        var model = new List<(ulong Start, ulong Size, ulong Offset, DmaAccess Access)>();
        var mask = addressBits == 64 ? ulong.MaxValue : ((granule << addressBits) - 1);
        for (var step = 0; step < 6_000; step++)
        {
            // Phases that fill and phases that empty, so that tables grow and shrink.
            var map = random.Next(100) < (step / 1000 % 2 == 0 ? 80 : 35);
            var start = Address();
            var size = Math.Max(granule, ((ulong)random.NextInt64() & ((1UL << random.Next(1, sizeBits + 1)) - 1)) * granule);
            var last = start + (size - 1);
            var wraps = size - 1 > ulong.MaxValue - start;
            var unaligned = ((start | size) & (granule - 1)) != 0;
            if (map)
            {
                var offset = size <= MemorySize ? (ulong)random.NextInt64((long)(MemorySize - size) + 1) : 0;
                var access = (DmaAccess)random.Next(1, 4);
                var expected = wraps || unaligned || size > MemorySize ? Errno.EINVAL
                    : model.Any(range => range.Start <= last && range.Start + (range.Size - 1) >= start) ? Errno.EEXIST
                    : model.Count == 500 ? Errno.ENOSPC : Errno.None;
                Assert.Equal(expected, dma.Map(start, size, offset, access));
                if (expected == Errno.None)
                    model.Add((start, size, offset, access));
            }
            else
            {
                var inside = model.Where(range => range.Start >= start && range.Start + (range.Size - 1) <= last).ToList();
                var expected = wraps || unaligned ? Errno.EINVAL
                    : model.Exists(range => range.Start <= last && range.Start + (range.Size - 1) >= start && !inside.Contains(range)) ? Errno.EINVAL
                    : Errno.None;
                Assert.Equal(expected, dma.Unmap(start, size, out var unmapped));
                Assert.Equal(expected == Errno.None ? inside.Aggregate(0ul, (sum, range) => sum + range.Size) : 0, unmapped);
                if (expected == Errno.None)
                    model.RemoveAll(inside.Contains);
            }

            Assert.Equal(model.Count, dma.Space.Count);
            Look(Address());
            if (model.Count > 0)
            {
                var any = model[random.Next(model.Count)];
                Look(any.Start);
                Look(any.Start - 1);
                Look(any.Start + any.Size - 1);
                Look(any.Start + any.Size);
            }
        }

        using var map1 = dma.Space.Snapshot();
        Assert.Equal(model.Select(range => (range.Start, range.Size, range.Access)).Order(), map1.Ranges.ToArray().Select(range => (range.Start.Value, range.Size, range.Access)));

        // Mostly near what is there; of any alignment now and then.
        ulong Address()
        {
            var address = (ulong)random.NextInt64(long.MinValue, long.MaxValue) & mask;
            if (model.Count > 0 && random.Next(2) == 0)
            {
                var near = model[random.Next(model.Count)];
                address = random.Next(3) switch { 0 => near.Start, 1 => near.Start + near.Size, _ => near.Start - granule };
            }

            return random.Next(20) == 0 ? address : address & ~(granule - 1);
        }

        void Look(ulong address)
        {
            var at = model.FindIndex(range => address - range.Start < range.Size);
            Span<byte> read = stackalloc byte[1];
            var expected = at < 0 ? Errno.EFAULT : model[at].Access.HasFlag(DmaAccess.Read) ? Errno.None : Errno.EACCES;
            var faults = dma.Port.Faults;
            Assert.Equal(expected == Errno.None, dma.Port.TryRead(new Iova(address), read));
            if (expected == Errno.None)
                Assert.Equal(content[model[at].Offset + (address - model[at].Start)], read[0]);
            else
                Assert.Equal((faults + 1, expected), (dma.Port.Faults, dma.Port.LastFault!.Value.Fault.Errno));
        }
    }

    [Fact]
    public void Tens_of_thousands_of_maps_come_and_go_in_any_order()
    {
        const int Count = 65535;
        using var dma = new DmaFixture();
        var random = new Random(5);
        var pages = Enumerable.Range(0, Count).Select(i => (ulong)i * 3).ToArray();
        random.Shuffle(pages);
        foreach (var page in pages)
            Assert.Equal(Errno.None, dma.Map(page * Page, Page, page % 64 * Page));
        Assert.Equal(Errno.ENOSPC, dma.Map(Page, Page));
        random.Shuffle(pages);
        foreach (var page in pages[..(Count / 2)])
            Assert.Equal(Errno.None, dma.Unmap(page * Page, Page, out _));
        Assert.DoesNotContain(pages[..(Count / 2)], page => dma.CanRead(page * Page));
        Assert.DoesNotContain(pages[(Count / 2)..], page => !dma.CanRead(page * Page));
        Assert.Equal(Errno.None, dma.Unmap(0, 3 * Count * Page, out var unmapped));
        Assert.Equal((ulong)(Count - (Count / 2)) * Page, unmapped);
        Assert.Equal(0, dma.Space.Count);
    }
}
