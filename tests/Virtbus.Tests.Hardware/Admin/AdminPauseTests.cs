using Virtbus.Memory;
using Virtbus.Platform;
using Virtbus.Tests.Hardware.Virtio;
using Virtbus.Virtio;
using static Virtbus.Virtio.VirtioStatus;

namespace Virtbus.Tests.Hardware.Admin;

/// <summary>A device that is to stand still for a command while other things happen to it.</summary>
public sealed class AdminPauseTests : IDisposable
{
    private readonly FunctionSlot _slot = new();

    public void Dispose() => _slot.Dispose();

    [Fact]
    public async Task Device_that_goes_meanwhile_is_an_answer_and_no_bug()
    {
        var held = new HeldMemory(_slot);
        _slot.Unmap();
        _slot.Remap(held);
        // Only then the queue ends: behind the call that has the device go, which keeps all others out.
        using var device = new NewDevice(disposing: () => held.Release());
        Start(device);
        held.Hold();
        device.KickQueue(0);
        Deadline.Until(() => held.Waiting > 0, "a message");
        var pause = Task.Run(() => device.TryPause(TimeSpan.FromHours(1), out var fault) ? Errno.None : fault.Errno);
        Deadline.Until(() => device.IsQueueEnding(0), "a queue that is to stop");
        await Task.Run(device.Dispose).In();
        Assert.Equal(Errno.ENODEV, await pause.In());
    }

    // Who disables a queue may take its memory away afterwards.
    [Fact]
    public void Queue_that_is_disabled_behind_a_pause_in_vain_has_nothing_in_work()
    {
        using var open = new ManualResetEventSlim(true);
        using var hangs = new ManualResetEventSlim();
        var isThrough = false;
        using var device = new NewDevice(look: () =>
        {
            if (open.IsSet)
                return;
            hangs.Set();
            open.Wait();
            Volatile.Write(ref isThrough, true);
        });
        Start(device);
        open.Reset();
        device.KickQueue(0);
        Deadline.Until(() => hangs.IsSet, "a look at the ring");
        Assert.False(device.TryPause(TimeSpan.FromMilliseconds(1), out var fault));
        Assert.Equal(Errno.EAGAIN, fault.Errno);
        var wasThrough = false;
        var driver = new Thread(() =>
        {
            device.TrySetQueueReady(0, false, out _);
            wasThrough = Volatile.Read(ref isThrough);
        });
        driver.Start();
        Deadline.Until(() => !driver.IsAlive || driver.ThreadState.HasFlag(ThreadState.WaitSleepJoin), "the driver that waits");
        open.Set();
        driver.Join();
        Assert.True(wasThrough);
    }

    private void Start(NewDevice device)
    {
        device.SetDma(_slot.Dma);
        foreach (var status in (ReadOnlySpan<byte>)[ACKNOWLEDGE, ACKNOWLEDGE | DRIVER])
            Assert.True(device.TrySetStatus(status, out _));
        Assert.True(device.TrySetDriverFeatures(device.DeviceFeatures, out _));
        Assert.True(device.TrySetStatus(ACKNOWLEDGE | DRIVER | FEATURES_OK, out _));
        Assert.True(device.TrySetQueueSize(0, 16, out _));
        Assert.True(device.TrySetQueueAddress(0, At(0), At(0x1000), At(0x2000), out _));
        Assert.True(device.TrySetQueueReady(0, true, out _));
        Assert.True(device.TrySetStatus(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK, out _));
    }

    private static Iova At(ulong offset) => new(FunctionSlot.MemoryAddress + offset);
}
