using System.Buffers.Binary;
using Virtbus.Hardware.Adapter;
using Virtbus.Ethernet;
using Virtbus.Memory;
using Virtbus.Platform;

namespace Virtbus.Tests.Hardware.Adapter;

/// <summary>The registers and queues of docs/adapter-registers.md, of both makes, without any driver.</summary>
public sealed class AdapterFunctionTests
{
    public static TheoryData<bool> Makes => new(true, false);

    [Theory]
    [MemberData(nameof(Makes))]
    public void Registers_say_who_the_adapter_is(bool merlin)
    {
        using var function = AdapterDriver.Make(merlin, vfs: 7, nets: 3, vdpas: 1);
        using var rig = new AdapterDriver(function);
        Assert.Equal(merlin ? 0x1_4E4C524DUL : 0x1_52524148UL, rig.Read(AdapterRegister.Identity));
        Assert.Equal(3UL | 1 << 16, rig.Read(AdapterRegister.Parts));
        Assert.Equal(512UL | 15 << 16 | 512UL << 32, rig.Read(AdapterRegister.Queues));
        Assert.Equal(248UL | 7 << 16, rig.Read(AdapterRegister.Windows));
        Assert.Equal(0x020000000010UL, rig.Read(AdapterRegister.MacAddress));
        Assert.Equal((ulong)AdapterStatus.LinkUp, rig.Read(AdapterRegister.Status));
    }

    [Theory]
    [MemberData(nameof(Makes))]
    public void Read_only_registers_and_holes_swallow_writes(bool merlin)
    {
        using var function = AdapterDriver.Make(merlin);
        using var rig = new AdapterDriver(function);
        foreach (var register in new[] { AdapterRegister.Identity, AdapterRegister.Parts, AdapterRegister.MacAddress, AdapterRegister.Error, AdapterRegister.CommandConsumer })
        {
            var before = rig.Read(register);
            rig.Write(register, ulong.MaxValue);
            Assert.Equal(before, rig.Read(register));
        }
        Span<byte> hole = stackalloc byte[8];
        function.WriteBar(0, 0x7F0, [1, 2, 3, 4, 5, 6, 7, 8]);
        function.ReadBar(0, 0x7F0, hole);
        Assert.Equal(0UL, BinaryPrimitives.ReadUInt64LittleEndian(hole));
    }

    [Fact]
    public void Registers_are_read_in_any_length_and_place()
    {
        using var function = AdapterDriver.Make(merlin: true);
        using var rig = new AdapterDriver(function);
        var whole = new byte[64];
        function.ReadBar(0, 0, whole);
        for (var offset = 0; offset < 16; offset++)
        {
            for (var length = 1; length < 16; length++)
            {
                var part = new byte[length];
                function.ReadBar(0, (ulong)offset, part);
                Assert.Equal(whole[offset..(offset + length)], part);
            }
        }
    }

    [Theory]
    [MemberData(nameof(Makes))]
    public void Copy_moves_bytes_and_answers_by_event_and_interrupt(bool merlin)
    {
        using var function = AdapterDriver.Make(merlin);
        using var rig = new AdapterDriver(function);
        rig.Enable();
        var data = Enumerable.Range(0, 5000).Select(i => (byte)(i * 7)).ToArray();
        rig.WriteMemory(AdapterDriver.Free, data);
        var answer = rig.Do(AdapterOpcode.Copy, 0, AdapterDriver.Free, AdapterDriver.Free + 0x8000, 5000);
        Assert.Equal((Errno.None, 5000UL), (answer.Status, answer.First));
        Assert.Equal(data, rig.ReadMemory(AdapterDriver.Free + 0x8000, 5000));
        rig.WaitInterrupt(0);
        Assert.Equal(1UL, rig.Read(AdapterRegister.CommandConsumer));
    }

    [Theory]
    [MemberData(nameof(Makes))]
    public void Rings_go_round(bool merlin)
    {
        using var function = AdapterDriver.Make(merlin);
        using var rig = new AdapterDriver(function);
        rig.Enable();
        for (var i = 0; i < 200; i++)
            Assert.Equal(Errno.None, rig.Do(AdapterOpcode.Nop).Status);
    }

