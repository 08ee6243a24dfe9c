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
}
