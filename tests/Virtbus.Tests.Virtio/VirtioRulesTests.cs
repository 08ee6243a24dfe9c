using Virtbus.Platform;
using Virtbus.Virtio;
using Virtbus.Virtio.Rings;
using static Virtbus.Virtio.VirtioStatus;

namespace Virtbus.Tests.Virtio;

/// <summary>The standard's rules that are tables and values: status, features, a queue's state.</summary>
public sealed class VirtioRulesTests
{
    [Theory]
    [InlineData(0, ACKNOWLEDGE, true)]
    [InlineData(0, ACKNOWLEDGE | DRIVER, true)]
    [InlineData(0, DRIVER, false)]
    [InlineData(ACKNOWLEDGE, ACKNOWLEDGE | FEATURES_OK, false)]
    [InlineData(ACKNOWLEDGE | DRIVER, 11, true)]
    [InlineData(ACKNOWLEDGE | DRIVER, 15, false)]
    [InlineData(ACKNOWLEDGE | DRIVER, ACKNOWLEDGE | DRIVER | DRIVER_OK, false)]
    [InlineData(0, 15, false)]
    [InlineData(11, 15, true)]
    [InlineData(11, 11, true)]
    [InlineData(15, 11, false)]
    [InlineData(15, 14, false)]
    [InlineData(15, 15 | FAILED, true)]
    [InlineData(0, FAILED, true)]
    [InlineData(15 | DEVICE_NEEDS_RESET, 15, true)]
    [InlineData(11 | DEVICE_NEEDS_RESET, 15 | DEVICE_NEEDS_RESET, true)]
    [InlineData(15, 15 | 32, false)]
    public void Status_bits_come_in_the_order_of_the_standard(int status, int wanted, bool allowed)
    {
        Assert.Equal(allowed, VirtioStatusRules.TryAdvance((byte)status, (byte)wanted, out var fault));
        Assert.Equal(allowed ? Errno.None : Errno.EINVAL, fault.Errno);
    }

    [Theory]
    [InlineData(VirtioStep.TakeFeatures, 0, Errno.None)]
    [InlineData(VirtioStep.TakeFeatures, 3, Errno.None)]
    [InlineData(VirtioStep.TakeFeatures, 11, Errno.EBUSY)]
    [InlineData(VirtioStep.EnableQueue, 3, Errno.EINVAL)]
    [InlineData(VirtioStep.EnableQueue, 11, Errno.None)]
    [InlineData(VirtioStep.EnableQueue, 15, Errno.None)]
    [InlineData(VirtioStep.RunQueues, 11, Errno.EAGAIN)]
    [InlineData(VirtioStep.RunQueues, 15, Errno.None)]
    public void Steps_need_their_status(VirtioStep step, int status, Errno answer)
    {
        Assert.Equal(answer == Errno.None, VirtioStatusRules.Allows((byte)status, step, out var fault));
        Assert.Equal(answer, fault.Errno);
    }

    [Fact]
    public void Features_are_128_bits_in_words_of_32()
    {
        var features = VirtioFeatures.Of(0, 31, VirtioFeatures.VIRTIO_F_VERSION_1, 63, 64, 96, 127);
        Assert.Equal((0x8000_0001u, 0x8000_0001u, 1u, 0x8000_0001u, 0u), (features.Word(0), features.Word(1), features.Word(2), features.Word(3), features.Word(4)));
        var copy = VirtioFeatures.None;
        for (var i = 0u; i < 6; i++)
            copy = copy.WithWord(i, features.Word(i));
        Assert.Equal(features, copy);
        Assert.True(features.Has(127));
        Assert.False(features.Has(126));
        Assert.False(features.IsWithin(features.Without(64)));
        Assert.True(features.Without(64).IsWithin(features));
        Assert.Throws<ArgumentOutOfRangeException>(() => features.Has(128));
    }

    [Theory]
    [InlineData(0u, false, true)]
    [InlineData(0xffffu, false, true)]
    [InlineData(0x10000u, false, false)]
    [InlineData(0xffff_ffffu, true, true)]
    [InlineData(0x8001_7fffu, true, true)]
    public void Queue_state_goes_over_the_wire_and_back(uint value, bool packed, bool valid)
    {
        Assert.Equal(valid, QueueState.TryDecode(value, packed, out var state, out var fault));
        Assert.Equal(valid ? Errno.None : Errno.EINVAL, fault.Errno);
        if (valid)
            Assert.Equal(value, state.Encode());
    }

    [Fact]
    public void Packed_state_has_two_places_and_their_wrap_counters()
    {
        Assert.True(QueueState.TryDecode(0x8003_0005, isPacked: true, out var state, out _));
        Assert.Equal((5, false, 3, true), (state.NextAvailable, state.AvailableWrap, state.NextUsed, state.UsedWrap));
        Assert.False(QueueState.TryPacked(0x8000, availableWrap: false, 0, usedWrap: false, out _, out var fault));
        Assert.Equal(Errno.EINVAL, fault.Errno);
    }