    public static TheoryData<ushort, uint, ulong[], Errno> WrongCommands => new()
    {
        { 0x7777, 0, [], Errno.EOPNOTSUPP },
        { (ushort)AdapterOpcode.Copy, 0, [AdapterDriver.Free, AdapterDriver.Free, 0], Errno.EINVAL },
        { (ushort)AdapterOpcode.Copy, 0, [AdapterDriver.Free, AdapterDriver.Free, 0x10001], Errno.EINVAL },
        { (ushort)AdapterOpcode.Copy, 0, [0x10, AdapterDriver.Free, 16], Errno.EFAULT },
        { (ushort)AdapterOpcode.Copy, 0, [AdapterDriver.Free, AdapterDriver.Base + AdapterDriver.Size - 8, 16], Errno.EFAULT },
        { (ushort)AdapterOpcode.Copy, 0, [ulong.MaxValue - 4, AdapterDriver.Free, 16], Errno.EFAULT },
        { (ushort)AdapterOpcode.CreateQueueSet, 0, [AdapterDriver.Free + 8, AdapterDriver.Free, AdapterDriver.Free, 0x00010404], Errno.EINVAL },
        { (ushort)AdapterOpcode.CreateQueueSet, 0, [AdapterDriver.Free, AdapterDriver.Free, AdapterDriver.Free + 16, 0x00010404], Errno.EINVAL },
        { (ushort)AdapterOpcode.CreateQueueSet, 0, [AdapterDriver.Free, AdapterDriver.Free, AdapterDriver.Free, 0x00010400], Errno.EINVAL },
        { (ushort)AdapterOpcode.CreateQueueSet, 0, [AdapterDriver.Free, AdapterDriver.Free, AdapterDriver.Free, 0x00011004], Errno.EINVAL },
        { (ushort)AdapterOpcode.CreateQueueSet, 0, [AdapterDriver.Free, AdapterDriver.Free, AdapterDriver.Free, 0x02000404], Errno.EINVAL },
        { (ushort)AdapterOpcode.CreateQueueSet, 0, [AdapterDriver.Free, AdapterDriver.Free, AdapterDriver.Free, 0x1_00010404], Errno.EINVAL },
        { (ushort)AdapterOpcode.CreateQueueSet, 0, [ulong.MaxValue - 15, AdapterDriver.Free, AdapterDriver.Free, 0x00010404], Errno.EINVAL },
        { (ushort)AdapterOpcode.DestroyQueueSet, 0, [], Errno.ENOENT },
        { (ushort)AdapterOpcode.DestroyQueueSet, 512, [], Errno.ENOENT },
        { (ushort)AdapterOpcode.DestroyQueueSet, uint.MaxValue, [], Errno.ENOENT },
        { (ushort)AdapterOpcode.SetLink, 0, [2], Errno.EINVAL },
        { (ushort)AdapterOpcode.QueryFunction, 3, [], Errno.ENOENT },
        { (ushort)AdapterOpcode.QueryFunction, 0, [], Errno.ENOENT },
        { (ushort)AdapterOpcode.SuspendFunction, 0, [], Errno.ENOENT },
        { (ushort)AdapterOpcode.SetFunction, 1, [0, 8], Errno.EINVAL },
        { (ushort)AdapterOpcode.SetFunction, 1, [0x010000000001, 8], Errno.EINVAL },
        { (ushort)AdapterOpcode.SetFunction, 1, [0x1_020000000001, 8], Errno.EINVAL },
        { (ushort)AdapterOpcode.SetFunction, 1, [0x020000000001, 17], Errno.EINVAL },
        { (ushort)AdapterOpcode.SuspendFunction, 1, [], Errno.ENODEV },
        { (ushort)AdapterOpcode.SaveFunction, 2, [], Errno.ENODEV },
        { (ushort)AdapterOpcode.CreateVirtioBlock, 0, [0x10], Errno.EFAULT },
        { (ushort)AdapterOpcode.CreateVirtioBlock, 0, [AdapterDriver.Free], Errno.EINVAL },
        { (ushort)AdapterOpcode.DestroyVirtio, 0, [], Errno.ENOENT },
        { (ushort)AdapterOpcode.DestroyVirtio, 1000, [], Errno.ENOENT },
    };

