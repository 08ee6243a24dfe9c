using Virtbus.Block;
using Virtbus.Ethernet;
using Virtbus.Hardware.VirtioPci;
using Virtbus.Memory;
using Virtbus.Models.VirtioBlk;
using Virtbus.Models.VirtioConsole;
using Virtbus.Models.VirtioNet;
using Virtbus.Models.VirtioRng;
using Virtbus.Platform;
using Virtbus.Virtio;
using Virtbus.Virtio.Rings;
using static Virtbus.Virtio.VirtioCommonConfig;
using static Virtbus.Virtio.VirtioStatus;

namespace Virtbus.Tests.Hardware.Virtio;

/// <summary>A driver suspends a virtio function, of whatever type, and finds it as it left it (VIRTIO 1.4, 3.4).</summary>
public sealed class VirtioFunctionSuspendTests : IDisposable
{
    private const byte Suspended = ACKNOWLEDGE | DRIVER | FEATURES_OK | SUSPEND;
    private const ulong Data = FunctionSlot.MemoryAddress + 0x10000;
    private readonly MemoryBackend _medium = new(1 << 20);
    private readonly EthernetSwitch _network = new();

    public void Dispose() => _medium.Dispose();

    [Theory]
    [InlineData("blk", 0)]
    [InlineData("rng", 0)]
    [InlineData("console", 1)]
    [InlineData("net", 1)]
    public void Every_type_stands_still_and_goes_on_with_what_came_meanwhile(string type, int queue)
    {
        using var card = new VirtioCard(Device(type));
        card.EnableMsix(3);
        card.Registers.WriteUInt16(config_msix_vector, 0);
        card.Start(VirtioFeatures.Of(VirtioFeatures.VIRTIO_F_EVENT_IDX), static queue => (ushort)Math.Min(queue + 1, 2));
        Assert.True(card.Features.Has(VirtioFeatures.VIRTIO_F_SUSPEND));
        for (var round = 0; round < 5; round++)
        {
            Request(card, type, queue);
            card.Await(queue);
            Assert.True(card.Driver.TrySuspend(out var fault), fault.Message);
            Assert.Equal(Suspended, card.Driver.Status);
            card.Slot.Messages.Clear();
            Request(card, type, queue);
            card.Registers.Notify(queue);
            Assert.True(card.Driver.TryResume(out fault), fault.Message);
            Assert.Equal(VirtioCard.Running, card.Driver.Status);
            card.Await(queue);
            Deadline.Until(() => !card.Slot.Messages.IsEmpty, "the queue's message");
        }

        // In the middle of it, a reset is one.
        Assert.True(card.Driver.TrySuspend(out _));
        Assert.True(card.Driver.TryReset(out _));
        card.Start(VirtioFeatures.Of(VirtioFeatures.VIRTIO_F_EVENT_IDX));
        Request(card, type, queue);
        card.Await(queue);
    }

    [Fact]
    public void Frame_that_is_held_back_is_told_of_before_the_device_stands_still()
    {
        using var card = new VirtioCard(Device("net"));
        card.EnableMsix(4);
        card.Start(VirtioFeatures.Of(VirtioFeatures.VIRTIO_F_EVENT_IDX), static queue => (ushort)(queue + 1));
        var command = new byte[10];
        (command[0], command[1]) = (6, 0);
        BitConverter.GetBytes(100u).CopyTo(command, 2);
        BitConverter.GetBytes(uint.MaxValue).CopyTo(command, 6);
        card.Slot.Memory.Write(0x10000 + 0x800, command);
        card.Offer(2, new DriverBuffer(new Iova(Data + 0x800), 10, false), new DriverBuffer(new Iova(Data + 0x900), 1, true));
        card.Await(2);
        Request(card, "net", 1);
        card.Await(1);
        Assert.True(card.Driver.TrySuspend(out _));
        Assert.Single(card.Slot.Messages, message => message.Data == 0xA2);
        card.Slot.Messages.Clear();
        Assert.True(card.Driver.TryResume(out _));
        Request(card, "net", 1);
        card.Await(1);
        Assert.True(card.Driver.TrySuspend(out _));
        Assert.Single(card.Slot.Messages);
    }

    [Fact]
    public void Link_that_changes_meanwhile_is_told_of_when_the_device_goes_on_and_frames_of_the_time_are_lost()
    {
        var device = (VirtioNetDevice)Device("net");
        using var card = new VirtioCard(device);
        card.Start();
        Assert.True(card.Driver.TrySuspend(out _));
        var generation = card.Driver.ConfigGeneration;
        var lost = device.Counters.ReceiveLost;
        device.SetLink(false);
        Assert.True(device.Announce());
        device.Port.Sink.Deliver(new EthernetFrame(new byte[60]));
        device.Port.Sink.Flush();
        card.Registers.Write(config_msix_vector, [0, 0]);
        Assert.Equal((1, generation, false, lost + 1), (Link(card), card.Driver.ConfigGeneration, card.Slot.Line, device.Counters.ReceiveLost));
        Assert.Equal(0, card.Registers.TakeInterrupts());
        Assert.Equal(VIRTIO_MSI_NO_VECTOR, card.Registers.ReadUInt16(config_msix_vector));
        Assert.True(card.Driver.TryResume(out _));
        Assert.Equal((VirtioNetConfig.VIRTIO_NET_S_ANNOUNCE, true), (Link(card), card.Slot.Line));
        Assert.Equal(2, card.Registers.TakeInterrupts());
        Assert.NotEqual(generation, card.Driver.ConfigGeneration);
    }

