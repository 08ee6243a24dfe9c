using System.Diagnostics;
using Virtbus.Ethernet;
using Virtbus.Models.VirtioNet;
using Virtbus.Platform;
using Virtbus.Testing;
using Virtbus.Virtio;
using static Virtbus.Bench.Statistics;

namespace Virtbus.Bench;

/// <summary>
/// Frames from one driver to another: two network devices on a switch, each with a driver's rings in memory of its own. One thread is both drivers; the
/// devices' queues run on the poll threads. So many frames are under way at once that none is lost for want of a buffer, and each is counted when its
/// driver has it. Beside it the same way by turns on one thread (<see cref="NetTurns"/>).
/// </summary>
internal static class NetBench
{
    private const ulong MacA = 0x02_00_00_00_00_0A;
    private const ulong MacB = 0x02_00_00_00_00_0B;
    private const int QueueSize = 256;
    private const int Burst = 32;

    private static readonly (string Name, bool Packed, int Length, int Window, bool Cut)[] Cases =
    [
        ("64 B, split", false, 60, 192, false),
        ("64 B, packed", true, 60, 192, false),
        ("1518 B, split", false, 1514, 192, false),
        ("1518 B, packed", true, 1514, 192, false),
        ("64 KiB TSO, split", false, 65500, 4, true),
        ("64 KiB TSO, packed", true, 65500, 4, true),
    ];

    internal static int Run(string[] args)
    {
        var values = new Dictionary<string, string>(StringComparer.Ordinal) { ["--rounds"] = "7", ["--milliseconds"] = "500", ["--poll-threads"] = "1", ["--testpmd"] = "" };
        if (!NamedValues.TryRead(args, values))
            return 2;
        var rounds = int.Parse(values["--rounds"]);
        var milliseconds = int.Parse(values["--milliseconds"]);
        PollThreads.SharedCount = int.Parse(values["--poll-threads"]);
        var testpmd = values["--testpmd"].Split(' ', StringSplitOptions.RemoveEmptyEntries);
        Console.WriteLine("| frames | million a second | GiB/s | by turns on one thread, ns a frame | lost | bytes allocated | DPDK's loop, million a second | ratio |");
        Console.WriteLine("|---|---|---|---|---|---|---|---|");
        foreach (var (name, packed, length, window, cut) in Cases)
        {
            using var pair = new Pair(packed, length, window, cut);
            // The code is compiled.
            pair.Go(1000, out _);
            List<double> rates = [], costs = [];
            using var turns = new NetTurns(packed, length, cut, cut ? 4 : Burst);
            var frames = cut ? 4000 : 200_000;
            turns.Go(frames);
            var lost = pair.Lost;
            var allocated = 0L;
            List<double> peers = [];
            for (var round = 0; round < rounds; round++)
            {
                var before = GC.GetTotalAllocatedBytes(precise: true);
                var rate = pair.Go(milliseconds, out _);
                costs.Add(turns.Go(frames));
                allocated += GC.GetTotalAllocatedBytes(precise: true) - before;
                rates.Add(rate);
                if (testpmd.Length == 0 || cut)
                    continue;
                using var loop = new TestpmdLoop(testpmd, packed, length, QueueSize);
                peers.Add(loop.Measure(seconds: 2));
            }

            lost = pair.Lost - lost;
            Console.WriteLine(
                $"| {name} | {Median(rates) / 1e6:F2} | {Median(rates) * length / (1 << 30):F2} | {Median(costs):F0} | {lost} | {allocated} | {Beside(rates, peers)} |");
        }

        return 0;
    }

    // The medians of the peer's rates and of the ratios of the same round.
    private static string Beside(List<double> rates, List<double> peers)
        => peers.Count == 0 ? "- | -" : $"{Median(peers) / 1e6:F2} | {Median(rates.Zip(peers, (rate, peer) => rate / peer)):F2}";

    internal static byte[] Swapped(byte[] frame) => [.. frame.AsSpan(6, 6), .. frame.AsSpan(0, 6), .. frame.AsSpan(12, 48)];

    private static double Go(VirtioNetUser from, VirtioNetUser to, byte[] header, byte[] frame, int window, int milliseconds, out long received)
    {
        Span<byte> head = stackalloc byte[20];
        var (sent, end) = (0L, Stopwatch.GetTimestamp() + (milliseconds * Stopwatch.Frequency / 1000));
        received = 0;
        var start = Stopwatch.GetTimestamp();
        while (true)
        {
            var now = Stopwatch.GetTimestamp();
            var put = 0;
            // The slot keeps the frame from the first time around.
            while (put < Burst && sent - received < window && now < end && from.TryPut(1, header, sent < QueueSize ? frame : [], frame.Length))
            {
                put++;
                sent++;
            }

            if (put > 0)
                from.Push(1);
            var got = 0;
            while (got < Burst && to.Take(0, head) > 0)
                got++;
            if (got > 0)
                to.Push(0);
            received += got;
            if (now >= end && received == sent)
                break;
            // What was lost does not come.
            if (now > end + Stopwatch.Frequency)
                break;
        }

        return received / Stopwatch.GetElapsedTime(start).TotalSeconds;
    }

    /// <summary>Two devices on a switch, with a plain driver each.</summary>
    internal sealed class Pair : IDisposable
    {
        private readonly VirtioNetDevice _a;
        private readonly VirtioNetDevice _b;
        private readonly VirtioNetUser _from;
        private readonly VirtioNetUser _to;
        private readonly byte[] _frame;
        private readonly byte[] _header;
        private readonly int _window;

        internal Pair(bool packed, int length, int window, bool cut)
        {
            var network = new EthernetSwitch();
            _a = new VirtioNetDevice("a", network, new VirtioNetOptions(MacA) { Packed = packed });
            _b = new VirtioNetDevice("b", network, new VirtioNetOptions(MacB) { Packed = packed });
            _from = new VirtioNetUser(_a, queueSize: QueueSize, slotSize: cut ? 65536 : 2048);
            // As a driver that merges has them: buffers of one page and less.
            _to = new VirtioNetUser(_b, queueSize: QueueSize, slotSize: 2048);
            _frame = new byte[length];
            VirtioNetConfig.WriteMac(_frame, MacB);
            VirtioNetConfig.WriteMac(_frame.AsSpan(6), MacA);
            NetTurns.WriteTcp(_frame);
            _header = cut ? [1, 1, 54, 0, 0xA8, 5, 34, 0, 16, 0] : [];
            _window = window;
            // The switch comes to know where the other one is.
            _to.Send(Swapped(_frame));
        }

        internal ulong Lost => _a.Counters.SendLost + _b.Counters.ReceiveLost;

        internal double Go(int milliseconds, out long received) => NetBench.Go(_from, _to, _header, _frame, _window, milliseconds, out received);

        public void Dispose()
        {
            _from.Dispose();
            _to.Dispose();
            _a.Dispose();
            _b.Dispose();
        }
    }
}
