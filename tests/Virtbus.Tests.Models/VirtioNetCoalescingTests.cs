using System.Buffers.Binary;
using Virtbus.Ethernet;
using Virtbus.Models.VirtioNet;
using Virtbus.Platform;
using Virtbus.Virtio;
using static Virtbus.Models.VirtioNet.VirtioNetConfig;

namespace Virtbus.Tests.Models;

/// <summary>A driver of a network device says how many used buffers it is told of together, and is told of each of them in the end.</summary>
public sealed class VirtioNetCoalescingTests : IDisposable
{
    private const byte Ok = 0;
    private const byte Error = 1;
    private const byte Class = 6;
    private const byte Transmit = 0;
    private const byte Receive = 1;
    private const byte OfQueue = 2;
    private const byte Get = 3;
    private const uint Never = uint.MaxValue;
    private const ulong Mac = 0x02_00_00_00_00_0A;
    private readonly VirtioNetDevice _device = new("net", new EthernetSwitch(), new VirtioNetOptions(Mac) { QueuePairs = 2, Packed = true });
    private readonly int[] _told = new int[5];
    private VirtioNetUser _user;

    public VirtioNetCoalescingTests()
    {
        _user = new VirtioNetUser(_device);
        for (var queue = 0; queue < _told.Length; queue++)
        {
            var index = queue;
            _device.SetQueueInterrupt(queue, () => Interlocked.Increment(ref _told[index]));
        }
    }

    public void Dispose()
    {
        _user.Dispose();
        _device.Dispose();
    }

    [Fact]
    public void Last_word_counts_for_each_queue()
    {
        // As VIRTIO 1.3, 5.1.6.5.9, has it for two pairs.
        Assert.Equal(Ok, Set(Receive, 1, 11));
        Is((1, 11), default, (1, 11), default);
        Assert.Equal(Ok, SetQueue(0, 2, 22, reserved: 0xFFFF));
        Is((2, 22), default, (1, 11), default);
        Assert.Equal(Ok, SetQueue(1, 3, 33));
        Is((2, 22), (3, 33), (1, 11), default);
        Assert.Equal(Ok, Set(Transmit, 4, 44));
        Is((2, 22), (4, 44), (1, 11), (4, 44));
        // One that is 0 and one that is not are kept as they are.
        Assert.Equal(Ok, SetQueue(3, 0, 5));
        Is((2, 22), (4, 44), (1, 11), (0, 5));
        _user.Restart();
        Is(default, default, default, default);
    }

    [Fact]
    public void Queue_that_is_enabled_anew_has_what_was_said_of_its_kind()
    {
        Assert.Equal(Ok, Set(Receive, 1, 11));
        Assert.Equal(Ok, SetQueue(0, 2, 22));
        Assert.Equal(Ok, SetQueue(1, 3, 33));
        Assert.Equal(Ok, SetQueue(3, 4, 44));
        foreach (var queue in (int[])[0, 1])
        {
            Assert.True(_device.TrySetQueueReady(queue, false, out _));
            Assert.Equal((Error, Error), (SetQueue(queue, 5, 55), Ask((ushort)queue, out _)));
            Assert.True(_device.TrySetQueueReady(queue, true, out _));
        }

        Is((1, 11), default, (1, 11), (4, 44));
    }

    [Fact]
    public void Commands_that_are_wrong_change_nothing()
    {
        Assert.Equal(Ok, Set(Receive, 1, 11));
        foreach (var length in (int[])[0, 7, 9, 12])
        {
            Assert.Equal(Error, _user.Command(Class, Transmit, new byte[length]));
            Assert.Equal(Error, _user.Command(Class, Receive, new byte[length]));
        }

        foreach (var length in (int[])[0, 4, 11, 13])
            Assert.Equal(Error, _user.Command(Class, OfQueue, new byte[length]));
        // The control queue, and one that there is not.
        Assert.Equal((Error, Error), (SetQueue(4, 2, 22), SetQueue(5, 2, 22)));
        Assert.Equal((Error, Error), (Ask(4, out _), Ask(5, out _)));
        Assert.Equal(Error, _user.Command(Class, 4, new byte[8]));
        Is((1, 11), default, (1, 11), default);
        // Without room for it there is no answer, and what is longer than that is no data of it.
        Assert.Equal(Error, _user.Command(Class, Get, 0, 0, 0, 0));
        foreach (var (data, room) in ((int, int)[])[(4, 7), (2, 8), (12, 8)])
        {
            var answer = new byte[room];
            answer.AsSpan().Fill(0xAA);
            Assert.Equal(Error, _user.Ask(Class, Get, new byte[data], answer, out var written));
            Assert.Equal(1u, written);
            Assert.False(answer.AsSpan().ContainsAnyExcept((byte)0xAA));
        }
    }