    [Theory]
    [MemberData(nameof(WrongCommands))]
    public void Wrong_command_gets_an_error_and_the_next_one_works(ushort opcode, uint index, ulong[] arguments, Errno errno)
    {
        using var function = AdapterDriver.Make(merlin: true, vfs: 2);
        using var rig = new AdapterDriver(function);
        rig.Enable();
        Assert.Equal(errno, rig.Do((AdapterOpcode)opcode, index, arguments).Status);
        Assert.Equal(Errno.None, rig.Do(AdapterOpcode.QueryCapabilities).Status);
    }

    [Fact]
    public void Command_with_reserved_bits_is_refused()
    {
        using var function = AdapterDriver.Make(merlin: true);
        using var rig = new AdapterDriver(function);
        rig.Enable();
        foreach (var at in new[] { 2, 3, 12, 15 })
        {
            var command = new byte[64];
            command[at] = 1;
            rig.Post(command);
            Assert.Equal(Errno.EINVAL, rig.TakeEvent().Status);
        }
    }

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    public void Random_commands_never_break_the_function(int seed)
    {
        using var function = AdapterDriver.Make(merlin: true, vfs: 4, vdpas: 1);
        AdapterDriver.EnableVirtual(function, 2);
        using var rig = new AdapterDriver(function);
        rig.Enable();
        var random = new Random(seed);
        AdapterOpcode[] opcodes = Enum.GetValues<AdapterOpcode>();
        ulong[] interesting = [0, 1, 16, 64, 0x00010404, AdapterDriver.Free, AdapterDriver.Base + AdapterDriver.Size - 64, ulong.MaxValue, 1UL << 63];
        for (var i = 0; i < 3000; i++)
        {
            var command = new byte[64];
            if (random.Next(4) == 0)
                random.NextBytes(command);
            BinaryPrimitives.WriteUInt16LittleEndian(command, (ushort)opcodes[random.Next(opcodes.Length)]);
            command.AsSpan(2, 2).Clear();
            command.AsSpan(12, 4).Clear();
            BinaryPrimitives.WriteUInt32LittleEndian(command.AsSpan(8), (uint)random.Next(-1, 5));
            for (var a = 0; a < 6; a++)
            {
                if (random.Next(2) == 0)
                    BinaryPrimitives.WriteUInt64LittleEndian(command.AsSpan(16 + (8 * a)), interesting[random.Next(interesting.Length)]);
            }
            rig.Post(command);
            // Link events come in between.
            while (rig.TakeEvent().Type != AdapterEventType.CommandDone)
            {
            }
        }
        Assert.Equal(0UL, rig.Read(AdapterRegister.Error));
    }

    [Theory]
    [MemberData(nameof(Makes))]
    public void Commands_that_cannot_be_read_stop_the_function_until_it_is_enabled_anew(bool merlin)
    {
        using var function = AdapterDriver.Make(merlin);
        using var rig = new AdapterDriver(function);
        rig.Enable();
        rig.Disable();
        rig.Write(AdapterRegister.CommandBase, 0x40);
        rig.Write(AdapterRegister.Control, AdapterControl.Enable);
        rig.RingCommands(1);
        rig.WaitFor(AdapterRegister.Status, AdapterStatus.Error, AdapterStatus.Error);
        Assert.Equal((ulong)AdapterError.DmaFault, rig.Read(AdapterRegister.Error));
        Assert.NotEqual(0, rig.Dma.Faults);
        rig.WaitInterrupt(0);

        rig.Disable();
        rig.Enable();
        Assert.Equal(0UL, rig.Read(AdapterRegister.Error));
        Assert.Equal(Errno.None, rig.Do(AdapterOpcode.Nop).Status);
    }

