using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Virtio.Rings;

namespace Virtbus.Tests.Virtio;

/// <summary>Used buffers that a driver sees at once, and that it is told of together.</summary>
public sealed class RingNoticeTests : IDisposable
{
    private const ulong Base = 0x10000;
    private const int Size = 8;
    private readonly RingSpace _space = new(Base, 0x8000);
    private readonly DescriptorChain _chain = new(8);
    private DeviceRing _device = new SplitDeviceRing();
    private DriverRing _driver = null!;

    public void Dispose()
    {
        _device.Stop();
        _space.Dispose();
    }

    [Theory]
    [InlineData(false, false)]
    [InlineData(false, true)]
    [InlineData(true, false)]
    [InlineData(true, true)]
    public void Driver_sees_each_at_once_and_is_asked_once_for_all_of_them(bool packed, bool eventIndex)
    {
        Start(packed, eventIndex);
        // Several laps, at every place of the ring.
        for (var round = 0; round < 40; round++)
        {
            _driver.RequestCalls(true);
            for (var i = 1; i <= 3; i++)
            {
                Use();
                _device.Show();
                Assert.Equal(i, _device.Untold);
                Assert.True(_driver.TryTakeUsed(out _, out _, out _));
            }

            // The one that it waited for is the first of them.
            Assert.True(_device.IsNoticeWanted());
            Assert.Equal(0, _device.Untold);
            Assert.False(_device.IsNoticeWanted());
            Assert.False(_device.Publish());
        }
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Driver_that_has_taken_them_all_and_waits_for_the_next_one_is_told_of_that(bool packed)
    {
        Start(packed, eventIndex: true);
        for (var round = 0; round < 40; round++)
        {
            Use();
            Use();
            _device.Show();
            Assert.True(_driver.TryTakeUsed(out _, out _, out _) && _driver.TryTakeUsed(out _, out _, out _));
            Assert.False(_driver.RequestCalls(true));
            // What was shown before is no news any more; what comes is.
            Assert.False(_device.IsNoticeWanted());
            Use();
            Assert.True(_device.Publish());
            Assert.True(_driver.TryTakeUsed(out _, out _, out _));
        }
    }

    [Theory]
    [InlineData(false, false)]
    [InlineData(true, false)]
    [InlineData(false, true)]
    [InlineData(true, true)]
    public void Publish_asks_for_what_was_shown_before_it_too(bool packed, bool eventIndex)
    {
        Start(packed, eventIndex);
        _driver.RequestCalls(true);
        Use();
        _device.Show();
        Assert.True(_device.Publish());
        _driver.RequestCalls(false);
        Assert.True(_driver.TryTakeUsed(out _, out _, out _));
        Use();
        _device.Show();
        Assert.False(_device.IsNoticeWanted());
        // Another start knows nothing of it.
        _driver.RequestCalls(true);
        Use();
        _device.Show();
        var state = _device.State;
        _device.Stop();
        Assert.True(_device.TryStart(_driver.Layout, _space.Dma.Port, state, out _));
        Assert.Equal(0, _device.Untold);
        Assert.False(_device.Publish());
    }

    [Theory]
    [InlineData(false, false)]
    [InlineData(true, false)]
    [InlineData(false, true)]
    [InlineData(true, true)]
    public void Ring_is_untold_whole_when_all_its_descriptors_are(bool packed, bool inOrder)
    {
        Start(packed, eventIndex: true, inOrder);
        for (var round = 0; round < 40; round++)
        {
            for (var slots = 2; slots <= Size; slots += 2)
            {
                Use(buffers: 2);
                _device.Show();
                Assert.Equal(slots, _device.Untold);
            }

            _device.IsNoticeWanted();
            Assert.Equal(0, _device.Untold);
            while (_driver.TryTakeUsed(out _, out _, out _))
            {
            }
        }
    }

    [Theory]
    [InlineData(false, false)]
    [InlineData(true, false)]
    [InlineData(false, true)]
    [InlineData(true, true)]
    public void Device_that_looks_sees_what_its_driver_shows_and_one_that_slept_before_it_is_kicked_by_what_comes_last(bool packed, bool eventIndex)
    {
        Start(packed, eventIndex);
        for (var round = 0; round < 40; round++)
        {
            Assert.False(_device.EnableKicks());
            Add();
            Assert.False(_device.HasAvailable());
            _driver.Show();
            Take();
            Add();
            _driver.Show();
            Add();
            // It waited for the first of the three.
            Assert.True(_driver.Publish());
            Take();
            Take();
            // Nothing is new, and nothing is kicked for twice.
            Assert.False(_device.HasAvailable());
            _driver.Show();
            Assert.Equal(!eventIndex, _driver.Publish());
            _device.Show();
            for (var i = 0; i < 3; i++)
                Assert.True(_driver.TryTakeUsed(out _, out _, out _));
        }
    }

    private void Add() => Assert.True(_driver.Add([new DriverBuffer(new Iova(Base + 0x4000), 16, false)]) >= 0);

    private void Take()
    {
        Assert.True(_device.TryTake(_chain, out _));
        _device.Complete(_chain, 0);
    }

    private void Use(int buffers = 1)
    {
        Assert.True(_driver.Add(Enumerable.Repeat(new DriverBuffer(new Iova(Base + 0x4000), 16, false), buffers).ToArray()) >= 0);
        _driver.Publish();
        Assert.True(_device.TryTake(_chain, out _));
        _device.Complete(_chain, 0);
    }

    private void Start(bool packed, bool eventIndex, bool inOrder = false)
    {
        _driver = RingForm.NewDriver(packed, _space.Memory, Base, Size, eventIndex, inOrder: inOrder);
        _device = RingForm.NewDevice(packed);
        Assert.True(_device.TryStart(_driver.Layout, _space.Dma.Port, QueueState.Beginning(packed), out _));
    }
}
