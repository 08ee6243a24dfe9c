using Virtbus.Hardware.VirtioPci;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Models.VirtioRng;
using Virtbus.Pci;
using Virtbus.Platform;
using Virtbus.Virtio;
using Virtbus.Virtio.Rings;
using static Virtbus.Virtio.VirtioCommonConfig;
using static Virtbus.Virtio.VirtioStatus;

namespace Virtbus.Tests.Hardware.Virtio;

/// <summary>A virtio function whose driver's memory is reached by messages. Its VMM answers none while it waits for a register access or an unmap.</summary>
public sealed class VirtioFarMemoryTests
{
    [Fact]
    public void Device_starts_while_the_peer_answers_nothing_and_works_when_it_does()
    {
        using var card = Far(out var memory);
        memory.Hold();
        card.Start();
        Assert.Equal(VirtioCard.Running, card.Driver.Status);
        memory.Release();
        Assert.Equal(16, card.Fill(0, 16).Length);
    }

    [Fact]
    public void Reset_is_answered_at_once_and_is_done_when_the_status_says_so()
    {
        using var card = Far(out var memory);
        card.Start();
        Busy(card, memory);
        card.Registers.Write(device_status, [0]);
        Assert.Equal(VirtioCard.Running, card.Driver.Status);
        // Nothing else is heard meanwhile.
        card.Registers.Write(device_status, [VirtioCard.Running | FAILED]);
        Assert.Equal(VirtioCard.Running, card.Driver.Status);
        Assert.NotEqual(0, memory.Waiting);
        memory.Release();
        Deadline.Until(() => card.Driver.Status == 0, "the end of the reset");
        var calls = memory.Calls;
        Assert.Equal(0, memory.Waiting);
        // What came of the queue meanwhile is nobody's.
        Assert.False(card.Slot.Line);
        Assert.Equal(0, card.Registers.TakeInterrupts());
        Assert.Equal(VirtioFeatures.None, card.Function.Device.DriverFeatures);
        Assert.Equal(calls, memory.Calls);
        card.Start();
        Assert.Equal(16, card.Fill(0, 16).Length);
    }

    [Fact]
    public void What_is_written_during_a_reset_is_not_there_after_it()
    {
        using var card = Far(out var memory);
        card.EnableMsix(2);
        var first = card.Bar(4, 0, VirtioCommonConfig.Size);
        card.Start(vectors: static _ => 1);
        Busy(card, memory);
        card.Registers.Write(device_status, [0]);
        // A driver that does not ask sets its device up.
        card.Registers.WriteUInt32(driver_feature, uint.MaxValue);
        card.Registers.WriteUInt16(config_msix_vector, 0);
        card.Registers.WriteUInt16(queue_msix_vector, 1);
        card.SetUp(0);
        card.Registers.WriteUInt16(queue_enable, 1);
        // Nor by another way than the registers.
        var device = card.Function.Device;
        Assert.False(device.TrySetDriverFeatures(VirtioFeatures.None, out var fault));
        Assert.Equal(Errno.EBUSY, fault.Errno);
        Assert.False(device.TrySetQueueSize(0, 8, out fault));
        Assert.Equal(Errno.EBUSY, fault.Errno);
        Assert.False(device.TrySetQueueAddress(0, default, default, default, out fault));
        Assert.Equal(Errno.EBUSY, fault.Errno);
        Assert.False(device.TrySetQueueState(0, QueueState.Split(3), out fault));
        Assert.Equal(Errno.EBUSY, fault.Errno);
        Assert.False(device.TrySetQueueReady(0, true, out fault));
        Assert.Equal(Errno.EBUSY, fault.Errno);
        Assert.False(device.TrySetConfig(0, [], out fault));
        Assert.Equal(Errno.EBUSY, fault.Errno);
        Assert.True(device.TrySetQueueReady(0, false, out _));
        memory.Release();
        Deadline.Until(() => card.Driver.Status == 0, "the end of the reset");
        card.Driver.Select(0);
        card.Registers.WriteUInt32(driver_feature_select, 0);
        card.Registers.WriteUInt32(device_feature_select, 0);
        Assert.Equal(first, card.Bar(4, 0, VirtioCommonConfig.Size));
        // Whoever is next and enables no queue has none.
        Assert.True(card.Driver.TrySetStatus(ACKNOWLEDGE | DRIVER, out _));
        Assert.True(card.Driver.TrySetDriverFeatures(card.Driver.DeviceFeatures, out _));
        Assert.True(card.Driver.TrySetStatus(ACKNOWLEDGE | DRIVER | FEATURES_OK, out _));
        Assert.True(card.Driver.TrySetStatus(VirtioCard.Running, out _));
        Assert.False(card.Driver.IsEnabled);
        Assert.Equal(default, device.GetQueueState(0));
    }

