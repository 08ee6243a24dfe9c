using System.Diagnostics;
using Virtbus.Drivers.VirtioNet;
using Virtbus.Drivers.VirtioPci;
using Virtbus.Ethernet;
using Virtbus.Hardware.VirtioPci;
using Virtbus.Models.VirtioNet;
using Virtbus.Platform;
using Virtbus.Subsystems.Net;
using Virtbus.Testing;
using static Virtbus.Bench.Statistics;

namespace Virtbus.Bench;

/// <summary>
/// Frames from one interface of virtio_net to another: two functions on a switch, each behind virtio_pci. One thread sends, in batches, and polls
/// for small frames; the devices are on the poll threads, where long frames are received. Beside it, in the same round, the device side alone, with the plain driver of <see cref="NetBench"/>.
/// </summary>
internal static class DriverNetBench
{
    private const ulong MacA = 0x02_00_00_00_00_0A;
    private const ulong MacB = 0x02_00_00_00_00_0B;
    private const int Burst = 32;

    private static readonly (string Name, bool Packed, int Length, int Window, bool Cut, bool Polled)[] Cases =
    [
        ("64 B, split", false, 60, 192, false, true),
        ("64 B, packed", true, 60, 192, false, true),
        ("64 KiB TSO, packed", true, 65500, 4, true, false),
    ];

    internal static async Task<int> RunAsync(string[] args)
    {
        var values = new Dictionary<string, string>(StringComparer.Ordinal) { ["--rounds"] = "7", ["--milliseconds"] = "500", ["--poll-threads"] = "1" };
        if (!NamedValues.TryRead(args, values))
            return 2;
        var (rounds, milliseconds) = (int.Parse(values["--rounds"]), int.Parse(values["--milliseconds"]));
        PollThreads.SharedCount = int.Parse(values["--poll-threads"]);
        Console.WriteLine("| frames | interfaces, million a second | devices alone | ratio | processor ns a frame, interfaces | devices alone | ratio | lost | bytes allocated |");
        Console.WriteLine("|---|---|---|---|---|---|---|---|---|");
        foreach (var (name, packed, length, window, cut, polled) in Cases)
        {
            await using var rig = await FabricRig.StartAsync();
            await rig.InitModuleAsync(new VirtioPciModule(), "virtio_pci");
            await rig.InitModuleAsync(new VirtioNetModule(), "virtio_net");
            var network = new EthernetSwitch();
            var left = await AddAsync(rig, network, MacA, packed);
            var right = await AddAsync(rig, network, MacB, packed);
            var counter = new Counter();
            right.AddReceiver(counter);
            using var poller = polled ? right.OpenPoller(0) : null;
            var frame = new byte[length];
            VirtioNetConfig.WriteMac(frame, MacB);
            VirtioNetConfig.WriteMac(frame.AsSpan(6), MacA);
            NetTurns.WriteTcp(frame);
            var offload = cut ? new FrameOffload(FrameFlags.NeedsChecksum, SegmentationType.TcpV4, 54, 1448, 34, 16, 0, 0) : default;
            right.TryTransmit(NetBench.Swapped(frame), out _);
            using var plain = new NetBench.Pair(packed, length, window, cut);
            Go(left, poller, counter, frame, offload, window, 1000);
            plain.Go(1000, out _);
            List<double> rates = [], others = [], costs = [], otherCosts = [];
            var (allocated, lost) = (0L, 0L);
            for (var round = 0; round < rounds; round++)
            {
                var before = GC.GetTotalAllocatedBytes(precise: true);
                var (rate, cost, missed) = Go(left, poller, counter, frame, offload, window, milliseconds);
                allocated += GC.GetTotalAllocatedBytes(precise: true) - before;
                lost += missed;
                rates.Add(rate);
                costs.Add(cost);
                var start = Environment.CpuUsage.TotalTime;
                others.Add(plain.Go(milliseconds, out var received));
                otherCosts.Add((Environment.CpuUsage.TotalTime - start).TotalNanoseconds / received);
            }

            Console.WriteLine(
                $"| {name} | {Median(rates) / 1e6:F2} | {Median(others) / 1e6:F2} | {Median(rates.Zip(others, (a, b) => a / b)):F2} "
                + $"| {Median(costs):F0} | {Median(otherCosts):F0} | {Median(costs.Zip(otherCosts, (a, b) => b / a)):F2} | {lost} | {allocated} |");
        }

        return 0;
    }

    internal static (double Rate, double Cost, long Lost) Go(NetDevice from, NetPoller? poller, Counter to, byte[] bytes, FrameOffload offload, int window, int milliseconds)
    {
        var frame = new EthernetFrame(bytes, offload);
        var (sent, first) = (0L, to.Count);
        var end = Stopwatch.GetTimestamp() + (milliseconds * Stopwatch.Frequency / 1000);
        var processor = Environment.CpuUsage.TotalTime;
        var start = Stopwatch.GetTimestamp();
        while (true)
        {
            var now = Stopwatch.GetTimestamp();
            poller?.Poll();
            var received = to.Count - first;
            var put = 0;
            while (put < Burst && sent - received < window && now < end && from.TrySend(frame, out _))
            {
                put++;
                sent++;
            }

            if (put > 0)
                from.Flush();
            // What was lost does not come.
            if ((now >= end && received == sent) || now > end + Stopwatch.Frequency)
                return (received / Stopwatch.GetElapsedTime(start).TotalSeconds, (Environment.CpuUsage.TotalTime - processor).TotalNanoseconds / received, sent - received);
        }
    }

    private static async Task<NetDevice> AddAsync(FabricRig rig, EthernetSwitch network, ulong mac, bool packed)
    {
        var model = new VirtioNetDevice($"net{mac & 0xFF:x}", network, new VirtioNetOptions(mac) { Packed = packed });
        var pci = await rig.PlugAsync(new VirtioFunction(model));
        await rig.Fabric.SettleAsync();
        return NetSubsystem.Of(rig.Fabric).Class.Devices.OfType<NetDevice>().Single(n => n.Parent!.Parent == pci);
    }

    internal sealed class Counter : IFrameReceiver
    {
        private long _count;

        public OffloadKinds Takes => OffloadKinds.All;

        public long Count => Volatile.Read(ref _count);

        public void Receive(NetDevice device, int queue, in EthernetFrame frame) => Volatile.Write(ref _count, _count + 1);
    }
}
