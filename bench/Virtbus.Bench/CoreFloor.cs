using System.Numerics;
using System.Runtime.CompilerServices;

namespace Virtbus.Bench;

/// <summary>
/// What the objects of a device cost by themselves, whoever makes them: an object of its size, its name, what an add leaves to the collector,
/// a place in a row and one in a hash table of numbers. No driver core is in it.
/// </summary>
internal static class CoreFloor
{
    private static object? s_sink;

    /// <summary>By how many microseconds of processor time one of many costs more than one of few.</summary>
    public static double Growth(int rounds, int few, int many, string[] parts)
    {
        var small = Enumerable.Range(0, 100 * rounds).Select(_ => Measure(few, parts)).ToArray();
        return Statistics.Median(Enumerable.Range(0, rounds).Select(_ => Measure(many, parts))) - Statistics.Median(small);
    }

    private static double Measure(int count, string[] parts)
    {
        var kept = new Bare[count];
        var row = new Bare?[BitOperations.RoundUpToPowerOf2((uint)count)];
        var slots = new ulong[row.Length * 2];
        var shared = new object();
        GC.Collect();
        var watch = CoreBench.CpuWatch.Start();
        for (var i = 0; i < count; i++)
            row[i] = kept[i] = MakeOne(parts[i % parts.Length], i, slots, shared);
        var elapsed = watch.Elapsed;
        GC.KeepAlive(kept);
        GC.KeepAlive(row);
        return elapsed.TotalMicroseconds / count;
    }

    // Compiled once and well: small numbers are over before the compiler's tiers settle.
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static Bare MakeOne(string part, int i, ulong[] slots, object shared)
    {
        var bare = new Bare(string.Create(null, stackalloc char[64], $"bench.{part}.{i}"), shared);
        s_sink = new Garbage(bare);
        var slot = bare.Hash & (slots.Length - 1);
        while (slots[slot] != 0)
            slot = (slot + 1) & (slots.Length - 1);
        slots[slot] = ((ulong)(uint)bare.Hash << 32) | (uint)(i + 1);
        return bare;
    }

    // As large as an auxiliary device, with as many references set.
    private sealed class Bare
    {
        private Fields _fields;

        public Bare(string name, object shared)
        {
            Hash = StringComparer.Ordinal.GetHashCode(name);
            _fields[0] = name;
            for (var i = 1; i < 6; i++)
                _fields[i] = shared;
        }

        public int Hash { get; }
    }

    private sealed class Garbage
    {
        private Fields _fields;

        public Garbage(object device) => _fields[0] = device;
    }

    [InlineArray(19)]
    private struct Fields
    {
        private object? _first;
    }
}
