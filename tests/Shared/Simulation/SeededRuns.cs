using System.Diagnostics;
using System.Globalization;

namespace Virtbus.Tests;

/// <summary>
/// Runs simulations as tests do: many seeds, one seed twice, one with a planted bug. Set VIRTBUS_SEED to replay one seed with its trace,
/// VIRTBUS_SEEDS to run another number of them.
/// </summary>
internal sealed class SeededRuns(ITestOutputHelper output, Func<ulong, bool, ISeededRun> make)
{
    public void Hold(int seeds)
    {
        if (Environment.GetEnvironmentVariable("VIRTBUS_SEED") is { Length: > 0 } one)
        {
            var seed = ulong.Parse(one, CultureInfo.InvariantCulture);
            var replay = make(seed, true);
            var failure = replay.Run();
            Assert.True(failure is null, $"seed {seed}: {failure}\n{replay.Trace}");
            return;
        }
        var count = Environment.GetEnvironmentVariable("VIRTBUS_SEEDS") is { Length: > 0 } wanted ? int.Parse(wanted, CultureInfo.InvariantCulture) : seeds;
        var watch = Stopwatch.StartNew();
        long failed = long.MaxValue;
        string? what = null;
        var gate = new Lock();
        Parallel.For(1, count + 1, (seed, state) =>
        {
            if (make((ulong)seed, false).Run() is not { } failure)
                return;
            lock (gate)
            {
                if (seed < failed)
                    (failed, what) = (seed, failure);
            }
            state.Break();
        });
        output.WriteLine($"{count} seeds in {watch.Elapsed.TotalSeconds:0.0} s: {count / watch.Elapsed.TotalSeconds:0} seeds/s");
        Assert.True(what is null, $"seed {failed}: {what}\nReplay it with VIRTBUS_SEED={failed}.");
    }

    public void Repeat()
    {
        for (var seed = 1ul; seed <= 20; seed++)
        {
            var first = make(seed, true);
            first.Run();
            var second = make(seed, true);
            second.Run();
            Assert.Equal(first.Trace, second.Trace);
            Assert.Equal(first.Hash, second.Hash);
            var other = make(seed + 1, false);
            other.Run();
            Assert.NotEqual(first.Hash, other.Hash);
        }
    }

    /// <param name="program">Makes the program with the bug in it.</param>
    /// <param name="symptoms">Parts of failures by which the bug shows.</param>
    public void Find(Func<ulong, ISeededRun> program, params string[] symptoms)
    {
        for (var seed = 1ul; seed <= 2000; seed++)
        {
            if (program(seed).Run() is { } failure && symptoms.Any(s => failure.Contains(s, StringComparison.Ordinal)))
            {
                output.WriteLine($"seed {seed}: {failure}");
                return;
            }
        }
        Assert.Fail("2000 seeds did not find the planted bug.");
    }
}
