using Virtbus.Ethernet;

namespace Virtbus.Tests.Ethernet;

/// <summary>The ring of frames: its bounds, its order, and two threads at its ends.</summary>
public sealed class FrameRingTests
{
    private static readonly FrameOffload Uncut = new(FrameFlags.NeedsChecksum, SegmentationType.TcpV4, 1, 2, 3, 4, 5, 6);

    [Fact]
    public void Ring_is_bounded_in_frames()
    {
        var ring = new FrameRing(4);
        for (var i = 0; i < 4; i++)
            Assert.True(ring.TryWrite(new EthernetFrame(new byte[60])));
        Assert.False(ring.TryWrite(new EthernetFrame(new byte[60])));
        Assert.True(ring.TryPeek(out _));
        Assert.False(ring.TryWrite(new EthernetFrame(new byte[60])));
        ring.Release();
        Assert.True(ring.TryWrite(new EthernetFrame(new byte[60])));
        Assert.False(ring.TryWrite(new EthernetFrame(new byte[60])));
        Assert.Equal(4, Drain(ring));
        Assert.True(ring.IsEmpty);
        Assert.False(ring.TryPeek(out _));
    }

    [Fact]
    public void Ring_is_bounded_in_bytes_and_takes_the_longest_frame_wherever_it_stands()
    {
        var ring = new FrameRing(32768);
        Assert.Equal(FrameRing.DefaultBytes, ring.Bytes);
        var longest = new byte[EthernetFrame.MaxUncutLength];
        for (var i = 0; i < 3; i++)
            Assert.True(ring.TryWrite(new EthernetFrame(longest, Uncut)));
        Assert.False(ring.TryWrite(new EthernetFrame(longest, Uncut)));
        Assert.Equal(3, Drain(ring));
        for (var i = 0; i < 1000; i++)
        {
            Assert.True(ring.TryWrite(new EthernetFrame(longest, Uncut)));
            Assert.True(ring.TryWrite(new EthernetFrame(longest.AsSpan(0, 14 + i))));
            Assert.Equal(2, Drain(ring));
        }
        var small = 0;
        while (ring.TryWrite(new EthernetFrame(longest.AsSpan(0, 64))))
            small++;
        // A head of 32 bytes and 64; the last place before the end may stay free.
        Assert.InRange(small, (FrameRing.DefaultBytes / 96) - 1, FrameRing.DefaultBytes / 96);
    }

    [Theory]
    [InlineData(1, FrameRing.DefaultBytes)]
    [InlineData(3, FrameRing.DefaultBytes)]
    [InlineData(65536, FrameRing.DefaultBytes)]
    [InlineData(2, FrameRing.DefaultBytes / 2)]
    [InlineData(2, FrameRing.DefaultBytes + 32)]
    public void Ring_of_another_size_is_refused(int depth, int bytes) => Assert.Throws<ArgumentOutOfRangeException>(() => new FrameRing(depth, bytes));

    [Fact]
    public void Reserved_place_is_seen_when_it_is_put_in_only()
    {
        var ring = new FrameRing(2);
        Assert.True(ring.TryReserve(100, default, out var first));
        Assert.Equal(100, first.Length);
        first.Fill(1);
        Assert.True(ring.IsEmpty);
        // Given up with the next one.
        Assert.True(ring.TryReserve(20, Uncut, out var second));
        second.Fill(2);
        Assert.False(ring.TryPeek(out _));
        ring.Commit();
        Assert.True(ring.TryPeek(out var frame));
        Assert.Equal(Enumerable.Repeat((byte)2, 20), frame.Bytes.ToArray());
        Assert.Equal(Uncut, frame.Offload);
        Assert.False(ring.TryReserve(13, default, out _));
        Assert.False(ring.TryReserve(-1, default, out _));
        Assert.False(ring.TryReserve(int.MaxValue, Uncut, out _));
        ring.Release();
        Assert.True(ring.IsEmpty);
    }

    [Fact]
    public void Frames_come_out_in_order_and_whole_between_two_threads()
    {
        const int Frames = 100_000;
        var ring = new FrameRing(64);
        var producer = new Thread(() =>
        {
            var random = new Random(3);
            var turns = new SpinWait();
            for (var i = 0; i < Frames;)
            {
                var length = i % 50 == 0 ? random.Next(14, EthernetFrame.MaxUncutLength + 1) : random.Next(14, 1515);
                var offload = Uncut with { Hash = (uint)i };
                Span<byte> place;
                while (!ring.TryReserve(length, offload, out place))
                    turns.SpinOnce();
                place[0] = (byte)i;
                place[^1] = (byte)(i >> 8);
                ring.Commit();
                i++;
            }
        });
        producer.Start();
        var lengths = new Random(3);
        var wait = new SpinWait();
        for (var i = 0; i < Frames; i++)
        {
            EthernetFrame frame;
            while (!ring.TryPeek(out frame))
                wait.SpinOnce();
            var length = i % 50 == 0 ? lengths.Next(14, EthernetFrame.MaxUncutLength + 1) : lengths.Next(14, 1515);
            Assert.Equal((length, (uint)i, (byte)i, (byte)(i >> 8)), (frame.Length, frame.Offload.Hash, frame.Bytes[0], frame.Bytes[^1]));
            ring.Release();
        }
        producer.Join();
        Assert.True(ring.IsEmpty);
    }

    [Fact]
    public void Ring_allocates_with_its_first_frame_and_never_again()
    {
        var ring = new FrameRing(256);
        var bytes = new byte[1514];
        var before = GC.GetAllocatedBytesForCurrentThread();
        Assert.True(ring.IsEmpty);
        Assert.Equal(before, GC.GetAllocatedBytesForCurrentThread());
        ring.TryWrite(new EthernetFrame(bytes));
        before = GC.GetAllocatedBytesForCurrentThread();
        for (var i = 0; i < 1000; i++)
        {
            ring.TryWrite(new EthernetFrame(bytes));
            ring.TryPeek(out _);
            ring.Release();
        }
        Assert.Equal(before, GC.GetAllocatedBytesForCurrentThread());
    }

    private static int Drain(FrameRing ring)
    {
        var frames = 0;
        for (; ring.TryPeek(out _); frames++)
            ring.Release();
        return frames;
    }
}
