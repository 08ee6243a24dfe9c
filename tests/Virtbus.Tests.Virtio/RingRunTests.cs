using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;
using Virtbus.Virtio.Rings;

namespace Virtbus.Tests.Virtio;

/// <summary>What the short way leaves to the long one, which alone says what is wrong with it.</summary>
public sealed class RingRunTests : IDisposable
{
    private const ulong Base = 0x10_0000;
    private const ulong Data = 0x8000;
    private const int Size = 8;
    private readonly RingSpace _space = new(Base, 0x1_0000);
    private readonly RingRun[] _runs = new RingRun[Size];

    public void Dispose() => _space.Dispose();

    private (DriverRing Driver, DeviceRing Device) Start(bool packed, bool inOrder = false, bool indirect = false)
    {
        var driver = RingForm.NewDriver(packed, _space.Memory, Base, Size, eventIndex: true, indirect: indirect, inOrder: inOrder);
        var device = RingForm.NewDevice(packed);
        Assert.True(device.TryStart(driver.Layout, _space.Dma.Port, QueueState.Beginning(packed), out var fault), fault.Message);
        return (driver, device);
    }

    private static DriverBuffer At(ulong address, uint length, bool writable) => new(new Iova(Base + address), length, writable);

    private int Take(DeviceRing device, bool writable)
    {
        var count = device.TakeRuns(_runs, writable, out var stay);
        device.PutBackRuns(count);
        stay.Leave();
        return count;
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Buffers_are_taken_up_to_the_first_of_another_kind(bool packed)
    {
        var (driver, device) = Start(packed, indirect: true);
        RingForm.WriteTable(packed, _space.Memory, 0x7000, [At(Data, 16, false)]);
        driver.Add([At(Data, 16, false)]);
        driver.Add([At(Data + 16, 1, false)]);
        driver.AddIndirect(new Iova(Base + 0x7000), 16);
        driver.Add([At(Data, 16, false)]);
        Assert.Equal(0, Take(device, writable: false));
        driver.Publish();
        Assert.Equal(2, Take(device, writable: false));
        Assert.Equal(0, Take(device, writable: true));
        // They come again, as all were put back; the long way has them all.
        var count = device.TakeRuns(_runs, isWritable: false, out var stay);
        device.CompleteRun(_runs[0], 0);
        device.PutBackRuns(count - 1);
        stay.Leave();
        Assert.Equal(2, count);
        DescriptorChain[] chains = [new(4), new(4), new(4), new(4)];
        Assert.Equal(3, device.Take(chains, out var fault));
        Assert.Equal(Fault.None, fault);
        Assert.Equal([1u, 16u, 16u], chains.Take(3).Select(static c => c.ReadableLength));
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Chain_is_left(bool packed)
    {
        var (driver, device) = Start(packed);
        driver.Add([At(Data, 16, true), At(Data + 16, 16, true)]);
        driver.Publish();
        Assert.Equal(0, Take(device, writable: true));
        Assert.True(device.TryTake(new DescriptorChain(2), out _));
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void In_order_those_that_are_out_come_first(bool packed)
    {
        var (driver, device) = Start(packed, inOrder: true);
        driver.Add([At(Data, 16, true)]);
        driver.Add([At(Data, 16, true)]);
        driver.Publish();
        var chain = new DescriptorChain(1);
        Assert.True(device.TryTake(chain, out _));
        Assert.Equal(0, Take(device, writable: true));
        device.Complete(chain, 16);
        Assert.Equal(1, Take(device, writable: true));
    }

    [Theory]
    [InlineData(false, 0x2_0000, 4u)]
    [InlineData(false, 0xFFF0, 32u)]
    [InlineData(false, 0x8000, 0u)]
    [InlineData(true, 0x2_0000, 4u)]
    [InlineData(true, 0xFFF0, 32u)]
    [InlineData(true, 0x8000, 0u)]
    public void What_is_wrong_is_left_and_told_by_the_long_way(bool packed, ulong address, uint length)
    {
        var (driver, device) = Start(packed);
        driver.Add([At(address, length, false)]);
        driver.Publish();
        Assert.Equal(0, Take(device, writable: false));
        Assert.Equal(0, _space.Dma.Port.Faults);
        Assert.False(device.TryTake(new DescriptorChain(1), out var fault));
        Assert.NotEqual(Fault.None, fault);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void While_writes_are_logged_those_that_are_written_are_left(bool packed)
    {
        var (driver, device) = Start(packed);
        driver.Add([At(Data, 16, true)]);
        driver.Publish();
        Assert.True(DirtyLog.TryCreate(DirtyLog.MinPageSize, [new IovaRange(new Iova(Base), 0x1_0000)], out var log, out _));
        Assert.True(_space.Dma.Port.TryStartLog(log!, out _));
        Assert.Equal(0, Take(device, writable: true));
        _space.Dma.Port.StopLog();
        Assert.Equal(1, Take(device, writable: true));
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task Memory_does_not_go_before_the_stay_has_ended(bool packed)
    {
        var (driver, device) = Start(packed);
        driver.Add([At(Data, 16, true)]);
        driver.Publish();
        var count = device.TakeRuns(_runs, isWritable: true, out var stay);
        using var begins = new ManualResetEventSlim();
        var off = Task.Factory.StartNew(
            () =>
            {
                begins.Set();
                _space.Dma.Port.IsBusMaster = false;
            },
            TestContext.Current.CancellationToken, TaskCreationOptions.LongRunning, TaskScheduler.Default);
        begins.Wait(TestContext.Current.CancellationToken);
        // It is off for all, and waits for this stay alone.
        while (_space.Dma.Port.IsBusMaster)
            Thread.Yield();
        var isOver = off.IsCompleted;
        device.CompleteRun(_runs[0], 16);
        stay.Leave();
        await off.In();
        Assert.Equal(1, count);
        Assert.False(isOver);
        Assert.Equal(0, Take(device, writable: true));
    }
}