    [Theory]
    [InlineData(0x100010, 4)]
    [InlineData(0x100000, 0)]
    [InlineData(0x100000, 13)]
    [InlineData(0xFFFFFFFFFFFFFFC0, 4)]
    public void Ring_that_is_not_aligned_or_has_no_size_keeps_the_function_disabled(ulong start, uint log)
    {
        using var function = AdapterDriver.Make(merlin: true);
        using var rig = new AdapterDriver(function);
        rig.Write(AdapterRegister.CommandBase, start);
        rig.Write(AdapterRegister.CommandSize, log);
        rig.Write(AdapterRegister.EventBase, AdapterDriver.Events);
        rig.Write(AdapterRegister.EventSize, 4);
        rig.Write(AdapterRegister.Control, AdapterControl.Enable);
        rig.WaitFor(AdapterRegister.Error, uint.MaxValue, (ulong)AdapterError.BadRing);
        Assert.Equal(0UL, rig.Read(AdapterRegister.Status) & AdapterStatus.Enabled);
        rig.Disable();
        rig.Enable();
        Assert.Equal(Errno.None, rig.Do(AdapterOpcode.Nop).Status);
    }

    [Fact]
    public void Doorbell_that_runs_ahead_of_the_ring_stops_the_function()
    {
        using var function = AdapterDriver.Make(merlin: true);
        using var rig = new AdapterDriver(function);
        rig.Enable();
        rig.RingCommands((1 << AdapterDriver.CommandLog) + 1);
        rig.WaitFor(AdapterRegister.Error, uint.MaxValue, (ulong)AdapterError.BadIndex);
        rig.Disable();
        rig.Enable();
        rig.RingEvents(1);
        rig.WaitFor(AdapterRegister.Error, uint.MaxValue, (ulong)AdapterError.BadIndex);
    }

    [Fact]
    public void Full_event_ring_holds_commands_back_and_loses_none()
    {
        using var function = AdapterDriver.Make(merlin: true);
        using var rig = new AdapterDriver(function);
        rig.Write(AdapterRegister.CommandBase, AdapterDriver.Commands);
        rig.Write(AdapterRegister.CommandSize, AdapterDriver.CommandLog);
        rig.Write(AdapterRegister.EventBase, AdapterDriver.Events);
        rig.Write(AdapterRegister.EventSize, 2);
        rig.Write(AdapterRegister.Control, AdapterControl.Enable);
        rig.WaitFor(AdapterRegister.Status, AdapterStatus.Enabled, AdapterStatus.Enabled);
        rig.RingCommands(16);
        rig.WaitFor(AdapterRegister.EventProducer, uint.MaxValue, 4);
        Assert.Equal(4UL, rig.Read(AdapterRegister.CommandConsumer));
        rig.RingEvents(3);
        rig.WaitFor(AdapterRegister.EventProducer, uint.MaxValue, 7);
        Assert.Equal(7UL, rig.Read(AdapterRegister.CommandConsumer));
        rig.RingEvents(7);
        rig.WaitFor(AdapterRegister.CommandConsumer, uint.MaxValue, 11);
        rig.RingEvents(11);
        rig.WaitFor(AdapterRegister.CommandConsumer, uint.MaxValue, 15);
        rig.RingEvents(12);
        rig.WaitFor(AdapterRegister.CommandConsumer, uint.MaxValue, 16);
    }

    [Theory]
    [MemberData(nameof(Makes))]
    public void Frame_goes_from_one_queue_set_to_another(bool merlin)
    {
        using var function = AdapterDriver.Make(merlin);
        using var rig = new AdapterDriver(function);
        rig.Enable();
        var (from, to) = (rig.CreateQueues(0), rig.CreateQueues(1));
        to.Post(8);
        var frame = Frame(100);
        from.Send(frame, flags: QueueSet.FlagInterrupt);
        rig.WaitInterrupt(to.Vector);
        Assert.Equal(frame, to.Receive().Frame);
        rig.WaitInterrupt(from.Vector);
        Assert.Equal(1u, from.TransmitConsumer);
        Assert.Equal(0u, to.Dropped);
    }

