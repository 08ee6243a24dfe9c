using Virtbus.Platform;
using Virtbus.Virtio.Rings;

namespace Virtbus.Tests.Virtio;

/// <summary>Parts that rings are made of and that have no memory of their own: the order of used buffers, what is wrong with a table.</summary>
public sealed class RingPartTests
{
    private readonly Dictionary<int, DescriptorChain> _out = [];

    private DescriptorChain Take(UsedOrder order, int head, uint room = 0)
    {
        var chain = new DescriptorChain(1) { Head = (ushort)head, Slots = head + 1, Room = room };
        Assert.True(order.TryTake(chain));
        _out[head] = chain;
        return chain;
    }

    private static string Ended(UsedOrder order)
    {
        var text = "";
        while (order.TryEnd(out var held))
            text += $"{held.Head}/{held.Slots}/{held.Written}{(held.IsWhole ? " whole" : "")} ";
        return text.TrimEnd();
    }

    [Fact]
    public void Buffers_end_in_the_order_in_which_they_were_taken()
    {
        var order = new UsedOrder(4);
        Assert.False(order.TryEnd(out _));
        order.Complete(Take(order, 8, room: 5), 4);
        order.Complete(Take(order, 9, room: 5), 5);
        Assert.Equal("8/9/4 9/10/5 whole", Ended(order));
        // Around the end of the table more than once.
        for (var i = 0; i < 7; i++)
        {
            foreach (var head in new[] { 1, 2, 3 })
                Take(order, head);
            order.Complete(_out[3], 30);
            order.Complete(_out[2], 20);
            Assert.Equal("", Ended(order));
            order.Complete(_out[1], 0);
            Assert.Equal("1/2/0 whole 2/3/20 whole 3/4/30 whole", Ended(order));
        }
    }

    [Fact]
    public void No_more_are_out_than_there_are_descriptors()
    {
        var order = new UsedOrder(2);
        Take(order, 1);
        var second = Take(order, 2);
        Assert.False(order.TryTake(new DescriptorChain(1)));
        // One that is put back makes room for another in its turn.
        order.PutBack();
        Take(order, 3);
        Assert.False(order.TryTake(new DescriptorChain(1)));
        order.Complete(_out[3], 3);
        order.Complete(_out[1], 1);
        Assert.Equal("1/2/1 whole 3/4/3 whole", Ended(order));
        order.PutBack();
        Assert.Equal(1, second.Turn);
        order.Clear();
        Assert.Equal("", Ended(order));
        Assert.Equal(0, Take(order, 1).Turn);
        Assert.Equal(1, Take(order, 2).Turn);
        order.PutBack();
        order.PutBack();
        // Put back at the begin of the table: the place before it is its last one.
        order.Complete(Take(order, 5), 5);
        Assert.Equal("5/6/5 whole", Ended(order));
        Take(order, 6);
        Assert.Equal(0, Take(order, 7).Turn);
        order.PutBack();
        Assert.Equal(0, Take(order, 8).Turn);
    }

    [Fact]
    public void What_was_done_in_an_earlier_turn_is_not_done_in_this_one()
    {
        var order = new UsedOrder(1);
        order.Complete(Take(order, 1), 1);
        Assert.Equal("1/2/1 whole", Ended(order));
        Take(order, 2);
        Assert.Equal("", Ended(order));
    }

    [Theory]
    [InlineData(16u, 0, true, false, true)]
    [InlineData(1024u * 16, 4, true, false, true)]
    [InlineData(1025u * 16, 4, true, false, false)]
    [InlineData(0xffff_fff0u, 4, true, false, false)]
    [InlineData(0u, 4, true, false, false)]
    [InlineData(8u, 4, true, false, false)]
    [InlineData(17u, 4, true, false, false)]
    [InlineData(32u, 4, false, false, false)]
    [InlineData(32u, 4, true, true, false)]
    [InlineData(32u, 5, true, false, false)]
    [InlineData(32u, 6, true, false, true)]
    public void Table_of_descriptors_is_whole_and_not_in_a_table(uint length, ushort flags, bool isAllowed, bool inIndirect, bool isGood) =>
        Assert.Equal(isGood, IndirectTable.WhatIsWrong(length, flags, isAllowed, inIndirect) is null);

    [Theory]
    [InlineData(Errno.None, Errno.None, Errno.None)]
    [InlineData(Errno.None, Errno.EOPNOTSUPP, Errno.EOPNOTSUPP)]
    [InlineData(Errno.EOPNOTSUPP, Errno.None, Errno.EOPNOTSUPP)]
    [InlineData(Errno.EOPNOTSUPP, Errno.EFAULT, Errno.EFAULT)]
    [InlineData(Errno.None, Errno.EACCES, Errno.EACCES)]
    [InlineData(Errno.EFAULT, Errno.None, Errno.EFAULT)]
    [InlineData(Errno.EFAULT, Errno.EOPNOTSUPP, Errno.EFAULT)]
    [InlineData(Errno.EACCES, Errno.EFAULT, Errno.EACCES)]
    public void Two_parts_of_a_ring_are_as_bad_as_the_worse_one(Errno one, Errno other, Errno both) => Assert.Equal(both, RingArea.Worse(one, other));
}