    [Theory]
    [InlineData(VIRTIO_NET_F_NOTF_COAL, Receive, 8, OfQueue, 12)]
    [InlineData(VIRTIO_NET_F_NOTF_COAL, Transmit, 8, OfQueue, 12)]
    [InlineData(VIRTIO_NET_F_VQ_NOTF_COAL, OfQueue, 12, Receive, 8)]
    public void Commands_of_a_feature_that_was_not_taken_are_wrong_and_the_other_ones_are_not(int feature, byte command, int bytes, byte other, int otherBytes)
    {
        Bring(VirtioFeatures.Of(feature));
        Assert.Equal((Error, Ok), (_user.Command(Class, command, new byte[bytes]), _user.Command(Class, other, new byte[otherBytes])));
        Assert.Equal(feature == VIRTIO_NET_F_VQ_NOTF_COAL ? Error : Ok, Ask(0, out _));
    }

    [Fact]
    public void Control_queue_of_a_driver_of_one_pair_is_held_back_by_nothing()
    {
        Bring(VirtioFeatures.Of(VIRTIO_NET_F_MQ, VIRTIO_NET_F_RSS));
        Assert.Equal(2, _user.ControlQueue);
        Assert.Equal(Ok, Set(Receive, 100, Never));
        Assert.Equal(Error, SetQueue(2, 100, Never));
        // Where it is enabled anew, too.
        Assert.True(_device.TrySetQueueReady(2, false, out _));
        Assert.True(_device.TrySetQueueReady(2, true, out _));
        Want(2);
        Assert.Equal(Ok, Set(Transmit, 1, 1));
        Deadline.Until(() => Volatile.Read(ref _told[2]) > 0, "the notification of a command");
    }

    public static TheoryData<bool, bool, bool> Forms =>
        new([.. from packed in (bool[])[false, true] from eventIndex in (bool[])[false, true] from sends in (bool[])[false, true] select (packed, eventIndex, sends)]);

    [Theory]
    [MemberData(nameof(Forms))]
    public void Packets_are_counted_and_what_is_short_of_their_number_is_told_when_the_queue_stops(bool packed, bool eventIndex, bool sends)
    {
        var queue = Form(packed, eventIndex, sends);
        Assert.Equal(Ok, Set(sends ? Transmit : Receive, 8, Never));
        Go(queue, 7);
        Assert.True(_device.TryPause(out _));
        Assert.Equal(1, _told[queue]);
        _device.Resume();
        Take(queue);
        for (var round = 0; round < 5; round++)
        {
            Go(queue, 8);
            Deadline.Until(() => Volatile.Read(ref _told[queue]) == round + 2, "the notification of eight packets");
            Take(queue);
        }

        // Nothing is left to be told.
        Assert.True(_device.TryPause(out _));
        Assert.Equal(6, _told[queue]);
        Assert.Equal(6ul, _device.GetQueueCounters(queue).Calls);
    }

    [Theory]
    [MemberData(nameof(Forms))]
    public void Time_runs_out_without_another_packet(bool packed, bool eventIndex, bool sends)
    {
        var queue = Form(packed, eventIndex, sends);
        Assert.Equal(Ok, SetQueue(queue, Never, 300));
        for (var round = 0; round < 20; round++)
        {
            Go(queue, 1);
            Deadline.Until(() => Volatile.Read(ref _told[queue]) == round + 1, "the notification");
            Take(queue);
        }
    }

    [Fact]
    public void Longest_time_there_is_does_not_come_early()
    {
        var queue = Form(packed: false, eventIndex: false, sends: true);
        Assert.Equal(Ok, Set(Transmit, Never, Never));
        Go(queue, 3);
        // Its thread has other turns meanwhile.
        for (var i = 0; i < 100; i++)
            _device.KickQueue(queue);
        Go(queue, 1);
        Assert.True(_device.TryPause(out _));
        Assert.Equal(1, _told[queue]);
    }