    [Fact]
    public void Frame_of_many_parts_arrives_whole_in_many_buffers()
    {
        using var function = AdapterDriver.Make(merlin: true);
        using var rig = new AdapterDriver(function);
        rig.Enable();
        var (from, to) = (rig.CreateQueues(0), rig.CreateQueues(1));
        for (var round = 0; round < 10; round++)
        {
            to.Post(5, 1000);
            var frame = Frame(4500);
            from.Send(frame, part: 700);
            var (received, buffers) = to.Receive();
            Assert.Equal(frame, received);
            Assert.Equal(5, buffers);
        }
        Assert.Equal(70u, from.TransmitConsumer);
    }

    [Fact]
    public void Frame_without_room_is_dropped_whole_and_counted()
    {
        using var function = AdapterDriver.Make(merlin: true);
        using var rig = new AdapterDriver(function);
        rig.Enable();
        var (from, to) = (rig.CreateQueues(0), rig.CreateQueues(1));
        from.Send(Frame(60));
        Assert.True(SpinWait.SpinUntil(() => to.Dropped == 1, TimeSpan.FromSeconds(10)));
        to.Post(2, 100);
        from.Send(Frame(201));
        Assert.True(SpinWait.SpinUntil(() => to.Dropped == 2, TimeSpan.FromSeconds(10)));
        from.Send(Frame(200));
        Assert.Equal(Frame(200), to.Receive().Frame);
    }

    [Fact]
    public void Frame_that_cannot_be_read_stops_its_queue_set_and_no_other()
    {
        using var function = AdapterDriver.Make(merlin: true);
        using var rig = new AdapterDriver(function);
        rig.Enable();
        var (bad, good) = (rig.CreateQueues(0), rig.CreateQueues(1));
        bad.Add(0x4000, 60);
        bad.Publish();
        rig.RingTransmit(0);
        Assert.Equal(new AdapterEvent(AdapterEventType.QueueError, Errno.None, 0, (ulong)AdapterError.DmaFault, 0), rig.TakeEvent());
        Assert.True(SpinWait.SpinUntil(() => bad.Error == (uint)AdapterError.DmaFault, TimeSpan.FromSeconds(10)));
        Assert.Equal(0UL, rig.Read(AdapterRegister.Error));
        Assert.NotEqual(0, rig.Dma.Faults);

        // The set is made anew and works.
        Assert.Equal(Errno.None, rig.Do(AdapterOpcode.DestroyQueueSet, 0).Status);
        var again = rig.CreateQueues(0);
        again.Post(4);
        good.Send(Frame(64));
        Assert.Equal(Frame(64), again.Receive().Frame);
    }

    [Fact]
    public void Frame_that_cannot_be_written_stops_the_receiver_and_not_the_sender()
    {
        using var function = AdapterDriver.Make(merlin: true);
        using var rig = new AdapterDriver(function);
        rig.Enable();
        var (from, to) = (rig.CreateQueues(0), rig.CreateQueues(1));
        rig.WriteMemory(to.ReceiveRing, [0, 0x40, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0]);
        rig.SetWord(to.Start + QueueSet.ReceiveProducerOffset, 1);
        from.Send(Frame(64));
        Assert.Equal(new AdapterEvent(AdapterEventType.QueueError, Errno.None, 1, (ulong)AdapterError.DmaFault, 0), rig.TakeEvent());
        Assert.Equal(0u, from.Error);
        from.Send(Frame(64));
        Assert.True(SpinWait.SpinUntil(() => from.TransmitConsumer == 2, TimeSpan.FromSeconds(10)));
    }

    [Theory]
    [InlineData(0, 0)]
    [InlineData(9023, 0)]
    [InlineData(uint.MaxValue, 0)]
    [InlineData(13, 0)]
    [InlineData(60, 4)]
    public void Descriptor_that_makes_no_sense_stops_the_queue_set(uint length, uint flags)
    {
        using var function = AdapterDriver.Make(merlin: true);
        using var rig = new AdapterDriver(function);
        rig.Enable();
        var queues = rig.CreateQueues(0);
        queues.Add(AdapterDriver.Free, length, flags);
        queues.Publish();
        rig.RingTransmit(0);
        Assert.Equal((ulong)AdapterError.BadDescriptor, rig.TakeEvent().First);
    }

