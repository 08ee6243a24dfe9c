using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Virtio.Rings;

namespace Virtbus.Tests.Virtio;

/// <summary>Both sides of a ring on two threads that meet where each says what it did and asks what the other wants (VIRTIO 1.2, 2.7.10).</summary>
public sealed class RingFenceTests : IDisposable
{
    private const ulong Base = 0x10000;
    private const ulong Buffer = 0x4000;
    private const int Rounds = 400_000;
    private readonly RingSpace _space = new(Base, 0x8000);
    private DeviceRing _device = new SplitDeviceRing();
    private readonly DescriptorChain _chain = new(8);
    private int _begun;
    private int _ended;
    private bool _isWanted;

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
    public void Driver_that_goes_to_sleep_and_device_that_hands_back_do_not_miss_each_other(bool packed, bool eventIndex)
    {
        var driver = Start(packed, eventIndex);
        Meet(
            pause =>
            {
                Spin(pause);
                return !driver.RequestCalls(true);
            },
            pause =>
            {
                _device.TryTake(_chain, out _);
                _device.Complete(_chain, 0);
                Spin(pause);
                return _device.Publish();
            },
            () =>
            {
                driver.RequestCalls(false);
                driver.Add([new DriverBuffer(new Iova(Base + Buffer), 16, false)]);
                driver.Publish();
            },
            () => Assert.True(driver.TryTakeUsed(out _, out _, out _)));
    }

    [Theory]
    [InlineData(false, false)]
    [InlineData(false, true)]
    [InlineData(true, false)]
    [InlineData(true, true)]
    public void Device_that_goes_to_sleep_and_driver_that_makes_available_do_not_miss_each_other(bool packed, bool eventIndex)
    {
        var driver = Start(packed, eventIndex);
        Meet(
            pause =>
            {
                Spin(pause);
                return driver.Publish();
            },
            pause =>
            {
                // It polls before: the index that it looks at last is at hand, and what it says before that is not yet out.
                while (pause-- > 0 && !_device.HasAvailable())
                {
                }

                return !_device.EnableKicks();
            },
            () => driver.Add([new DriverBuffer(new Iova(Base + Buffer), 16, false)]),
            () =>
            {
                _device.DisableKicks();
                Assert.True(_device.TryTake(_chain, out _));
                _device.Complete(_chain, 0);
                _device.Publish();
                Assert.True(driver.TryTakeUsed(out _, out _, out _));
            },
            isSleeperOther: true);
    }

    private DriverRing Start(bool packed, bool eventIndex)
    {
        var driver = RingForm.NewDriver(packed, _space.Memory, Base, 16, eventIndex);
        _device = RingForm.NewDevice(packed);
        Assert.True(_device.TryStart(driver.Layout, _space.Dma.Port, QueueState.Beginning(packed), out _));
        return driver;
    }

    // In each round one side goes to sleep and the other one does something: who sleeps is woken.
    private void Meet(Func<int, bool> mine, Func<int, bool> other, Action before, Action after, bool isSleeperOther = false)
    {
        var thread = new Thread(() =>
        {
            var draw = new Random(1);
            for (var round = 1; round <= Rounds; round++)
            {
                while (Volatile.Read(ref _begun) < round)
                    Thread.SpinWait(1);
                if (_begun == int.MaxValue)
                    return;
                _isWanted = other(draw.Next(64));
                Volatile.Write(ref _ended, round);
            }
        })
        { IsBackground = true };
        thread.Start();
        var end = Environment.TickCount64 + 2000;
        var mineDraw = new Random(2);
        var lost = 0;
        for (var round = 1; round <= Rounds && Environment.TickCount64 < end; round++)
        {
            before();
            Volatile.Write(ref _begun, round);
            // Longer at most than the other one's, which begins later.
            var answer = mine(mineDraw.Next(256));
            while (Volatile.Read(ref _ended) < round)
                Thread.SpinWait(1);
            var (sleeps, woken) = isSleeperOther ? (_isWanted, answer) : (answer, _isWanted);
            if (sleeps && !woken)
                lost++;
            after();
        }

        Volatile.Write(ref _begun, int.MaxValue);
        thread.Join();
        Assert.Equal(0, lost);
    }

    private static void Spin(int count)
    {
        for (var i = 0; i < count; i++)
            Volatile.Read(ref count);
    }
}