    [Theory]
    [InlineData(3, Never, false)]
    [InlineData(Never, 1, false)]
    [InlineData(0, Never, false)]
    [InlineData(Never, 0, false)]
    [InlineData(2, Never, true)]
    public void New_parameters_are_in_force_at_once(uint packets, uint microseconds, bool one)
    {
        var queue = Form(packed: false, eventIndex: true, sends: false);
        Assert.Equal(Ok, Set(Receive, 100, Never));
        Go(queue, 3);
        Assert.Equal(Ok, one ? SetQueue(queue, packets, microseconds) : Set(Receive, packets, microseconds));
        Deadline.Until(() => Volatile.Read(ref _told[queue]) == 1, "the notification");
        Take(queue);
        Assert.Equal(Ok, Set(Receive, 0, 0));
        for (var round = 0; round < 3; round++)
        {
            Go(queue, 1);
            Deadline.Until(() => Volatile.Read(ref _told[queue]) == round + 2, "the notification of each packet");
            Take(queue);
        }
    }

    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    public void What_is_held_back_is_told_whatever_ends_the_queue(int how)
    {
        var queue = Form(packed: false, eventIndex: false, sends: true);
        Assert.Equal(Ok, Set(Transmit, 100, Never));
        Go(queue, 3);
        switch (how)
        {
            case 0:
                Assert.True(_device.TrySetQueueReady(queue, false, out _));
                break;
            case 1:
                _device.ResetQueue(queue);
                break;
            case 2:
                _device.SetDma(null);
                break;
            default:
                // The driver breaks its ring.
                _user.Memory.Write(_user.RingOffset(queue) + (64 * 16) + 2, [0xFF, 0x7F]);
                _device.KickQueue(queue);
                Deadline.Until(() => (_device.Status & VirtioStatus.DEVICE_NEEDS_RESET) != 0, "the fault");
                break;
        }

        Assert.Equal(1, _told[queue]);
    }

