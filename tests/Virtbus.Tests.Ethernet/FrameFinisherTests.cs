using Virtbus.Ethernet;

namespace Virtbus.Tests.Ethernet;

/// <summary>What is left of a frame, done for one who is no port of a switch.</summary>
public sealed class FrameFinisherTests
{
    private readonly byte[] _buffer = new byte[FrameFinisher.BufferSize];

    [Theory]
    [InlineData(false, true)]
    [InlineData(true, true)]
    [InlineData(false, false)]
    [InlineData(true, false)]
    public void Frame_is_cut_unless_all_that_is_left_is_taken(bool v6, bool tcp)
    {
        var frame = new TransportFrame(v6, tcp, Payload: 3000);
        var (bytes, offload) = (frame.Build(), frame.Offload);
        var whole = Assert.Single(Finish(bytes, offload, OffloadKinds.Checksum | frame.Kind));
        Assert.Equal(bytes, whole.Bytes);
        Assert.Equal(offload, whole.Offload);
        foreach (var takes in (OffloadKinds[])[OffloadKinds.None, OffloadKinds.Checksum, OffloadKinds.All & ~frame.Kind])
        {
            var pieces = Finish(bytes, offload, takes);
            Assert.Equal(3, pieces.Count);
            for (var i = 0; i < 3; i++)
                frame.Check(pieces[i].Bytes, i * 1400, i < 2 ? 1400 : 200, i);
            Assert.All(pieces, static p => Assert.Equal(new FrameOffload { HashReport = 3, Hash = 0xABCD }, p.Offload));
        }
    }

    [Fact]
    public void Checksum_alone_is_put_in_and_a_whole_frame_stays_as_it_is()
    {
        var frame = new TransportFrame(false, true, Payload: 333);
        var open = frame.Offload with { Segmentation = SegmentationType.None, SegmentSize = 0 };
        var put = Assert.Single(Finish(frame.Build(), open, OffloadKinds.None)).Bytes;
        Assert.Equal(0xFFFF, TransportFrame.Sum(put.AsSpan(frame.Transport), frame.PseudoSum(put, put.Length - frame.Transport)));
        Assert.Equal(frame.Build(), Assert.Single(Finish(frame.Build(), default, OffloadKinds.None)).Bytes);
    }

    [Fact]
    public void Nonsense_is_refused_whoever_takes_it()
    {
        var frame = new TransportFrame(false, true);
        foreach (var wrong in (FrameOffload[])[
            frame.Offload with { ChecksumStart = 13 }, frame.Offload with { Flags = FrameFlags.None }, frame.Offload with { SegmentSize = 0 },
            frame.Offload with { Segmentation = SegmentationType.TcpV6 }, frame.Offload with { Segmentation = SegmentationType.Udp }])
        {
            Assert.False(new EthernetFrame(frame.Build(), wrong).TryGetNeeds(out _));
            Assert.False(FrameFinisher.TryBegin(new EthernetFrame(frame.Build(), wrong), OffloadKinds.All, _buffer, out _));
        }

        Assert.False(new EthernetFrame(new byte[13]).TryGetNeeds(out _));
        Assert.False(new EthernetFrame(new byte[EthernetFrame.MaxLength + 1]).TryGetNeeds(out _));
        Assert.True(new EthernetFrame(frame.Build(), frame.Offload).TryGetNeeds(out var needs));
        Assert.Equal(OffloadKinds.Checksum | OffloadKinds.TcpV4, needs);
    }

    [Fact]
    public void Offload_data_is_read_as_it_was_written()
    {
        var offload = new TransportFrame(true, false).Offload with { HashReport = 0, Hash = 0 };
        var header = new byte[12];
        offload.WriteTo(header, FrameFlags.NeedsChecksum | FrameFlags.DataValid);
        Assert.Equal(offload, FrameOffload.Read(header));
        header[0] = 7;
        Assert.Equal(FrameFlags.NeedsChecksum | FrameFlags.DataValid | FrameFlags.SegmentInfo, FrameOffload.Read(header).Flags);
    }

    private List<(byte[] Bytes, FrameOffload Offload)> Finish(byte[] bytes, FrameOffload offload, OffloadKinds takes)
    {
        Assert.True(FrameFinisher.TryBegin(new EthernetFrame(bytes, offload), takes, _buffer, out var finisher));
        var frames = new List<(byte[], FrameOffload)>();
        while (finisher.TryNext(out var frame))
            frames.Add((frame.Bytes.ToArray(), frame.Offload));
        return frames;
    }
}
