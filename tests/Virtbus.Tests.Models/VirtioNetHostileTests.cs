using System.Buffers.Binary;
using System.Runtime.InteropServices;
using Virtbus.Ethernet;
using Virtbus.Memory;
using Virtbus.Models.VirtioNet;
using Virtbus.Platform;
using Virtbus.Virtio;
using Virtbus.Virtio.Rings;

namespace Virtbus.Tests.Models;

/// <summary>A driver that sends what it likes, writes what it should not and goes when it likes harms itself only, and leaves nothing to the next one.</summary>
public sealed class VirtioNetHostileTests : IDisposable
{
    private const ulong MacA = 0x02_00_00_00_00_0A;
    private const ulong MacB = 0x02_00_00_00_00_0B;
    private readonly EthernetSwitch _network = new();
    private readonly VirtioNetDevice _a;
    private readonly VirtioNetDevice _b;
    private readonly Random _random = new(7);
    private readonly byte[] _zeros = new byte[9000];
    private int _broken;
    private volatile string? _bug;

    public VirtioNetHostileTests()
    {
        _a = new VirtioNetDevice("a", _network, new VirtioNetOptions(MacA) { Packed = true, QueuePairs = 2, Mtu = 9000 });
        _b = new VirtioNetDevice("b", _network, new VirtioNetOptions(MacB) { Packed = true });
        foreach (var device in new[] { _a, _b })
        {
            device.SetQueueFaultCallback((_, fault) =>
            {
                Interlocked.Increment(ref _broken);
                if (fault.Errno == Errno.EIO)
                    _bug = fault.Message;
            });
        }
    }

    public void Dispose()
    {
        _a.Dispose();
        _b.Dispose();
    }

