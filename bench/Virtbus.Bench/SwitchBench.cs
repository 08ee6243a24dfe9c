using System.Diagnostics;
using Virtbus.Ethernet;
using static Virtbus.Bench.Statistics;

namespace Virtbus.Bench;

/// <summary>What a frame costs on its way through a switch, on one thread: in by a port, into the ring of another, and out of it.</summary>
internal static class SwitchBench
{
    private const int Batches = 4_000;
    private const int BatchesOfLong = 40;
    private const int FramesPerBatch = 64;
    private const int Ports = 16;

    public static int Run(string[] args)
    {
        var rounds = args is ["--rounds", var text] ? int.Parse(text) : 15;
        Console.WriteLine($"{"frame",-44} {"ns",9} {"bytes allocated",16}   (medians of {rounds} rounds)");
        Measure("64 bytes", rounds, 64, default, OffloadKinds.None, 0);
        Measure("64 bytes, from access to trunk", rounds, 64, default, OffloadKinds.None, 10);
        Measure("1514 bytes", rounds, 1514, default, OffloadKinds.None, 0);
        var (uncut, offload) = Tcp();
        var open = offload with { Segmentation = SegmentationType.None };
        Measure("1514 bytes, checksum open and taken so", rounds, 1514, open, OffloadKinds.All, 0, uncut);
        Measure("1514 bytes, checksum put in", rounds, 1514, open, OffloadKinds.None, 0, uncut);
        Measure($"{uncut.Length} bytes of TCP, taken uncut", rounds, uncut.Length, offload, OffloadKinds.All, 0, uncut);
        Measure($"{uncut.Length} bytes of TCP, cut into 44", rounds, uncut.Length, offload, OffloadKinds.None, 0, uncut);
        return 0;
    }

    private static void Measure(string name, int rounds, int length, FrameOffload offload, OffloadKinds takes, ushort vlan, byte[]? content = null)
    {
        var owner = new EthernetSwitch();
        var batch = new SwitchBatch(owner);
        var from = new SwitchPort(new Sink(takes)) { AccessVlan = vlan };
        owner.Join(from);
        var sinks = Enumerable.Range(0, Ports).Select(_ => new Sink(takes)).ToArray();
        for (var i = 0; i < Ports; i++)
        {
            var port = new SwitchPort(sinks[i]);
            owner.Join(port);
            // Known from now on, in the VLAN that the frames are of.
            batch.Forward(port, new EthernetFrame(Frame(content, 64, 0, i + 1, vlan)));
        }
        batch.End(static (_, exception) => throw exception);
        foreach (var sink in sinks)
            sink.Drain();
        var frames = Enumerable.Range(0, Ports).Select(i => Frame(content, length, i + 1, 100, 0)).ToArray();
        var times = new List<double>(rounds);
        var batches = length > EthernetFrame.MaxLength ? BatchesOfLong : Batches;
        long allocated = 0;
        for (var round = -3; round < rounds; round++)
        {
            var before = GC.GetAllocatedBytesForCurrentThread();
            var start = Stopwatch.GetTimestamp();
            for (var i = 0; i < batches; i++)
            {
                for (var j = 0; j < FramesPerBatch; j++)
                    batch.Forward(from, new EthernetFrame(frames[j % Ports], offload));
                batch.End(static (_, exception) => throw exception);
            }
            if (round >= 0)
                times.Add(Stopwatch.GetElapsedTime(start).TotalNanoseconds / (batches * FramesPerBatch));
            allocated = GC.GetAllocatedBytesForCurrentThread() - before;
        }
        if (sinks.Any(s => s.Missed > 0 || s.Taken == 0))
            throw new InvalidOperationException("A frame was lost.");
        Console.WriteLine($"{name,-44} {Median(times),9:F1} {allocated,16}");
    }

    private static byte[] Frame(byte[]? content, int length, int destination, int source, ushort vlan)
    {
        var frame = new byte[length];
        content?.AsSpan(0, Math.Min(length, content.Length)).CopyTo(frame);
        frame.AsSpan(0, 12).Clear();
        frame[0] = frame[6] = 2;
        frame[5] = (byte)destination;
        frame[11] = (byte)source;
        if (vlan != 0)
        {
            frame[12] = 0x81;
            frame[15] = (byte)vlan;
        }
        return frame;
    }

    // IPv4 and TCP without options, 44 segments of 1448 bytes.
    private static (byte[] Frame, FrameOffload Offload) Tcp()
    {
        const int Headers = 14 + 20 + 20;
        const int Segment = 1448;
        var frame = new byte[Headers + (44 * Segment)];
        frame[12] = 8;
        frame[14] = 0x45;
        frame[23] = 6;
        frame[46] = 0x50;
        return (frame, new FrameOffload(FrameFlags.NeedsChecksum, SegmentationType.TcpV4, Headers, Segment, 34, 16, 0, 0));
    }

    private sealed class Sink(OffloadKinds takes) : IFrameSink
    {
        private readonly FrameRing _ring = new(256);

        public OffloadKinds Takes => takes;

        public int Missed { get; private set; }

        public int Taken { get; private set; }

        public void Deliver(in EthernetFrame frame)
        {
            if (!_ring.TryWrite(frame))
            {
                Drain();
                _ring.TryWrite(frame);
            }
        }

        public void Miss() => Missed++;

        public void Flush() => Drain();

        internal void Drain()
        {
            for (; _ring.TryPeek(out _); Taken++)
                _ring.Release();
        }
    }
}