    [Fact]
    public void Driver_all_of_whose_buffers_are_back_is_told()
    {
        Bring(default, queueSize: 16);
        Want(1);
        Assert.Equal(Ok, Set(Transmit, Never, Never));
        Go(1, 16);
        Deadline.Until(() => Volatile.Read(ref _told[1]) == 1, "the notification");
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Driver_that_wants_none_gets_none_and_finds_what_came(bool packed)
    {
        var queue = Form(packed, eventIndex: false, sends: false);
        _user.Ring(queue).RequestCalls(false);
        Assert.Equal(Ok, Set(Receive, 4, Never));
        Go(queue, 8);
        // What was to be decided of them is decided.
        Assert.True(_device.TryPause(out _));
        _device.Resume();
        Assert.True(_user.Ring(queue).RequestCalls(true));
        Take(queue);
        Go(queue, 3);
        Assert.Equal(0, Volatile.Read(ref _told[queue]));
        // From the first of these three on it counts.
        Go(queue, 1);
        Deadline.Until(() => Volatile.Read(ref _told[queue]) == 1, "the notification");
    }

    [Fact]
    public void State_has_the_parameters_and_one_that_no_driver_can_have_set_is_refused()
    {
        Assert.Equal(Ok, Set(Receive, 8, Never));
        Assert.Equal(Ok, SetQueue(1, 3, 33));
        Assert.True(_device.TryPause(out _));
        var state = Save(_device);
        using var target = new VirtioNetDevice("target", new EthernetSwitch(), new VirtioNetOptions(Mac) { QueuePairs = 2, Packed = true });
        Assert.True(target.TryPause(out _));
        Assert.True(Restore(target, state, out var fault), fault.Message);
        Assert.Equal(state, Save(target));
        Assert.Equal((new Coalescing(8, Never), new Coalescing(3, 33), new Coalescing(8, Never), default), (target.Coalescing.Get(0), target.Coalescing.Get(1), target.Coalescing.Get(2), target.Coalescing.Get(3)));
        // One of before has none.
        _device.Coalescing.Reset();
        var without = Save(_device);
        Assert.Equal(-1, without.AsSpan().IndexOf("virtio-net-coalescing"u8));
        Assert.True(Restore(target, without, out fault), fault.Message);
        Assert.True(target.Coalescing.IsDefault);
        foreach (var feature in (int[])[VIRTIO_NET_F_NOTF_COAL, VIRTIO_NET_F_VQ_NOTF_COAL, VIRTIO_NET_F_MQ])
        {
            var changed = (byte[])state.Clone();
            // The features stand eight bytes behind the name of the first section.
            var at = changed.AsSpan().IndexOf("virtio"u8) + "virtio".Length + 8;
            var features = BinaryPrimitives.ReadUInt64LittleEndian(changed.AsSpan(at)) & ~(1UL << feature);
            if (feature == VIRTIO_NET_F_MQ)
                features &= ~(1UL << VIRTIO_NET_F_RSS);
            BinaryPrimitives.WriteUInt64LittleEndian(changed.AsSpan(at), features);
            Assert.False(Restore(target, changed, out fault));
            Assert.Equal(new Fault(Errno.EINVAL, "section 'virtio-net-coalescing', version 1, has what its driver can't have set"), fault);
            Assert.True(target.Coalescing.IsDefault);
        }

        using var other = new VirtioNetDevice("other", new EthernetSwitch(), new VirtioNetOptions(Mac) { QueuePairs = 1, Packed = true });
        Assert.True(other.TryPause(out _));
        Assert.False(Restore(other, state, out _));
    }

    [Fact]
    public void Parameters_of_the_state_are_in_force()
    {
        var queue = Form(packed: true, eventIndex: true, sends: false);
        Assert.Equal(Ok, Set(Receive, 4, Never));
        Assert.True(_device.TryPause(out _));
        var state = Save(_device);
        _device.Coalescing.Reset();
        Assert.True(Restore(_device, state, out var fault), fault.Message);
        _device.Resume();
        Go(queue, 3);
        Assert.True(_device.TryPause(out _));
        Assert.Equal(1, _told[queue]);
    }

    private static byte[] Save(IMovableState device)
    {
        var writer = new StateWriter();
        Assert.True(device.TrySave(writer, out var fault), fault.Message);
        return writer.ToArray();
    }

    private static bool Restore(IMovableState device, byte[] state, out Fault fault) =>
        StateReader.TryRead(state, 1 << 16, out var reader, out fault) && device.TryRestore(reader, out fault);

    private int Form(bool packed, bool eventIndex, bool sends)
    {
        var without = (packed ? VirtioFeatures.None : VirtioFeatures.Of(VirtioFeatures.VIRTIO_F_RING_PACKED))
            | (eventIndex ? VirtioFeatures.None : VirtioFeatures.Of(VirtioFeatures.VIRTIO_F_EVENT_IDX));
        Bring(without | VirtioFeatures.Of(VirtioFeatures.VIRTIO_F_IN_ORDER, VIRTIO_NET_F_RSS, VIRTIO_NET_F_HASH_REPORT));
        var queue = sends ? 1 : 0;
        Want(queue);
        return queue;
    }

    private void Bring(VirtioFeatures without, int queueSize = 64)
    {
        _user.Dispose();
        _user = new VirtioNetUser(_device, without, queueSize);
        Array.Clear(_told);
    }

    // Told of the next one, and of those behind it.
    private void Want(int queue) => _user.Ring(queue).RequestCalls(true);

    // One after the other, so that each is a batch of its own; the driver does not look.
    private void Go(int queue, int packets)
    {
        for (var i = 0; i < packets; i++)
        {
            var done = _device.GetQueueCounters(queue).Requests;
            if (queue == 1)
            {
                Assert.True(_user.TryPut(1, default, Net.Frame(Mac + 1, Mac, 60, i)));
                _user.Push(1);
            }
            else
            {
                _device.Port.Sink.Deliver(new EthernetFrame(Net.Frame(Mac, Mac + 1, 60, i)));
                _device.Port.Sink.Flush();
            }

            Deadline.Until(() => _device.GetQueueCounters(queue).Requests == done + 1, "a packet");
        }
    }

    private void Take(int queue)
    {
        var bytes = new byte[2048];
        if (queue == 1)
        {
            Deadline.Until(() => _user.Reclaim(1) > 0, "the buffers that were sent");
        }
        else
        {
            while (_user.Take(0, bytes) > 0)
            {
            }

            _user.Push(0);
        }

        Want(queue);
    }

    private byte Set(byte command, uint packets, uint microseconds)
    {
        var data = new byte[8];
        new Coalescing(packets, microseconds).Write(data);
        return _user.Command(Class, command, data);
    }

    private byte SetQueue(int queue, uint packets, uint microseconds, ushort reserved = 0)
    {
        var data = new byte[12];
        BinaryPrimitives.WriteUInt16LittleEndian(data, (ushort)queue);
        BinaryPrimitives.WriteUInt16LittleEndian(data.AsSpan(2), reserved);
        new Coalescing(packets, microseconds).Write(data.AsSpan(4));
        return _user.Command(Class, OfQueue, data);
    }

    private byte Ask(ushort queue, out (uint Packets, uint Microseconds) value)
    {
        var data = new byte[4];
        BinaryPrimitives.WriteUInt16LittleEndian(data, queue);
        data[2] = 0x55;
        var answer = new byte[8];
        var acknowledgement = _user.Ask(Class, Get, data, answer, out var written);
        Assert.Equal(acknowledgement == Ok ? 9u : 1u, written);
        value = (BinaryPrimitives.ReadUInt32LittleEndian(answer), BinaryPrimitives.ReadUInt32LittleEndian(answer.AsSpan(4)));
        return acknowledgement;
    }

    private void Is(params ReadOnlySpan<(int Packets, int Microseconds)> values)
    {
        for (ushort queue = 0; queue < values.Length; queue++)
        {
            Assert.Equal(Ok, Ask(queue, out var value));
            Assert.Equal(values[queue], ((int)value.Packets, (int)value.Microseconds));
        }
    }
}