    [Fact]
    public void Peer_that_answers_late_is_not_waited_for_and_the_status_says_when_it_is_done()
    {
        using var card = new VirtioCard(Device("rng"));
        var memory = new HeldMemory(card.Slot);
        card.Leaving = () => memory.Release();
        card.Slot.Unmap();
        card.Slot.Remap(memory);
        card.Start();
        for (var round = 0; round < 5; round++)
        {
            memory.Hold();
            card.Offer(0, 16);
            card.Registers.Notify(0);
            Deadline.Until(() => memory.Waiting > 0, "a message");
            card.Registers.Write(device_status, [VirtioCard.Running | SUSPEND]);
            Assert.Equal(VirtioCard.Running, card.Driver.Status);
            Assert.NotEqual(0, memory.Waiting);
            memory.Release();
            Deadline.Until(() => card.Driver.Status == Suspended, "the end of what is in work");
            var calls = memory.Calls;
            Assert.Equal(0, memory.Waiting);
            card.Registers.Notify(0);
            Assert.True(card.Driver.TryResume(out _));
            Assert.True(memory.Calls >= calls);
            card.Await(0);
        }

        // A reset that comes before it is done is what counts.
        memory.Hold();
        card.Offer(0, 16);
        card.Registers.Notify(0);
        Deadline.Until(() => memory.Waiting > 0, "a message");
        card.Registers.Write(device_status, [VirtioCard.Running | SUSPEND]);
        card.Registers.Write(device_status, [0]);
        memory.Release();
        Deadline.Until(() => card.Driver.Status == 0, "the end of the reset");
        // So is a pause: it waits, and finds the device suspended.
        card.Start();
        memory.Hold();
        card.Offer(0, 16);
        card.Registers.Notify(0);
        Deadline.Until(() => memory.Waiting > 0, "a message");
        card.Registers.Write(device_status, [VirtioCard.Running | SUSPEND]);
        memory.Release();
        Assert.True(card.Function.TryPause(out _));
        Assert.Equal(Suspended, card.Driver.Status);
    }

    [Fact]
    public void Suspended_function_moves_and_what_may_have_got_lost_is_told_when_it_goes_on()
    {
        using var one = new VirtioCard(Device("blk"));
        one.EnableMsix(3);
        one.Start(VirtioFeatures.Of(VirtioFeatures.VIRTIO_F_EVENT_IDX), static queue => (ushort)(queue + 1));
        Assert.Equal(0, VirtioFunctionTests.ReadSector(one, 0, 1, out _));
        Assert.True(one.Driver.TrySuspend(out _));
        Assert.True(one.Function.TryPause(out _));
        var writer = new StateWriter();
        Assert.True(one.Function.TrySave(writer, out var fault), fault.Message);
        using var two = new VirtioCard(Device("blk"));
        var bytes = new byte[FunctionSlot.MemorySize];
        one.Slot.Memory.Read(0, bytes);
        two.Slot.Memory.Write(0, bytes);
        two.EnableMsix(3);
        Assert.True(two.Function.TryPause(out _));
        Assert.True(StateReader.TryRead(writer.ToArray(), 1 << 20, out var reader, out _));
        Assert.True(two.Function.TryRestore(reader, out fault), fault.Message);
        two.Function.Resume();
        Assert.Equal((Suspended, 0), (two.Driver.Status, two.Slot.Messages.Count));
        Assert.True(two.Driver.TryResume(out fault), fault.Message);
        Deadline.Until(() => two.Slot.Messages.Contains((0xFEE00000, 0xA1u)), "the message of the queue");
        two.Rings.AddRange(one.Rings);
        one.Rings[0].Add(VirtioFunctionTests.Header(one, 0, 2));
        one.Rings[0].Publish();
        one.Slot.Memory.Read(0, bytes);
        two.Slot.Memory.Write(0, bytes);
        two.Registers.Notify(0);
        Deadline.Until(() => two.Function.Device.GetQueueCounters(0).Requests == 1, "the request");
    }

    private static int Link(VirtioCard card)
    {
        var status = new byte[2];
        card.Registers.ReadConfig(VirtioNetConfig.StatusOffset, status);
        return status[0];
    }

    private static void Request(VirtioCard card, string type, int queue)
    {
        switch (type)
        {
            case "blk":
                card.Offer(queue, VirtioFunctionTests.Header(card, queue, 3));
                break;
            case "rng":
                card.Offer(queue, 16);
                break;
            default:
                // A frame behind its header, or text.
                card.Offer(queue, new DriverBuffer(new Iova(Data + 0x4000), 100, false));
                break;
        }
    }

    private VirtioDevice Device(string type) => type switch
    {
        "blk" => new VirtioBlkDevice("disk", _medium, "serial"),
        "rng" => new VirtioRngDevice("rng"),
        "console" => new VirtioConsoleDevice("console"),
        _ => new VirtioNetDevice("net", _network, new VirtioNetOptions(0x02_00_00_00_00_0A)),
    };
}
