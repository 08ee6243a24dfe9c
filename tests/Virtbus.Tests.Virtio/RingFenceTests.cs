using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Virtio.Rings;

namespace Virtbus.Tests.Virtio;

/// <summary>
/// Both sides of a ring on two threads that meet where each says what it did and asks what the other wants (VIRTIO 1.2, 2.7.10). That a missing fence shows
/// here is shown by two words that have none between them.
/// </summary>
public sealed class RingFenceTests : IDisposable
{
    private const ulong Base = 0x10000;
    private const ulong Buffer = 0x4000;
    private const int Rounds = 400_000;
    private const int LeastRounds = 1000;
    // Of them in which one side slept and was woken, and in which it did not sleep: only where both come the two have met.
    private const int LeastOfEach = 3;
    // Looks at the other side before a turn is given away, on a host that has no processor for each.
    private const int Looks = 2000;
    private readonly RingSpace _space = new(Base, 0x8000);
    private DeviceRing _device = new SplitDeviceRing();
    private readonly DescriptorChain _chain = new(8);
    private int _begun;
    private int _ended;
    private bool _isWanted;
    private int _mine;
    private int _others;

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
        Assert.Equal(0, Meet(
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
            () => Assert.True(driver.TryTakeUsed(out _, out _, out _))));
    }

    [Theory]
    [InlineData(false, false)]
    [InlineData(false, true)]
    [InlineData(true, false)]
    [InlineData(true, true)]
    public void Device_that_goes_to_sleep_and_driver_that_makes_available_do_not_miss_each_other(bool packed, bool eventIndex)
    {
        var driver = Start(packed, eventIndex);
        Assert.Equal(0, Meet(
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
            isSleeperOther: true));
    }

    [Fact]
    public void Two_sides_without_a_fence_are_seen_to_miss_each_other()
    {
        Assert.SkipWhen(Environment.ProcessorCount == 1, "Sides that take turns on one processor never miss each other.");
        var lost = Meet(
            pause =>
            {
                Spin(pause);
                Volatile.Write(ref _mine, 1);
                return Volatile.Read(ref _others) == 0;
            },
            pause =>
            {
                Spin(pause);
                Volatile.Write(ref _others, 1);
                return Volatile.Read(ref _mine) != 0;
            },
            () => _mine = _others = 0,
            static () => { },
            untilLost: true);
        Assert.Equal(1, lost);
    }

    private DriverRing Start(bool packed, bool eventIndex)
    {
        var driver = RingForm.NewDriver(packed, _space.Memory, Base, 16, eventIndex);
        _device = RingForm.NewDevice(packed);
        Assert.True(_device.TryStart(driver.Layout, _space.Dma.Port, QueueState.Beginning(packed), out _));
        return driver;
    }

    // In each round one side goes to sleep and the other one does something: who sleeps is woken. As many rounds as there are in two seconds, and on from there
    // until the two have met often enough; or until one was lost.
    private int Meet(Func<int, bool> mine, Func<int, bool> other, Action before, Action after, bool isSleeperOther = false, bool untilLost = false)
    {
        var thread = new Thread(() =>
        {
            var draw = new Random(1);
            for (var round = 1; ; round++)
            {
                Await(ref _begun, round);
                if (_begun == int.MaxValue)
                    return;
                _isWanted = other(draw.Next(64));
                Volatile.Write(ref _ended, round);
            }
        })
        { IsBackground = true };
        thread.Start();
        var start = Environment.TickCount64;
        var draw = new Random(2);
        var (lost, slept, stayed) = (0, 0, 0);
        for (var round = 1; GoesOn(round); round++)
        {
            Assert.True(Environment.TickCount64 - start < Deadline.Limit.TotalMilliseconds, $"The two met in {round} rounds: {slept} slept and were woken, {stayed} did not sleep, {lost} were lost.");
            before();
            Volatile.Write(ref _begun, round);
            // Longer at most than the other one's, which begins later.
            var answer = mine(draw.Next(256));
            Await(ref _ended, round);
            var (sleeps, woken) = isSleeperOther ? (_isWanted, answer) : (answer, _isWanted);
            if (!sleeps)
                stayed++;
            else if (woken)
                slept++;
            else
                lost++;
            after();
        }

        Volatile.Write(ref _begun, int.MaxValue);
        thread.Join();
        return lost;

        bool GoesOn(int round) => untilLost
            ? lost == 0
            : round <= LeastRounds || slept < LeastOfEach || stayed < LeastOfEach || (round <= Rounds && Environment.TickCount64 - start < 2000);
    }

    private static void Await(ref int word, int value)
    {
        for (var looks = 0; Volatile.Read(ref word) < value; looks++)
        {
            if (looks < Looks)
                Thread.SpinWait(1);
            else
                Thread.Yield();
        }
    }

    private static void Spin(int count)
    {
        for (var i = 0; i < count; i++)
            Volatile.Read(ref count);
    }
}
