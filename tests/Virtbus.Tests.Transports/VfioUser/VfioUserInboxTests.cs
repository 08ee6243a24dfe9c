using Virtbus.Platform;
using Virtbus.Wire.VfioUser;
using static Virtbus.Wire.VfioUser.VfioUserCommand;
using static Virtbus.Tests.WireClient;

namespace Virtbus.Tests.Transports.VfioUser;

/// <summary>Whose the descriptors are that come with a receive of many messages, and what a message is in a stream of bytes.</summary>
[Collection(WireCollection.Name)]
public sealed class VfioUserInboxTests : IDisposable
{
    private readonly VfioUserInbox _inbox = new(headerByHeader: false);
    private readonly EventFd _signal = new();
    private readonly int _descriptors = Kernel.DescriptorsBefore();

    public void Dispose()
    {
        _inbox.Dispose();
        Assert.Equal(_descriptors, Kernel.Descriptors);
        _signal.Dispose();
    }

    private bool Receive(int descriptors, params byte[][] pieces)
    {
        byte[] bytes = [.. pieces.SelectMany(piece => piece)];
        Assert.True(_inbox.Prepare(out var buffer, out var offset, out var length));
        Assert.InRange(bytes.Length, 1, length);
        bytes.CopyTo(buffer, offset);
        List<FileDescriptor> list = [.. Enumerable.Range(0, descriptors).Select(_ => _signal.Descriptor.Duplicate())];
        var good = _inbox.TryCommit(bytes.Length, list, out var fault);
        Assert.Empty(list);
        Assert.Equal(good, fault == Fault.None);
        return good;
    }

    private void Fill(byte[] message)
    {
        for (var at = 0; at < message.Length;)
        {
            Assert.True(_inbox.Prepare(out var buffer, out var offset, out var length));
            length = Math.Min(length, message.Length - at);
            message.AsSpan(at, length).CopyTo(buffer.AsSpan(offset));
            Assert.True(_inbox.TryCommit(length, [], out _));
            at += length;
            while (_inbox.TryScan(out _, out _))
            {
            }
        }
    }

    private string Take()
    {
        var text = "";
        while (_inbox.TryTake(out var message, out _, out _))
            text += $"{message.Command} {message.DescriptorCount}, ";
        return text.TrimEnd(' ', ',');
    }

    private static readonly byte[] Write = Message(REGION_WRITE, Access(0, 0, 4, 1, 2, 3, 4));
    private static readonly byte[] MapOne = Message(DMA_MAP, Map(Base, 4096));
    private static readonly byte[] UnmapOne = Message(DMA_UNMAP, Unmap(Base, 4096));
    private static readonly byte[] Bind = Message(DEVICE_SET_IRQS, Irqs(0x24, 2, 0, 2));

    [Fact]
    public void Descriptors_belong_to_the_last_message_that_starts_in_the_receive()
    {
        Assert.True(Receive(1, Write, MapOne, Write, MapOne));
        Assert.Equal("REGION_WRITE 0, DMA_MAP 0, REGION_WRITE 0, DMA_MAP 1", Take());
        Assert.True(Receive(2, Write, Bind[..20]));
        Assert.True(Receive(0, Bind[20..], MapOne));
        Assert.Equal("REGION_WRITE 0, DEVICE_SET_IRQS 2, DMA_MAP 0", Take());
        Assert.False(_inbox.IsHeaderByHeader);
    }

    [Fact]
    public void Message_whose_header_is_cut_has_its_descriptors_all_the_same()
    {
        Assert.True(Receive(0, Write, Write[..10]));
        Assert.Equal("REGION_WRITE 0", Take());
        Assert.True(Receive(1, Write[10..], MapOne[..7]));
        Assert.Equal("REGION_WRITE 0", Take());
        Assert.True(Receive(0, MapOne[7..]));
        Assert.Equal("DMA_MAP 1", Take());
        Assert.False(_inbox.IsHeaderByHeader);
    }

    [Fact]
    public void Descriptors_where_no_message_starts_are_a_fault()
    {
        Assert.True(Receive(0, MapOne[..20]));
        Assert.False(Receive(1, MapOne[20..]));
    }

    [Fact]
    public void Descriptors_at_a_message_that_has_none_go_to_the_only_one_that_can()
    {
        Assert.True(Receive(1, Write, MapOne, Write, Write));
        Assert.True(_inbox.IsHeaderByHeader);
        Assert.Equal("REGION_WRITE 0, DMA_MAP 1, REGION_WRITE 0, REGION_WRITE 0", Take());
        Assert.False(_inbox.SawMisplaced);
    }