    [Fact]
    public void Frames_for_a_queue_that_gets_no_thread_are_lost_and_not_for_the_next_user()
    {
        using var userA = new VirtioNetUser(_a);
        using var userB = new VirtioNetUser(_b);
        using (var kick = new EventFd())
        {
            BecomeUnpollable(kick);
            _b.SetQueueKick(0, kick);
            Assert.Equal(VirtioStatus.DEVICE_NEEDS_RESET, _b.Status & VirtioStatus.DEVICE_NEEDS_RESET);
            for (var i = 0; i < 5; i++)
                userA.Send(Net.Frame(MacB, MacA, 100, i));
            Deadline.Until(() => _a.Counters.SentFrames + _a.Counters.SendLost == 5, "the frames to be sent");
            _b.SetQueueKick(0, null);
        }

        Assert.Equal(5UL, _b.Counters.ReceiveLost);
        _b.BeginUse();
        userB.Restart();
        var frame = Net.Frame(MacB, MacA, 100, 77);
        userA.Send(frame);
        Assert.Equal(frame, userB.Receive()[userB.HeaderSize..]);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Mutated_frames_and_headers_are_sent_or_lost_and_harm_nobody(bool packed)
    {
        using var userA = new VirtioNetUser(_a, Without(packed), slotSize: 16384);
        using var userB = new VirtioNetUser(_b);
        var bytes = new byte[70000];
        byte[][] seeds = [Net.Tcp(MacB, MacA, 90), Net.Frame(MacB, MacA, 14, 1), Net.Tcp(MacB, MacA, 9000), Net.Frame(0xFFFF_FFFF_FFFF, MacA, 60, 1)];
        byte[][] headers = [new byte[20], Net.Header(1, 0, 0, 0, 34, 16), Net.Header(1, 1, 54, 1448, 34, 16), Net.Header(1, 5, 42, 100, 34, 6)];
        for (var i = 0; i < 100_000; i++)
        {
            var frame = (byte[])seeds[_random.Next(seeds.Length)].Clone();
            var header = (byte[])headers[_random.Next(headers.Length)].Clone();
            for (var changes = _random.Next(4); changes > 0; changes--)
            {
                frame[_random.Next(Math.Min(frame.Length, 60))] = (byte)_random.Next(256);
                header[_random.Next(10)] = (byte)_random.Next(256);
            }

            while (!userA.TryPut(1, header, frame.AsSpan(0, Math.Min(frame.Length, _random.Next(1, 9100)))))
                Thread.Yield();
            userA.Push(1);
            while (userB.Take(0, bytes) > 0)
            {
            }

            userB.Push(0);
        }

        Deadline.Until(() => _a.Counters.SentFrames + _a.Counters.SendLost == 100_000, "all to be sent or lost");
        Assert.True(_a.Counters.SentFrames > 1000 && _a.Counters.SendLost > 1000);
        Assert.Equal((0, null), (_broken, _bug));
        Check(userA, userB);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Mutated_chains_of_each_queue_are_used_or_break_the_device_and_no_more(bool packed)
    {
        using var userA = new VirtioNetUser(_a, Without(packed), queueSize: 32);
        using var userB = new VirtioNetUser(_b);
        var bytes = new byte[70000];
        var buffers = new DriverBuffer[6];
        var added = 0;
        for (var i = 0; i < 50_000; i++)
        {
            int queue = _random.Next(3) switch { 0 => 0, 1 => 1, _ => userA.ControlQueue };
            var ring = userA.Ring(queue);
            var count = _random.Next(1, buffers.Length + 1);
            for (var j = 0; j < count; j++)
            {
                // Rarely what no driver has: outside of memory, or readable behind writable.
                var place = userA.Place(queue, _random.Next(8));
                var writes = _random.Next(400) == 0 ? _random.Next(2) == 0 : queue == 0 || (queue != 1 && j == count - 1);
                buffers[j] = new DriverBuffer(_random.Next(3000) == 0 ? new Iova(ulong.MaxValue - 100) : place, (uint)_random.Next(1, _random.Next(3) == 0 ? 9000 : 70), writes);
            }

            if (queue != 0)
            {
                var noise = new byte[24];
                _random.NextBytes(noise);
                noise[0] = (byte)_random.Next(7);
                noise[1] = (byte)_random.Next(4);
                userA.Write(queue, _random.Next(8), 0, noise);
            }

            while (ring.Add(buffers.AsSpan(0, count)) < 0 && (_a.Status & VirtioStatus.DEVICE_NEEDS_RESET) == 0)
            {
                Deadline.Until(() => ring.TryTakeUsed(out _, out _, out _) || (_a.Status & VirtioStatus.DEVICE_NEEDS_RESET) != 0 || !IsFed(queue), "room");
                added++;
            }

            userA.Push(queue);

            while (userB.Take(0, bytes) > 0)
            {
            }

            userB.Push(0);
            if ((_a.Status & VirtioStatus.DEVICE_NEEDS_RESET) != 0)
                userA.Restart();
        }

        Assert.True(added > 40_000, $"{added} were added");
        Assert.True(_broken > 20, $"{_broken} were broken");
        Assert.Null(_bug);
        userA.Restart();
        Check(userA, userB);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Driver_that_writes_rings_and_frames_while_they_are_read_breaks_no_more_than_itself(bool packed)
    {
        using var userA = new VirtioNetUser(_a, Without(packed), queueSize: 32);
        using var userB = new VirtioNetUser(_b);
        var bytes = new byte[70000];
        var isOver = false;
        var scribbler = new Thread(() =>
        {
            var random = new Random(3);
            while (!Volatile.Read(ref isOver))
            {
                var queue = random.Next(userA.ControlQueue + 1);
                // Mostly what frames are made of; sometimes a descriptor, of those the lengths and flags.
                if (random.Next(5000) == 0)
                    userA.Memory.Write(userA.RingOffset(queue) + (ulong)((random.Next(32) * 16) + random.Next(8, 16)), [(byte)random.Next(256)]);
                else
                    userA.Memory.Write(userA.Place(queue, random.Next(32)).Value - 0x100000, [(byte)random.Next(8), (byte)random.Next(256)]);
                Thread.Yield();
            }
        }) { IsBackground = true };
        scribbler.Start();
        for (var i = 0; i < 5_000; i++)
        {
            try
            {
                if (userA.TryPut(1, Net.Header((byte)(i & 1), 0, 0, 0, 34, 16), Net.Tcp(MacB, MacA, 60 + (i % 1000))))
                    userA.Push(1);
                userA.Take(0, bytes);
                userA.Push(0);
            }
            catch (ExpectationException)
            {
                // Its own driver finds what it wrote over.
                userA.Restart();
            }

            if (userB.TryPut(1, default, Net.Frame(MacA, MacB, 60 + (i % 1000), 1)))
                userB.Push(1);
            while (userB.Take(0, bytes) > 0)
            {
            }

            userB.Push(0);
            if ((_a.Status & VirtioStatus.DEVICE_NEEDS_RESET) != 0)
                userA.Restart();
        }

        Volatile.Write(ref isOver, true);
        scribbler.Ends("to write over rings");
        Assert.Null(_bug);
        Assert.Equal(0, _b.Status & VirtioStatus.DEVICE_NEEDS_RESET);
        userA.Restart();
        Check(userA, userB);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void User_after_a_reset_gets_no_frame_that_was_sent_before(bool begins)
    {
        using var user = new VirtioNetUser(_b);
        // The last frame of each sender that was handed over whole.
        var done = new long[2];
        var isOver = false;
        var senders = Enumerable.Range(0, done.Length).Select(sender => new Thread(() =>
        {
            var frame = Net.Frame(MacB, MacA, 60, 1);
            frame[14] = (byte)sender;
            for (var number = 1L; !Volatile.Read(ref isOver); number++)
            {
                BinaryPrimitives.WriteInt64LittleEndian(frame.AsSpan(16), number);
                _b.Port.Sink.Deliver(new EthernetFrame(frame));
                _b.Port.Sink.Flush();
                Volatile.Write(ref done[sender], number);
            }
        }) { IsBackground = true }).ToList();
        senders.ForEach(thread => thread.Start());
        for (var round = 0; round < 300; round++)
        {
            long[] before = [Volatile.Read(ref done[0]), Volatile.Read(ref done[1])];
            if (begins)
                _b.BeginUse();
            user.Restart();
            for (var i = 0; i < 5; i++)
            {
                var got = user.Receive();
                Assert.True(BinaryPrimitives.ReadInt64LittleEndian(got.AsSpan(36)) > before[got[34]]);
            }
        }

        Volatile.Write(ref isOver, true);
        senders.ForEach(thread => thread.Ends("to send"));
        Assert.Null(_bug);
        Assert.Equal(0, _b.Status & VirtioStatus.DEVICE_NEEDS_RESET);
    }

    [Fact]
    public void Frame_that_was_under_way_at_a_reset_is_for_nobody()
    {
        using var user = new VirtioNetUser(_b);
        var queue = new ReceiveQueue(_b);
        var before = _b.Settings.Generation;
        user.Restart();
        Assert.NotEqual(before, _b.Settings.Generation);
        // A queue that runs takes it of its own user only; one that was never started none.
        Assert.False(_b.Receiver.TryAdd(new EthernetFrame(Net.Frame(MacB, MacA, 60, 1)), before));
        Assert.False(queue.TryAdd(new EthernetFrame(Net.Frame(MacB, MacA, 60, 1)), _b.Settings.Generation));
        _b.Port.Sink.Deliver(new EthernetFrame(Net.Frame(MacB, MacA, 61, 2)));
        _b.Port.Sink.Flush();
        Assert.Equal(81, user.Receive().Length);
    }

    [Fact]
    public void Frames_that_find_no_buffer_wait_and_those_beyond_are_lost()
    {
        using var user = new VirtioNetUser(_b, queueSize: 16);
        for (var i = 0; i < 300; i++)
        {
            _b.Port.Sink.Deliver(new EthernetFrame(Net.Frame(MacB, MacA, 60, i)));
            _b.Port.Sink.Flush();
        }

        // Sixteen went into buffers, some before the ring was full and some after.
        for (var i = 0; i < 256; i++)
            Assert.Equal(Net.Frame(MacB, MacA, 60, i), user.Receive()[20..]);
        Deadline.Until(() => _b.Counters.ReceivedFrames + _b.Counters.ReceiveLost == 300, "the rest to come or be lost");
        Assert.InRange(_b.Counters.ReceiveLost, 28UL, 44UL);
    }

    [Fact]
    public void Frame_that_wants_more_buffers_than_come_goes_when_it_keeps_all_others_waiting()
    {
        using var user = new VirtioNetUser(_b, queueSize: 16, slotSize: 256);
        for (var i = 0; i < 12; i++)
            _b.Port.Sink.Deliver(new EthernetFrame(Net.Frame(MacB, MacA, 60, i)));
        _b.Port.Sink.Flush();
        // Not offered anew: four are left.
        for (var i = 0; i < 12; i++)
            Deadline.Until(() => user.Ring(0).TryTakeUsed(out _, out _, out _), "a frame");
        _b.Port.Sink.Deliver(new EthernetFrame(Net.Frame(MacB, MacA, 1500, 1)));
        for (var i = 0; i < 255; i++)
            _b.Port.Sink.Deliver(new EthernetFrame(Net.Frame(MacB, MacA, 60, 100 + i)));
        _b.Port.Sink.Flush();
        // It is looked at again with each frame that comes, and finds no room.
        var bytes = new byte[2048];
        var length = 0;
        Deadline.Until(() =>
        {
            _b.Port.Sink.Deliver(new EthernetFrame(Net.Frame(MacB, MacA, 60, 99)));
            _b.Port.Sink.Flush();
            return (length = user.Take(0, bytes)) > 0;
        }, "a frame");
        Assert.Equal(Net.Frame(MacB, MacA, 60, 100), bytes[20..length]);
    }

    [Fact]
    public void Frames_without_header_and_buffers_without_room_for_it_break_the_device()
    {
        using var user = new VirtioNetUser(_b);
        user.Ring(1).Add([new DriverBuffer(user.Place(1, 0), 19, false)]);
        user.Push(1);
        Deadline.Until(() => (_b.Status & VirtioStatus.DEVICE_NEEDS_RESET) != 0, "the device to need a reset");
        using var small = new VirtioNetUser(_a, slotSize: 64, queueSize: 16);
        Deliver(1);
        Deadline.Until(() => small.Ring(0).TryTakeUsed(out _, out _, out _), "a frame");
        Assert.True(small.Ring(0).Add([new DriverBuffer(small.Place(0, 0), 19, true)]) >= 0);
        small.Push(0);
        // Those before it are used.
        Deliver(16);
        Deadline.Until(() => (_a.Status & VirtioStatus.DEVICE_NEEDS_RESET) != 0, "the device to need a reset");
        Assert.Equal(16UL, _a.Counters.ReceivedFrames);

        void Deliver(int count)
        {
            for (var i = 0; i < count; i++)
                _a.Port.Sink.Deliver(new EthernetFrame(Net.Frame(MacA, MacB, 44, i)));
            _a.Port.Sink.Flush();
        }
    }

    // The receive queue gets on by frames only; one that waits for more buffers than there are goes when all room is taken.
    private bool IsFed(int queue)
    {
        if (queue != 0)
            return true;
        _a.Port.Sink.Deliver(new EthernetFrame(_zeros.AsSpan(0, _random.Next(14, _random.Next(4) == 0 ? 9000 : 100))));
        _a.Port.Sink.Flush();
        return true;
    }

    private static VirtioFeatures Without(bool packed) => packed ? VirtioFeatures.None : VirtioFeatures.Of(VirtioFeatures.VIRTIO_F_RING_PACKED);

    // Frames go through both ways, as if nothing had been.
    private static void Check(VirtioNetUser userA, VirtioNetUser userB)
    {
        // What was sent may have said that the other's address is here.
        Deadline.Until(() => userB.TryPut(1, default, Net.Frame(MacA, MacB, 777, 1)), "room for the frame");
        userB.Push(1);
        Await(userA, Net.Frame(MacA, MacB, 777, 1));
        for (var i = 0; i < 20; i++)
        {
            var frame = Net.Frame(MacB, MacA, 400 + i, i);
            userA.Send(frame);
            Await(userB, frame);
        }
    }

    // Behind all that was still to be sent, for which a driver has not buffers enough at once.
    private static void Await(VirtioNetUser user, byte[] frame)
    {
        var bytes = new byte[70000];
        Deadline.Until(
            () =>
            {
                var length = user.Take(0, bytes);
                user.Push(0);
                return length == frame.Length + 20 && bytes.AsSpan(20, frame.Length).SequenceEqual(frame);
            },
            "the frame");
    }

    // Behind the same number is another file from here on, as a host without room for a source would have it.
    private static void BecomeUnpollable(EventFd kick)
    {
        using var file = File.OpenHandle("/dev/null");
        Assert.NotEqual(-1, PutInPlace((int)file.DangerousGetHandle(), (int)kick.Descriptor.DangerousGetHandle()));
    }

    [DllImport("libc", EntryPoint = "dup2")]
    [DefaultDllImportSearchPaths(DllImportSearchPath.SafeDirectories)]
    private static extern int PutInPlace(int file, int number);
}
