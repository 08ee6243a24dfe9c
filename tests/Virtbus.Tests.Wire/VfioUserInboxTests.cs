using Virtbus.Platform;
using Virtbus.Wire.VfioUser;
using static Virtbus.Wire.VfioUser.VfioUserCommand;
using static Virtbus.Tests.WireMessages;

namespace Virtbus.Tests.Wire;

/// <summary>Whose the descriptors are that come with a receive of many messages, and what a message is in a stream of bytes.</summary>
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
    public void Descriptors_that_wait_with_messages_are_bounded()
    {
        using var inbox = new VfioUserInbox(headerByHeader: false);
        using var signal = new EventFd();
        var before = Kernel.DescriptorsBefore();
        var message = Message(DEVICE_SET_IRQS, Irqs(0x24, 2, 0, 16));
        var fault = Fault.None;
        var taken = 0;
        while (fault == Fault.None && taken < 100)
        {
            Assert.True(inbox.Prepare(out var buffer, out var offset, out _));
            message.CopyTo(buffer, offset);
            if (inbox.TryCommit(message.Length, [.. Enumerable.Range(0, 16).Select(_ => signal.Descriptor.Duplicate())], out fault))
                taken++;
        }

        Assert.Equal((Errno.ENOBUFS, 64), (fault.Errno, taken));
        Assert.Equal(before + 1024, Kernel.Descriptors);
        inbox.Dispose();
        Assert.Equal(before, Kernel.Descriptors);
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

    [Fact]
    public void Message_is_at_least_its_header_and_at_most_the_largest_one()
    {
        foreach (var (size, expected) in new[] { (0u, Errno.EBADMSG), (15u, Errno.EBADMSG), (VfioUserProtocol.MaxMessage + 1u, Errno.EMSGSIZE), (0x8000_0010, Errno.EMSGSIZE) })
        {
            using var inbox = new VfioUserInbox(headerByHeader: false);
            Assert.True(inbox.Prepare(out var buffer, out var offset, out _));
            Words(0, size, 0, 0).CopyTo(buffer, offset);
            // With descriptors too, which are closed in the end.
            Assert.True(inbox.TryCommit(15, [_signal.Descriptor.Duplicate()], out _));
            Assert.Equal((false, true, false), (inbox.HasMessage, inbox.HasPart, inbox.IsEmpty));
            Assert.True(inbox.TryCommit(1, [], out _));
            Assert.True(inbox.HasMessage);
            Assert.False(inbox.TryTake(out _, out _, out var fault));
            Assert.Equal((size, expected), (size, fault.Errno));
            Assert.False(inbox.TryScan(out _, out fault));
            Assert.Equal((size, expected), (size, fault.Errno));
        }

        Fill(Message(DEVICE_RESET, []));
        Fill(Message(REGION_WRITE, new byte[VfioUserProtocol.MaxMessage - 16]));
        Assert.True(_inbox.IsEmpty);
        Assert.False(_inbox.HasPart);
        Assert.True(_inbox.HasMessage);
        Assert.Equal("DEVICE_RESET 0, REGION_WRITE 0", Take());
        Assert.False(_inbox.HasMessage);
    }

    [Fact]
    public void Buffer_is_used_again_from_its_begin_once_all_is_taken()
    {
        Assert.True(_inbox.Prepare(out var first, out var offset, out var length));
        Assert.Equal((0, 64 << 10, 64 << 10), (offset, length, first.Length));
        for (var i = 0; i < 5000; i++)
        {
            Fill(Write);
            Assert.Equal("REGION_WRITE 0", Take());
            Assert.True(_inbox.Prepare(out var buffer, out offset, out length));
            Assert.Equal((0, 64 << 10), (offset, length));
            Assert.Same(first, buffer);
        }

        // One that is looked at holds its place, and one that lies there is moved no sooner than it has to be.
        Fill([.. Write, .. Write]);
        Assert.True(_inbox.TryTake(out _, out _, out _));
        Assert.True(_inbox.Prepare(out var same, out offset, out _));
        Assert.Equal(2 * Write.Length, offset);
        Assert.Same(first, same);
        _inbox.Release();
        Assert.True(_inbox.Prepare(out _, out offset, out _));
        Assert.Equal(2 * Write.Length, offset);
    }

    [Fact]
    public void What_is_taken_lets_go_of_the_descriptors_before_it()
    {
        Assert.True(Receive(1, MapOne));
        Assert.True(Receive(2, Bind));
        var before = Kernel.Descriptors;
        Assert.True(_inbox.TryTake(out var message, out _, out _));
        Assert.Equal((1, before), (message.DescriptorCount, Kernel.Descriptors));
        Assert.True(_inbox.TryTake(out message, out _, out _));
        Assert.Equal((2, before - 1), (message.DescriptorCount, Kernel.Descriptors));
        using var kept = message.TakeDescriptor();
        _inbox.Release();
        Assert.Equal(before - 2, Kernel.Descriptors);
        // What waits is counted while it waits, and no longer.
        for (var i = 0; i < 100; i++)
        {
            Assert.True(Receive(16, Bind));
            Assert.Equal("DEVICE_SET_IRQS 16", Take());
        }
    }

    [Fact]
    public void Stream_cut_anywhere_is_the_same_messages_with_the_same_descriptors()
    {
        for (var seed = 0; seed < 12; seed++)
        {
            var random = new Random(seed);
            using var inbox = new VfioUserInbox(headerByHeader: seed % 4 == 0);
            Queue<(byte[] Bytes, int Descriptors)> sent = new();
            byte[] current = [];
            int at = 0, descriptors = 0, taken = 0, made = 0;
            while (taken < 120)
            {
                if (at == current.Length && made < 120 && random.Next(3) > 0)
                {
                    // Descriptors come with a receive of their own, as Linux has it: their message is the last one of it.
                    descriptors = random.Next(4) == 0 ? random.Next(1, 4) : 0;
                    var payload = new byte[random.Next(6) == 0 ? random.Next(150_000) : random.Next(64)];
                    random.NextBytes(payload);
                    current = Message(descriptors > 0 ? DMA_MAP : REGION_WRITE, payload, id: (ushort)made++);
                    sent.Enqueue((current, descriptors));
                    at = 0;
                }

                if (at < current.Length)
                {
                    // What is there is looked at before more is received.
                    while (inbox.TryScan(out _, out _))
                    {
                    }

                    Assert.True(inbox.Prepare(out var buffer, out var offset, out var length));
                    Assert.InRange(length, 1, buffer.Length - offset);
                    var count = Math.Min(Math.Min(length, current.Length - at), random.Next(2) == 0 ? int.MaxValue : random.Next(1, 20_000));
                    current.AsSpan(at, count).CopyTo(buffer.AsSpan(offset));
                    List<FileDescriptor> list = at > 0 ? [] : [.. Enumerable.Range(0, descriptors).Select(_ => _signal.Descriptor.Duplicate())];
                    Assert.True(inbox.TryCommit(count, list, out var fault), fault.Message);
                    at += count;
                }

                if (random.Next(3) == 0)
                    inbox.TryScan(out _, out _);
                if (random.Next(5) == 0)
                    inbox.Release();
                while (random.Next(3) == 0 && inbox.TryTake(out var message, out _, out _))
                {
                    var (bytes, count) = sent.Dequeue();
                    Assert.Equal((bytes.Length - 16, count, taken++), (message.Payload.Length, message.DescriptorCount, (int)message.Id));
                    Assert.True(bytes.AsSpan(16).SequenceEqual(message.Payload));
                }
            }

            Assert.False(inbox.SawMisplaced);
            Assert.Equal(seed % 4 == 0, inbox.IsHeaderByHeader);
            Assert.True(inbox.IsEmpty);
        }
    }
}
