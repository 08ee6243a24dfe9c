using Virtbus.Block;
using Virtbus.Hardware.VirtioPci;
using Virtbus.Models.VirtioBlk;
using Virtbus.Models.VirtioConsole;
using Virtbus.Pci;
using Virtbus.Platform;
using Virtbus.Virtio;
using static Virtbus.Virtio.VirtioCommonConfig;

namespace Virtbus.Tests.Hardware.Virtio;

/// <summary>The state of a virtio function moves to another one, in the middle of a driver's work.</summary>
public sealed class VirtioStateTests
{
    [Fact]
    public void Driver_goes_on_with_the_other_function()
    {
        using var medium = new MemoryBackend(1 << 20);
        using var one = Disk(medium);
        one.EnableMsix(3);
        one.Registers.WriteUInt16(config_msix_vector, 0);
        one.Start(vectors: static queue => (ushort)(queue + 1));
        for (var i = 0; i < 20; i++)
            VirtioFunctionTests.ReadSector(one, 1, (ulong)(i % 8), out _);
        one.Driver.Select(1);
        one.Registers.WriteUInt32(device_feature_select, 1);
        Assert.True(one.Function.TryPause(out _));
        var state = Save(one.Function);
        var before = one.Bar(4, 0, 64);
        // The memory moves with the guest.
        using var two = Disk(medium);
        var bytes = new byte[FunctionSlot.MemorySize];
        one.Slot.Memory.Read(0, bytes);
        two.Slot.Memory.Write(0, bytes);
        two.EnableMsix(3);
        Assert.True(two.Function.TryPause(out _));
        Restore(two.Function, state);
        Assert.Equal(before, two.Bar(4, 0, 64));
        two.Function.Resume();
        // An interrupt that got lost comes.
        Deadline.Until(() => two.Slot.Messages.Contains((0xFEE00000, 0xA2u)), "the message of the queue");
        foreach (var buffer in VirtioFunctionTests.Header(two, 1, 5))
            Assert.NotEqual(0u, buffer.Length);
        two.Driver.Select(1);
        Assert.True(two.Driver.IsEnabled);
        Assert.Equal(2, two.Registers.ReadUInt16(queue_msix_vector));
        // The next buffer by hand: the ring's writer is of the other card.
        one.Rings[1].Add(VirtioFunctionTests.Header(one, 1, 6));
        one.Rings[1].Publish();
        one.Slot.Memory.Read(0, bytes);
        two.Slot.Memory.Write(0, bytes);
        two.Registers.Notify(1);
        var sector = new byte[512];
        Deadline.Until(
            () =>
            {
                two.Slot.Memory.Read(0x19200, sector);
                return sector.AsSpan().SequenceEqual(VirtioFunctionTests.Sector(null!, 6));
            },
            "the sector");
    }

    [Fact]
    public void State_of_what_runs_is_refused_and_so_is_one_that_no_such_function_has()
    {
        using var medium = new MemoryBackend(1 << 20);
        using var card = Disk(medium);
        Assert.False(card.Function.TrySave(new StateWriter(), out var fault));
        Assert.Equal(Errno.EBUSY, fault.Errno);
        Assert.True(card.Function.TryPause(out _));
        var state = Save(card.Function);
        using var console = new VirtioCard(new VirtioConsoleDevice("console"));
        Assert.True(console.Function.TryPause(out _));
        Assert.True(StateReader.TryRead(state, 1 << 20, out var reader, out _));
        Assert.False(console.Function.TryRestore(reader, out fault));
        Assert.Equal(Errno.EINVAL, fault.Errno);
        var refused = 0;
        var random = new Random(3);
        for (var i = 0; i < 3000; i++)
        {
            var wrong = (byte[])state.Clone();
            wrong[random.Next(wrong.Length)] ^= (byte)(1 << random.Next(8));
            if (!StateReader.TryRead(wrong, 1 << 20, out reader, out _) || !card.Function.TryRestore(reader, out _))
                refused++;
        }

        Assert.InRange(refused, 500, 3000);
        Restore(card.Function, state);
        card.Function.Resume();
        card.Start();
        VirtioFunctionTests.ReadSector(card, 0, 1, out var bytes);
        Assert.Equal(VirtioFunctionTests.Sector(null!, 1), bytes);
    }

    [Fact]
    public void What_a_driver_asks_of_a_paused_function_is_done_when_it_goes_on()
    {
        using var medium = new MemoryBackend(1 << 20);
        using var card = Disk(medium);
        card.Start(VirtioFeatures.Of(VirtioFeatures.VIRTIO_F_EVENT_IDX));
        Assert.True(card.Function.TryPause(out _));
        card.Rings[0].Add(VirtioFunctionTests.Header(card, 0, 2));
        card.Rings[0].Publish();
        card.Registers.Notify(0);
        Assert.False(card.Rings[0].TryTakeUsed(out _, out _, out _));
        Assert.False(card.Slot.Line);
        card.Function.Resume();
        card.Await(0);
    }

    [Fact]
    public void Pages_of_an_old_driver_move_too()
    {
        using var medium = new MemoryBackend(1 << 20);
        using var one = Disk(medium, isTransitional: true);
        one.Function.WriteBar(0, 8, [1, 0, 16, 0]);
        one.Function.WriteBar(0, 18, [3]);
        Assert.True(one.Function.TryPause(out _));
        using var two = Disk(medium, isTransitional: true);
        Assert.True(two.Function.TryPause(out _));
        Restore(two.Function, Save(one.Function));
        Assert.Equal(one.Bar(0, 0, 20), two.Bar(0, 0, 20));
        // A modern one is another function.
        using var modern = Disk(medium);
        Assert.True(modern.Function.TryPause(out _));
        Assert.True(StateReader.TryRead(Save(one.Function), 1 << 20, out var reader, out _));
        Assert.False(modern.Function.TryRestore(reader, out _));
    }

    private static VirtioCard Disk(MemoryBackend medium, bool isTransitional = false)
    {
        var device = new VirtioBlkDevice("disk", medium, "serial", queueCount: 2);
        using (var user = new VirtioBlkUser(device))
        {
            for (var sector = 0; sector < 8; sector++)
                Assert.Equal(0, user.Write((ulong)sector, VirtioFunctionTests.Sector(null!, sector)));
        }

        return new VirtioCard(device, new VirtioFunctionOptions { IsTransitional = isTransitional });
    }

    private static byte[] Save(IMovableState function)
    {
        var writer = new StateWriter();
        Assert.True(function.TrySave(writer, out var fault), fault.Message);
        return writer.ToArray();
    }

    private static void Restore(IMovableState function, byte[] state)
    {
        Assert.True(StateReader.TryRead(state, 1 << 20, out var reader, out _));
        Assert.True(function.TryRestore(reader, out var fault), fault.Message);
    }
}