    [Fact]
    public void Descriptors_that_fit_nowhere_stay_with_the_last_message()
    {
        Assert.True(Receive(1, MapOne, MapOne, Write));
        Assert.Equal("DMA_MAP 0, DMA_MAP 0, REGION_WRITE 1", Take());
        Assert.True(_inbox.SawMisplaced);
        Assert.True(_inbox.IsHeaderByHeader);
    }

    [Fact]
    public void Unmap_may_have_a_descriptor_and_does_not_take_that_of_a_map()
    {
        Assert.True(Receive(1, MapOne, UnmapOne));
        Assert.Equal("DMA_MAP 0, DMA_UNMAP 1", Take());
        Assert.False(_inbox.SawMisplaced);
        Assert.False(_inbox.IsHeaderByHeader);
        // All of it in one call of the peer's: the map is the only one that has a use for it.
        Assert.True(Receive(1, MapOne, UnmapOne, Write));
        Assert.Equal("DMA_MAP 1, DMA_UNMAP 0, REGION_WRITE 0", Take());
    }

    [Fact]
    public void Header_by_header_asks_for_no_more_than_what_comes_next()
    {
        using var inbox = new VfioUserInbox(headerByHeader: true);
        Assert.True(inbox.Prepare(out var buffer, out var offset, out var length));
        Assert.Equal(16, length);
        MapOne.AsSpan(0, 16).CopyTo(buffer.AsSpan(offset));
        Assert.True(inbox.TryCommit(16, [_signal.Descriptor.Duplicate()], out _));
        Assert.False(inbox.TryTake(out _, out _, out _));
        Assert.True(inbox.Prepare(out buffer, out offset, out length));
        Assert.Equal(32, length);
        MapOne.AsSpan(16, 30).CopyTo(buffer.AsSpan(offset));
        Assert.True(inbox.TryCommit(30, [], out _));
        Assert.True(inbox.Prepare(out buffer, out offset, out length));
        Assert.Equal(2, length);
        MapOne.AsSpan(46, 2).CopyTo(buffer.AsSpan(offset));
        Assert.True(inbox.TryCommit(2, [], out _));
        Assert.True(inbox.TryTake(out var message, out _, out _));
        Assert.Equal((DMA_MAP, 1), (message.Command, message.DescriptorCount));
    }

    [Fact]
    public void Scanned_messages_are_taken_later_in_their_order_and_say_so()
    {
        Assert.True(Receive(0, Write, MapOne, Write[..8]));
        Assert.True(_inbox.TryScan(out var seen, out _));
        Assert.Equal(REGION_WRITE, seen.Command);
        Assert.True(_inbox.TryTake(out var taken, out var scanned, out _));
        Assert.Equal((REGION_WRITE, true), (taken.Command, scanned));
        Assert.True(_inbox.TryTake(out taken, out scanned, out _));
        Assert.Equal((DMA_MAP, false), (taken.Command, scanned));
        Assert.False(_inbox.TryScan(out _, out _));
        Assert.True(_inbox.HasPart);
    }

    [Fact]
    public void Message_that_is_looked_at_stays_as_it_is_while_more_is_received()
    {
        var first = Message(REGION_WRITE, Access(0, 0, 8, [.. Longs(0x1122334455667788)]));
        Assert.True(Receive(0, first));
        Assert.True(_inbox.TryTake(out var held, out _, out _));
        // Far more than the buffer has, and a message larger than it.
        for (var i = 0; i < 3000; i++)
            Fill(Write);
        Fill(Message(REGION_WRITE, Access(0, 0, 1 << 20, new byte[1 << 20])));
        Assert.Equal(0x1122334455667788u, held.Read<ulong>(16));
        var count = 0;
        while (_inbox.TryTake(out var message, out var scanned, out _))
        {
            Assert.True(scanned);
            Assert.Equal(REGION_WRITE, message.Command);
            count++;
        }

        Assert.Equal(3001, count);
    }

    [Fact]
    public void Peer_that_never_waits_for_answers_gets_no_more_memory_than_the_limit()
    {
        var large = Message(REGION_WRITE, Access(0, 0, 1 << 20, new byte[1 << 20]));
        var at = 0;
        var total = 0L;
        var message = large;
        while (_inbox.Prepare(out var buffer, out var offset, out var length))
        {
            length = Math.Min(length, message.Length - at);
            message.AsSpan(at, length).CopyTo(buffer.AsSpan(offset));
            Assert.True(_inbox.TryCommit(length, [], out _));
            total += length;
            Assert.InRange(total, 0, 16 << 20);
            at = (at + length) % message.Length;
            _inbox.TryScan(out _, out _);
        }
    }
}