    [Fact]
    public void Every_status_and_every_write_is_as_the_standard_says()
    {
        for (var status = 0; status < 256; status++)
        {
            for (var wanted = 0; wanted < 256; wanted++)
            {
                var isKept = (status & SUSPEND) != 0 && (wanted & DRIVER_OK) != 0 ? status & ~SUSPEND : status;
                // 32 is no bit, and SUSPEND none that comes by this.
                var isKnown = (wanted & 32) == 0 && ((wanted & SUSPEND) == 0 || (status & SUSPEND) != 0);
                var isNothingTaken = (isKept & ~DEVICE_NEEDS_RESET & ~wanted) == 0;
                var added = wanted & ~isKept;
                var isInOrder = ((added & DRIVER) == 0 || (wanted & ACKNOWLEDGE) != 0) &&
                    ((added & FEATURES_OK) == 0 || (wanted & 3) == 3) && ((added & DRIVER_OK) == 0 || ((wanted & 11) == 11 && (status & FEATURES_OK) != 0));
                Assert.Equal((status, wanted, isKnown && isNothingTaken && isInOrder),
                    (status, wanted, VirtioStatusRules.TryAdvance((byte)status, (byte)wanted, out _)));
            }
        }
    }

    [Fact]
    public void Sets_of_features_are_joined_and_taken_apart()
    {
        var (low, high) = (VirtioFeatures.Of(0, 63), VirtioFeatures.Of(64, 127));
        Assert.Equal((0x8000_0000_0000_0001UL, 0UL, 0UL, 0x8000_0000_0000_0001UL), (low.Low, low.High, high.Low, high.High));
        Assert.Equal(VirtioFeatures.Of(0, 63, 64, 127), low | high);
        Assert.True((low & high).IsEmpty);
        Assert.False(low.IsEmpty);
        Assert.False(high.IsEmpty);
        Assert.Equal(high, ~low & (low | high));
        Assert.Equal((low, high), (low.With(0), high.Without(63)));
        Assert.Equal(("0x8000000000000001", "0x80000000000000010000000000000000"), (low.ToString(), high.ToString()));
        Assert.True(VirtioFeatures.None.IsWithin(low));
        Assert.False(low.IsWithin(high));
        Assert.Throws<ArgumentOutOfRangeException>(() => VirtioFeatures.Of(-1));
        // A word that is written takes the place of the one there.
        var all = ~VirtioFeatures.None;
        for (var word = 0u; word < 4; word++)
            Assert.Equal(all & ~VirtioFeatures.None.WithWord(word, uint.MaxValue) | VirtioFeatures.None.WithWord(word, 0x1234_5678), all.WithWord(word, 0x1234_5678));
        Assert.Equal(all, all.WithWord(4, 0));
    }

    [Theory]
    [InlineData(0x7fff, 0x7fff, true)]
    [InlineData(0x7fff, 0x8000, false)]
    [InlineData(0x8000, 0x7fff, false)]
    [InlineData(0xffff, 0, false)]
    public void Places_in_a_packed_ring_have_15_bits(int available, int used, bool fits)
    {
        Assert.Equal(fits, QueueState.TryPacked((ushort)available, availableWrap: true, (ushort)used, usedWrap: false, out var state, out var fault));
        Assert.Equal(fits ? Errno.None : Errno.EINVAL, fault.Errno);
        Assert.Equal(fits ? (true, available, used, true, false) : (false, 0, 0, false, false),
            (state.IsPacked, state.NextAvailable, state.NextUsed, state.AvailableWrap, state.UsedWrap));
    }

    [Fact]
    public void Ring_that_nobody_used_begins_at_its_first_place()
    {
        Assert.Equal((default, 0x8000_8000u), (QueueState.Beginning(isPacked: false), QueueState.Beginning(isPacked: true).Encode()));
        Assert.Equal((false, 7, 7u), (QueueState.Split(7).IsPacked, QueueState.Split(7).NextAvailable, QueueState.Split(7).Encode()));
        Assert.True(QueueState.Beginning(isPacked: true).IsPacked);
    }

    [Theory]
    [InlineData(0x8003_0005u, true, 5, 3, true)]
    [InlineData(0x7fff_ffffu, true, 0xffff, 0x7fff, false)]
    [InlineData(0x8003_0005u, false, 5, 0x8003, false)]
    public void Notification_has_queue_and_place(uint value, bool isPacked, int queue, int next, bool wrap)
    {
        var notification = VirtioNotification.Decode(value, isPacked);
        Assert.Equal(((ushort)queue, (ushort)next, wrap, value), (notification.Queue, notification.Next, notification.Wrap, notification.Encode()));
    }
}
