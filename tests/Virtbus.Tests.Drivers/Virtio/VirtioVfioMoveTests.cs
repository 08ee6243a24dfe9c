using Virtbus.Platform;
using Virtbus.Subsystems.Vfio;

namespace Virtbus.Tests.Drivers.Virtio;

/// <summary>A function that an old driver uses moves from one fabric to another, with its memory and what is in its rings.</summary>
public sealed class VirtioVfioMoveTests
{
    [Fact]
    public async Task Old_driver_goes_on_where_it_was_on_the_function_of_another_machine()
    {
        await using var first = await VirtioVfioMachine.StartAsync();
        await using var second = await VirtioVfioMachine.StartAsync();
        Assert.Equal("virtio-vfio-pci-trans-lm\n", first.Rig.Base.Read(first.Function.DevPath + "/virtio_vfio_ops"));
        using var from = VfioPciWorld.Open(first.Function);
        using var to = VfioPciWorld.Open(second.Function);
        using var user = new OldNetUser(from);
        user.Start();
        for (var i = 0; i < 5; i++)
            user.Offer();
        for (byte i = 0; i < 3; i++)
        {
            var frame = VirtioNetTests.Frame(VirtioVfioMachine.Here, VirtioVfioMachine.There, 100 + i, i);
            user.Send(frame);
            await user.SentAsync();
            await Deadline.UntilAsync(() => first.Seen.Count > i, "the frame");
            Assert.Equal(frame, first.Seen.Last());
            await CheckReceivedAsync(first, user, i);
        }

        var ports = user.Ports;
        var data = Save(from, user, first);
        user.Attach(to);
        Assert.True(to.Handle.Migration!.TrySetState(VfioMigrationState.Resuming, out var into, out var fault), fault.Message);
        foreach (var part in data.Chunk(100))
            Assert.True(into!.TryWrite(part, out fault), fault.Message);
        Assert.True(to.Handle.Migration.TrySetState(VfioMigrationState.Running, out _, out fault), fault.Message);
        Assert.Equal(ports, user.Ports);
        // What it was given before it moved, and what it is given now.
        await user.SentAsync();
        await Deadline.UntilAsync(() => !second.Seen.IsEmpty, "the frame that moved");
        Assert.Equal(77, second.Seen.Last()[^1]);
        await CheckReceivedAsync(second, user, 50);
        user.Send(VirtioNetTests.Frame(VirtioVfioMachine.Here, VirtioVfioMachine.There, 1000, 51));
        await user.SentAsync();
        await Deadline.UntilAsync(() => second.Seen.Count == 2, "a frame from the new place");
        await CheckReceivedAsync(second, user, 52);
        Assert.Equal(3, first.Seen.Count);
    }

    [Fact]
    public async Task State_that_is_not_such_a_function_s_is_refused_and_the_target_serves_the_next()
    {
        await using var host = await VirtioVfioMachine.StartAsync();
        using var user = VfioPciWorld.Open(host.Function);
        using var driver = new OldNetUser(user);
        driver.Start();
        Assert.True(user.Handle.Migration!.TrySetState(VfioMigrationState.StopCopy, out var stream, out _));
        var data = new byte[1 << 16];
        Assert.True(stream!.TryRead(data, out var length, out _));
        Assert.InRange(length, VfioRecordWriter.HeaderSize + 1, data.Length - 1);
        Assert.Equal((ulong)length, user.Handle.Migration.DataSize);
        // Another length of a part, inside of the record.
        data[VfioRecordWriter.HeaderSize + 12] ^= 1;
        Assert.True(user.Handle.Migration.TrySetState(VfioMigrationState.Resuming, out var into, out _));
        Assert.False(into!.TryWrite(data.AsSpan(0, length), out var fault));
        Assert.Equal(Errno.EINVAL, fault.Errno);
        Assert.True(user.Handle.TryReset(out fault), fault.Message);
        Assert.Equal(VfioMigrationState.Running, user.Handle.Migration.State);
        using var again = new OldNetUser(user);
        again.Start();
        again.Send(VirtioNetTests.Frame(VirtioVfioMachine.Here, VirtioVfioMachine.There, 60, 1));
        await again.SentAsync();
        await Deadline.UntilAsync(() => !host.Seen.IsEmpty, "a frame");
    }

    // With a frame that was given to it while it stood still.
    private static byte[] Save(PciUser from, OldNetUser user, VirtioVfioMachine machine)
    {
        Assert.True(from.Handle.Migration!.TrySetState(VfioMigrationState.Stop, out _, out var fault), fault.Message);
        user.Send(VirtioNetTests.Frame(VirtioVfioMachine.Here, VirtioVfioMachine.There, 61, 77));
        Assert.True(machine.Local.TryTransmit(VirtioNetTests.Frame(VirtioVfioMachine.There, VirtioVfioMachine.Here, 62, 78), out fault), fault.Message);
        Assert.True(from.Handle.Migration.TrySetState(VfioMigrationState.StopCopy, out var stream, out fault), fault.Message);
        var data = new List<byte>();
        var buffer = new byte[333];
        while (stream!.TryRead(buffer, out var count, out fault) && count > 0)
            data.AddRange(buffer.AsSpan(0, count));
        Assert.Equal((0, 0), (user.Done(sent: true), user.Done(sent: false)));
        return [.. data];
    }

    private static async Task CheckReceivedAsync(VirtioVfioMachine machine, OldNetUser user, byte value)
    {
        var frame = VirtioNetTests.Frame(VirtioVfioMachine.There, VirtioVfioMachine.Here, 200 + value, value);
        await VirtioNetTests.SendAsync(machine.Local, frame);
        Assert.Equal(frame, await user.ReceiveAsync());
    }
}