    [Theory]
    [InlineData(4511, 4511, true)]
    [InlineData(9008, 14, true)]
    [InlineData(4511, 4512, false)]
    [InlineData(9022, 1, false)]
    [InlineData(14, uint.MaxValue - 13, false)]
    public void Frame_of_several_descriptors_has_the_bound_of_a_frame(uint first, uint second, bool taken)
    {
        using var function = AdapterDriver.Make(merlin: true);
        using var rig = new AdapterDriver(function);
        rig.Enable();
        var queues = rig.CreateQueues(0);
        queues.Add(AdapterDriver.Free + 0x80000, first, QueueSet.FlagMore);
        queues.Add(AdapterDriver.Free + 0x80000, second);
        queues.Publish();
        rig.RingTransmit(0);
        Assert.True(SpinWait.SpinUntil(() => queues.TransmitConsumer == 2 || queues.Error != 0, TimeSpan.FromSeconds(10)));
        Assert.Equal(taken ? 0u : (uint)AdapterError.BadDescriptor, queues.Error);
    }

    [Fact]
    public void Frame_whose_end_fits_into_no_ring_stops_the_queue_set()
    {
        using var function = AdapterDriver.Make(merlin: true);
        using var rig = new AdapterDriver(function);
        rig.Enable();
        var queues = rig.CreateQueues(0);
        for (var i = 0; i < 1 << AdapterQueues.Log; i++)
            queues.Add(AdapterDriver.Free, 10, QueueSet.FlagMore);
        queues.Publish();
        rig.RingTransmit(0);
        Assert.Equal((ulong)AdapterError.BadDescriptor, rig.TakeEvent().First);
    }

    [Fact]
    public void Index_that_runs_ahead_stops_the_queue_set()
    {
        using var function = AdapterDriver.Make(merlin: true);
        using var rig = new AdapterDriver(function);
        rig.Enable();
        var (first, second) = (rig.CreateQueues(0), rig.CreateQueues(1));
        first.Publish(17);
        rig.RingTransmit(0);
        Assert.Equal(new AdapterEvent(AdapterEventType.QueueError, Errno.None, 0, (ulong)AdapterError.BadIndex, 0), rig.TakeEvent());
        rig.SetWord(second.Start + QueueSet.ReceiveProducerOffset, 17);
        Assert.Equal(Errno.None, rig.Do(AdapterOpcode.DestroyQueueSet, 0).Status);
        rig.CreateQueues(0).Send(Frame(60));
        Assert.Equal(new AdapterEvent(AdapterEventType.QueueError, Errno.None, 1, (ulong)AdapterError.BadIndex, 0), rig.TakeEvent());
    }

    [Theory]
    [MemberData(nameof(Makes))]
    public void Signals_of_an_eventfd_ring_the_transmit_doorbell(bool merlin)
    {
        using var function = AdapterDriver.Make(merlin);
        using var rig = new AdapterDriver(function);
        rig.Enable();
        var (from, to) = (rig.CreateQueues(0), rig.CreateQueues(1));
        to.Post(8);
        using var signal = new EventFd();
        Assert.Contains(rig.TransmitDoorbell(0), function.Doorbells);
        Assert.True(function.TryAttachDoorbell(rig.TransmitDoorbell(0), signal, out _));
        for (var i = 0; i < 3; i++)
        {
            rig.WriteMemory(from.TransmitBuffer((uint)i), Frame(60 + i));
            from.Add(from.TransmitBuffer((uint)i), (uint)(60 + i));
            from.Publish();
            signal.Signal();
            Assert.Equal(Frame(60 + i), to.Receive().Frame);
        }
        Assert.True(function.TryAttachDoorbell(rig.TransmitDoorbell(0), null, out _));
        Assert.False(function.TryAttachDoorbell(new Pci.PciDoorbell(2, 0x3000, 4), signal, out var fault));
        Assert.Equal(Errno.ENOENT, fault.Errno);
    }

