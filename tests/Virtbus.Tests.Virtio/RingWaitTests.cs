using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Virtio.Rings;

namespace Virtbus.Tests.Virtio;

/// <summary>A device that needs more buffers than there are sleeps until there is one more, and finds all of them then.</summary>
public sealed class RingWaitTests : IDisposable
{
    private const ulong Base = 0x10000;
    private readonly RingSpace _space = new(Base, 0x10000);
    private readonly DescriptorChain[] _chains = [.. Enumerable.Range(0, 8).Select(_ => new DescriptorChain(16))];

    public void Dispose() => _space.Dispose();

    [Theory]
    [InlineData(false, false)]
    [InlineData(false, true)]
    [InlineData(true, false)]
    [InlineData(true, true)]
    public void Buffers_that_are_too_few_are_no_reason_to_look_again_and_the_next_one_is(bool packed, bool eventIndex)
    {
        var driver = RingForm.NewDriver(packed, _space.Memory, Base, 8, eventIndex);
        var device = RingForm.NewDevice(packed);
        Assert.True(device.TryStart(driver.Layout, _space.Dma.Port, QueueState.Beginning(packed), out var fault), fault.Message);
        for (var round = 0; round < 20; round++)
        {
            device.DisableKicks();
            Add(driver, 3);
            driver.Publish();
            Assert.Equal(3, TakeAll(device));
            device.PutBackUntilMore(_chains.AsSpan(0, 3));
            Assert.True(device.HasAvailable());
            Assert.False(device.EnableKicks());
            Add(driver, 1);
            Assert.True(driver.Publish());
            Assert.True(device.EnableKicks());
            Assert.Equal(4, TakeAll(device));
            // Put back for another reason they are one.
            device.PutBack(_chains.AsSpan(0, 4));
            Assert.True(device.EnableKicks());
            Assert.Equal(4, TakeAll(device));
            foreach (var chain in _chains.AsSpan(0, 4))
                device.Complete(chain, 1);
            device.Publish();
            for (var i = 0; i < 4; i++)
                Assert.True(driver.TryTakeUsed(out _, out _, out _));
            Assert.False(device.EnableKicks());
        }
    }

    private int TakeAll(DeviceRing device)
    {
        var taken = 0;
        while (device.Take(_chains.AsSpan(taken), out _) is var more and > 0)
            taken += more;
        return taken;
    }

    private static void Add(DriverRing driver, int count)
    {
        for (var i = 0; i < count; i++)
            Assert.True(driver.Add([new DriverBuffer(new Iova(Base + 0x8000), 1, true)]) >= 0);
    }
}