    [Fact]
    public async Task Function_that_is_to_stand_still_in_the_middle_of_a_reset_is_reset()
    {
        for (var round = 0; round < 20; round++)
        {
            using var card = Far(out var memory);
            card.Start();
            Busy(card, memory);
            card.Registers.Write(device_status, [0]);
            var pause = Task.Run(() => card.Function.TryPause(out _));
            memory.Release();
            Assert.True(await pause.In());
            Assert.Equal(0, card.Driver.Status);
            Assert.False(card.Slot.Line);
            var state = new StateWriter();
            Assert.True(card.Function.TrySave(state, out _));
            using var other = new VirtioCard(new VirtioRngDevice("rng"));
            Assert.True(other.Function.TryPause(out _));
            Assert.True(StateReader.TryRead(state.ToArray(), 1 << 20, out var reader, out _));
            Assert.True(other.Function.TryRestore(reader, out var fault), fault.Message);
            other.Function.Resume();
            other.Start();
            Assert.Equal(16, other.Fill(0, 16).Length);
        }
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task Reset_does_not_wait_for_a_far_buffer_of_a_ring_that_is_here(bool ofQueue)
    {
        using var card = new VirtioCard(new VirtioRngDevice("rng"));
        var memory = new HeldMemory(card.Slot);
        card.Leaving = () => memory.Release();
        card.Slot.Map(FunctionSlot.MemoryAddress + FunctionSlot.MemorySize, memory);
        card.Start();
        memory.Hold();
        card.Offer(0, new DriverBuffer(new Iova(FunctionSlot.MemoryAddress + FunctionSlot.MemorySize + 0x8000), 16, true));
        card.Registers.Notify(0);
        Deadline.Until(() => memory.Waiting > 0, "a message");
        if (ofQueue)
        {
            card.Driver.Select(0);
            await Task.Run(() => card.Registers.WriteUInt16(queue_reset, 1)).In();
            Assert.Equal(1, card.Registers.ReadUInt16(queue_reset));
            memory.Release();
            Deadline.Until(() => card.Registers.ReadUInt16(queue_reset) == 0, "the end of the queue's reset");
        }
        else
        {
            await Task.Run(() => card.Registers.Write(device_status, [0])).In();
            Assert.Equal(VirtioCard.Running, card.Driver.Status);
            memory.Release();
            Deadline.Until(() => card.Driver.Status == 0, "the end of the reset");
        }

        Assert.Equal(0, memory.Waiting);
        card.Start();
        Assert.Equal(16, card.Fill(0, 16).Length);
    }

    [Fact]
    public void Queue_reset_reads_1_until_it_is_done()
    {
        using var card = Far(out var memory);
        card.Start();
        Assert.Equal(16, card.Fill(0, 16).Length);
        Busy(card, memory);
        card.Driver.Select(0);
        card.Registers.WriteUInt16(queue_reset, 1);
        Assert.Equal((1, true), (card.Registers.ReadUInt16(queue_reset), card.Driver.IsEnabled));
        memory.Release();
        Deadline.Until(() => card.Registers.ReadUInt16(queue_reset) == 0, "the end of the queue's reset");
        Assert.False(card.Driver.IsEnabled);
        Assert.Equal(0, memory.Waiting);
        card.Rings[0] = card.SetUp(0);
        Assert.True(card.Driver.TryEnable());
        // From the beginning of the ring.
        Assert.Equal(16, card.Fill(0, 16).Length);
    }

    [Fact]
    public async Task Function_reset_waits_for_what_is_under_way()
    {
        using var card = Far(out var memory);
        card.Start();
        Busy(card, memory);
        card.Registers.Write(device_status, [0]);
        var reset = Task.Run(card.Function.Reset);
        Assert.False(reset.IsCompleted);
        memory.Release();
        await reset.In();
        Assert.Equal((0, 0), (card.Driver.Status, memory.Waiting));
    }

    [Fact]
    public void Unmap_waits_for_no_answer_and_the_queue_goes_on_when_its_ring_is_back()
    {
        using var card = Far(out var memory);
        card.Start();
        for (var round = 0; round < 20; round++)
        {
            Busy(card, memory);
            card.Slot.Unmap();
            Assert.NotEqual(0, memory.Waiting);
            memory.Release();
            card.Slot.Remap(memory);
            card.Await(0);
            Assert.Equal(VirtioCard.Running, card.Driver.Status);
        }
    }

    // The device finds no ring; before it looks where that is, the ring is back, and the notice of it on its way.
    [Fact]
    public async Task Ring_that_comes_back_in_the_moment_in_which_it_is_missed_is_waited_for()
    {
        for (var round = 0; round < 10; round++)
        {
            using var card = Far(out var memory);
            var (slot, dma) = (card.Slot, card.Slot.Dma);
            var space = dma.AddressSpace;
            // Is told before the device is, and keeps the notice.
            var first = new DmaPort("first", dma.Group);
            Assert.True(dma.Group.TryAttach(slot, dma, null, out _));
            Assert.True(dma.Group.TryAttach(slot, first, space, out _));
            Assert.True(dma.Group.TryAttach(slot, dma, space, out _));
            card.Start();
            Assert.Equal(16, card.Fill(0, 16).Length);
            using var isBack = new ManualResetEventSlim();
            using var goOn = new ManualResetEventSlim();
            var seen = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
            Task? remap = null;
            first.SetChangeCallback(change =>
            {
                if (change.Kind != DmaChangeKind.Mapped)
                    return;
                isBack.Set();
                goOn.Wait();
            });
            using var faults = dma.Group.Observe(
                _ =>
                {
                    remap ??= Task.Run(() => slot.Remap(memory));
                    isBack.Wait();
                    seen.TrySetResult();
                },
                null);
            slot.Unmap();
            card.Offer(0, 16);
            card.Registers.Notify(0);
            await seen.Task.In();
            for (var i = 0; i < 2000; i++)
                Thread.Yield();
            goOn.Set();
            await remap!.In();
            var isUsed = false;
            Deadline.Until(
                () => isUsed || (isUsed = card.Rings[0].TryTakeUsed(out _, out _, out _)) || (card.Driver.Status & DEVICE_NEEDS_RESET) != 0, "a used buffer, or the end of the queue");
            Assert.Equal((true, VirtioCard.Running), (isUsed, card.Driver.Status));
        }
    }

    [Fact]
    public void Answer_that_is_given_up_for_an_unmap_is_asked_for_again()
    {
        using var card = Far(out var memory);
        card.Start();
        for (var round = 0; round < 20; round++)
        {
            Busy(card, memory);
            memory.Release(Errno.EAGAIN);
            card.Slot.Unmap();
            card.Slot.Remap(memory);
            card.Await(0);
            Assert.Equal(VirtioCard.Running, card.Driver.Status);
        }
    }

    [Fact]
    public void Ring_that_is_gone_does_not_keep_a_reset()
    {
        using var card = Far(out var memory);
        for (var round = 0; round < 20; round++)
        {
            card.Start();
            Assert.Equal(16, card.Fill(0, 16).Length);
            card.Slot.Unmap();
            card.Registers.Notify(0);
            card.Registers.Write(device_status, [0]);
            Deadline.Until(() => card.Driver.Status == 0, "the end of the reset");
            card.Slot.Remap(memory);
        }
    }

    [Fact]
    public void Function_goes_in_the_middle_of_a_reset_whose_ring_is_gone()
    {
        for (var round = 0; round < 20; round++)
        {
            using var card = Far(out _);
            card.Start();
            Assert.Equal(16, card.Fill(0, 16).Length);
            card.Slot.Unmap();
            card.Registers.Notify(0);
            card.Registers.Write(device_status, [0]);
        }
    }

    [Fact]
    public void Function_that_is_no_bus_master_waits_without_keeping_anybody()
    {
        using var card = Far(out var memory);
        card.Start();
        Busy(card, memory);
        card.SetCommand(PciCommand.PCI_COMMAND_MEMORY);
        Assert.NotEqual(0, memory.Waiting);
        memory.Release();
        Deadline.Until(() => memory.Waiting == 0, "the answer");
        card.SetCommand(PciCommand.PCI_COMMAND_MEMORY | PciCommand.PCI_COMMAND_MASTER);
        card.Await(0);
        Assert.Equal(VirtioCard.Running, card.Driver.Status);
    }

    [Fact]
    public void Peer_that_refuses_what_it_mapped_breaks_the_queue()
    {
        using var card = Far(out var memory);
        card.Start();
        Assert.Equal(16, card.Fill(0, 16).Length);
        memory.Error = Errno.EIO;
        card.Registers.Notify(0);
        Deadline.Until(() => (card.Driver.Status & DEVICE_NEEDS_RESET) != 0, "DEVICE_NEEDS_RESET");
        memory.Error = Errno.None;
        card.Start();
        Assert.Equal(16, card.Fill(0, 16).Length);
    }

    [Fact]
    public void Old_driver_that_does_not_ask_finds_its_device_reset_at_once()
    {
        using var card = Far(out var memory, new VirtioFunctionOptions { IsTransitional = true });
        card.Start();
        Busy(card, memory);
        card.Function.WriteBar(0, 18, [0]);
        Assert.Equal([0], card.Bar(0, 18, 1));
        Assert.Equal(0, card.Driver.Status);
        // What is set up meanwhile begins behind.
        card.Start();
        memory.Release();
        Assert.Equal(16, card.Fill(0, 16).Length);
    }

    private static VirtioCard Far(out HeldMemory memory, VirtioFunctionOptions? options = null)
    {
        var card = new VirtioCard(new VirtioRngDevice("rng"), options);
        var held = memory = new HeldMemory(card.Slot);
        card.Leaving = () => held.Release();
        card.Slot.Unmap();
        card.Slot.Remap(memory);
        return card;
    }

    // A request is under way whose next message is not answered.
    private static void Busy(VirtioCard card, HeldMemory memory)
    {
        memory.Hold();
        card.Offer(0, 16);
        card.Registers.Notify(0);
        Deadline.Until(() => memory.Waiting > 0, "a message");
    }
}