    [Theory]
    [MemberData(nameof(Makes))]
    public void Reset_returns_everything_to_power_on(bool merlin)
    {
        using var function = AdapterDriver.Make(merlin);
        using var rig = new AdapterDriver(function);
        var fresh = Dump(function);
        foreach (var byConfig in new[] { true, false })
        {
            rig.Enable();
            rig.CreateQueues(0);
            Assert.Equal(1, function.Engine.QueueSetCount);
            if (byConfig)
            {
                rig.ResetFunction();
                Assert.Equal(0, function.Engine.QueueSetCount);
                rig.SetMaster(true);
                rig.EnableInterrupts();
            }
            else
            {
                rig.Write(AdapterRegister.Control, AdapterControl.Reset);
                rig.WaitFor(AdapterRegister.Control, uint.MaxValue, 0);
            }
            Assert.Equal(fresh, Dump(function));
            Assert.Equal(0, function.Engine.QueueSetCount);
            rig.Fill(AdapterDriver.Commands, 0x2000);
        }
        rig.Enable();
        Assert.Equal(Errno.None, rig.Do(AdapterOpcode.Nop).Status);
    }

    [Fact]
    public void Without_bus_mastering_nothing_moves_and_with_it_all_goes_on()
    {
        using var function = AdapterDriver.Make(merlin: true);
        using var rig = new AdapterDriver(function);
        rig.Enable();
        rig.SetMaster(false);
        rig.Post(AdapterOpcode.Nop);
        rig.SetMaster(true);
        rig.Post(AdapterOpcode.Nop);
        Assert.Equal((0u, 1u), (rig.TakeEvent().Tag, rig.TakeEvent().Tag));
        Assert.Equal(0, rig.Dma.Faults);
    }

    [Fact]
    public void Link_event_reaches_the_driver_before_the_answer()
    {
        using var function = AdapterDriver.Make(merlin: true);
        using var rig = new AdapterDriver(function);
        rig.Enable();
        rig.Post(AdapterOpcode.SetLink, 0, 0);
        Assert.Equal(new AdapterEvent(AdapterEventType.Link, Errno.None, 0, 0, 0), rig.TakeEvent());
        Assert.Equal(new AdapterEvent(AdapterEventType.CommandDone, Errno.None, 0, 0, 0), rig.TakeEvent());
        Assert.Equal(0UL, rig.Read(AdapterRegister.Status) & AdapterStatus.LinkUp);
    }

    [Fact]
    public void Unplugged_function_does_no_dma_and_forgets_its_queues()
    {
        using var function = AdapterDriver.Make(merlin: true);
        using (var rig = new AdapterDriver(function))
        {
            rig.Enable();
            rig.CreateQueues(0);
        }
        Assert.Equal(0, function.Engine.QueueSetCount);
        using var again = new AdapterDriver(function);
        again.Enable();
        Assert.Equal(Errno.None, again.Do(AdapterOpcode.Nop).Status);
    }

    [Fact]
    public void Wire_carries_frames_both_ways_while_the_link_is_up()
    {
        using var function = AdapterDriver.Make(merlin: true);
        using var rig = new AdapterDriver(function);
        using var sent = new SemaphoreSlim(0);
        var frames = new List<byte[]>();
        var wire = function.Engine.ConnectWire((in EthernetFrame frame) =>
        {
            frames.Add(frame.Bytes.ToArray());
            sent.Release();
        });
        rig.Enable();
        var queues = rig.CreateQueues(0);
        queues.Post(4);
        queues.Send(Frame(77));
        Assert.True(sent.Wait(TimeSpan.FromSeconds(10)));
        Assert.Equal(Frame(77), Assert.Single(frames));
        Assert.True(wire.TryReceive(new EthernetFrame(Frame(99))));
        Assert.Equal(Frame(99), queues.Receive().Frame);
        wire.Dispose();
        queues.Send(Frame(78));
        Assert.True(SpinWait.SpinUntil(() => queues.TransmitConsumer == 2, TimeSpan.FromSeconds(10)));
        Assert.Single(frames);
    }

    internal static byte[] Frame(int length)
    {
        var frame = Enumerable.Range(0, length).Select(i => (byte)(i + length)).ToArray();
        frame.AsSpan(0, 6).Fill(0xFF);
        frame[6] = 2;
        return frame;
    }

    private static byte[] Dump(AdapterFunction function)
    {
        var registers = new byte[0x400];
        function.ReadBar(0, 0, registers);
        return registers;
    }
}
