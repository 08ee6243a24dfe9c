using Virtbus.Ethernet;

namespace Virtbus.Tests.Ethernet;

/// <summary>What a batch remembers of the frame before changes nothing: the same frames go the same ways where each has a batch of its own.</summary>
public sealed class SwitchBatchTests
{
    private static readonly ushort[] Vlans = [0, 0, 5, 5, 6];

    [Fact]
    public void Frames_go_the_same_ways_in_one_batch_and_in_one_each()
    {
        var same = 0;
        for (var seed = 1; seed <= 300; seed++)
        {
            var random = new Random(seed);
            var (together, alone) = (new World(), new World());
            var (from, frame, offload) = (0, Array.Empty<byte>(), default(FrameOffload));
            for (var step = 0; step < 200; step++)
            {
                switch (step == 0 ? 0 : random.Next(8))
                {
                    case 0:
                        (from, frame, offload) = (random.Next(Vlans.Length), Frame(random), Offload(random));
                        break;
                    case 1:
                        // The other way.
                        (from, frame) = (random.Next(Vlans.Length), [.. frame.AsSpan(6, 6), .. frame.AsSpan(0, 6), .. frame.AsSpan(12)]);
                        break;
                    case 2:
                        // With the same header, and all else different.
                        (frame, offload) = ([.. frame.AsSpan(0, 14), .. new byte[Length(random) - 14]], Offload(random));
                        break;
                    case 3 when random.Next(20) == 0:
                        var port = random.Next(Vlans.Length);
                        together.Replace(port);
                        alone.Replace(port);
                        break;
                    default:
                        same++;
                        break;
                }

                Assert.Equal(alone.Forward(from, frame, offload), together.Forward(from, frame, offload));
                alone.End();
            }

            together.End();
            Assert.True(alone.Seen.SequenceEqual(together.Seen), $"seed {seed}");
            Assert.Equal(alone.Counters, together.Counters);
        }

        Assert.True(same > 10_000, $"{same} frames like the one before");
    }

    private static byte[] Frame(Random random)
    {
        var frame = new byte[Length(random)];
        frame[5] = (byte)random.Next(1, 5);
        frame[11] = (byte)random.Next(1, 5);
        frame[0] = random.Next(8) == 0 ? (byte)0x01 : (byte)0x02;
        frame[6] = random.Next(8) == 0 ? (byte)0x01 : (byte)0x02;
        if (random.Next(3) == 0 && frame.Length >= 18)
            (frame[12], frame[15]) = (0x81, (byte)random.Next(4, 7));
        return frame;
    }

    private static int Length(Random random) => random.Next(8) switch
    {
        0 => EthernetFrame.MinLength,
        1 => EthernetFrame.MaxLength,
        2 => EthernetFrame.MaxLength - 4 + random.Next(3),
        3 => EthernetFrame.MaxLength + 1,
        _ => 60,
    };

    private static FrameOffload Offload(Random random) => random.Next(4) switch
    {
        0 => new FrameOffload { Flags = FrameFlags.NeedsChecksum, ChecksumStart = 30, ChecksumOffset = 6 },
        1 => new FrameOffload { HashReport = 1, Hash = 7 },
        _ => default,
    };

    private sealed class World
    {
        private readonly EthernetSwitch _switch = new();
        private readonly SwitchBatch _batch;
        private readonly SwitchPort[] _ports;
        private readonly List<SwitchPort> _all = [];

        internal World()
        {
            _batch = new SwitchBatch(_switch);
            _ports = [.. Enumerable.Range(0, Vlans.Length).Select(Join)];
        }

        // Who got what, in order.
        internal List<string> Seen { get; } = [];

        internal IEnumerable<(long, long)> Counters => _all.Select(static p => (p.Malformed, p.Filtered));

        internal bool Forward(int from, byte[] bytes, FrameOffload offload) => _batch.Forward(_ports[from], new EthernetFrame(bytes, offload));

        internal void End() => _batch.End(static (_, exception) => Assert.Fail(exception.Message));

        internal void Replace(int port)
        {
            _switch.Leave(_ports[port]);
            _ports[port] = Join(port);
        }

        private SwitchPort Join(int number)
        {
            var sink = new KeepingSink { Keeps = true };
            sink.Delivered = _ => Seen.Add($"{number} {sink.Last} {Convert.ToHexString(sink.Frames[^1].AsSpan(0, Math.Min(64, sink.Frames[^1].Length)))} {sink.Frames[^1].Length}");
            var port = new SwitchPort(sink) { AccessVlan = Vlans[number] };
            _switch.Join(port);
            _all.Add(port);
            return port;
        }
    }
}
