using System.Buffers.Binary;
using Virtbus.Hardware.VirtioPci;
using Virtbus.Models.VirtioNet;
using Virtbus.Pci;
using Virtbus.Virtio;
using Virtbus.Virtio.Rings;
using static Virtbus.Models.VirtioNet.VirtioNetConfig;

namespace Virtbus.Tests.Hardware.Simulation;

/// <summary>A guest with a network device. Each frame has a number, from which its content follows.</summary>
internal sealed class NetGuest : SimGuest
{
    private const ulong Broadcast = 0xFFFF_FFFF_FFFF;
    private const int HeaderSize = 12;
    private const int LeastFrame = 30;
    private const int MostFrame = 200;
    private const int MostBuffer = 300;
    private const int AnswerAt = 16;

    private static readonly VirtioFeatures Offloads = VirtioFeatures.Of(
        VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_CTRL_GUEST_OFFLOADS, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_GUEST_ECN,
        VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_GUEST_USO4, VIRTIO_NET_F_GUEST_USO6, VIRTIO_NET_F_HOST_USO,
        VIRTIO_NET_F_HASH_REPORT);

    private readonly int _virtualFunctions;
    private readonly List<DriverBuffer> _buffers = [];
    private readonly byte[] _frame = new byte[MostBuffer];
    private readonly Dictionary<NetGuest, ulong> _last = [];
    private int _length;
    private int _buffersLeft;
    private ulong _received;
    private long _upSince;
    // From when on only its own frames come; none while it gets all.
    private long _choosySince = long.MaxValue;

    public NetGuest(VirtioSimulation sim, int number, string name, int virtualFunctions, ushort vlan)
        : base(sim, number, name, 3)
    {
        _virtualFunctions = virtualFunctions;
        Vlan = vlan;
        Mac = 0x02_00_00_00_00_00 + (ulong)number + 1;
    }

    public ulong Mac { get; }

    public ushort Vlan { get; }

    /// <summary>The number of the last frame that came.</summary>
    public ulong LastNumber { get; private set; }

    public SimQueue Receiver => Queues[0];

    public VirtioNetDevice MakeDevice() => new(Name, Sim.Network, new VirtioNetOptions(Mac) { Packed = true, QueueSize = SimQueue.Size, Vlan = Vlan });

    /// <summary>What a frame has in it.</summary>
    public static byte[] Content(SimFrame frame, ulong number)
    {
        var bytes = new byte[frame.Length];
        Fill(bytes, frame.To, frame.From.Mac, number);
        return bytes;
    }

    public override void Submit()
    {
        if (Sim.Next(5) < 2)
        {
            Offer(isWhole: false);
            return;
        }

        var others = Sim.NetGuests;
        ulong to = Sim.Next(6) switch
        {
            0 => Broadcast,
            1 => 0x02_00_00_00_FF_FF,
            _ => others[Sim.Next(others.Count)].Mac,
        };
        Send(to, LeastFrame + Sim.Next(MostFrame - LeastFrame));
    }

    public override void SubmitLast()
    {
    }

    public override void Meddle()
    {
        if (Sim.Next(3) == 0)
        {
            Note("link");
            ((VirtioNetDevice)Device!).SetLink(Sim.Next(3) > 0);
        }
        else
        {
            base.Meddle();
        }
    }

    /// <summary>Offers all the buffers that there is room for.</summary>
    public void OfferAll()
    {
        while (Receiver is { Ring: not null, HasRoom: true } && Offer(isWhole: true))
        {
        }
    }

    /// <summary>Sends a frame; its number, or 0 when there is no room.</summary>
    public ulong Send(ulong to, int length)
    {
        var queue = Queues[1];
        if (queue.Ring is null || !queue.HasRoom)
            return 0;
        var request = new SimRequest(queue.TakeSlot(), 1, Sim.TakeNumber(), Length: length);
        Fill(_frame.AsSpan(0, length), to, Mac, request.Number);
        Verify();
        Write(request.Slot, ContentAt, new byte[HeaderSize]);
        Write(request.Slot, ContentAt + HeaderSize, _frame.AsSpan(0, length));
        Wrote();
        _buffers.Clear();
        Cut(_buffers, request.Slot, ContentAt, HeaderSize + length, false);
        Sim.Frames[request.Number] = new SimFrame(this, to, length, Sim.Now);
        return Put(queue, request, _buffers) ? request.Number : 0;
    }

    protected override (PciFunction Function, VirtioDevice Device) Make()
    {
        var device = MakeDevice();
        return (new VirtioFunction(device, new VirtioFunctionOptions { VirtualFunctions = _virtualFunctions }, Sim.MakeVirtual(this)), device);
    }

    protected override void Made() => _received = 0;

    protected override VirtioFeatures Without() => Offloads | SomeOfRings() | Some(VIRTIO_NET_F_MRG_RXBUF, VirtioFeatures.VIRTIO_F_RING_RESET);

    protected override void Began()
    {
        _upSince = Sim.Now;
        _choosySince = long.MaxValue;
        _buffersLeft = 0;
        Choose();
    }

    protected override void QueueBegan(SimQueue queue)
    {
        if (queue.Index == 2 && _choosySince == long.MaxValue)
            Choose();
    }

    protected override bool Waits(SimQueue queue) => queue == Receiver;

    protected override void Finish(SimQueue queue, SimRequest request, uint written)
    {
        switch (queue.Index)
        {
            case 0:
                Collect(request, (int)written);
                break;
            case 1:
                Sim.Frames[request.Number].DoneAt = Sim.Now;
                break;
            default:
                Span<byte> answer = stackalloc byte[1];
                Read(request.Slot, AnswerAt, answer);
                Require(answer[0] == 0, $"a command is answered with {answer[0]}");
                _choosySince = Sim.Now;
                break;
        }
    }

    protected override void Lose(SimQueue queue, SimRequest request)
    {
        if (queue.Index == 1)
            Sim.Frames[request.Number].IsLost = true;
    }

    protected override void CheckCounters()
    {
        var counters = ((VirtioNetDevice)Device!).Counters;
        Require(counters.SentFrames + counters.SendLost == Queues[1].Taken, $"it counted {counters.SentFrames} frames sent and {counters.SendLost} lost, and {Queues[1].Taken} buffers came back");
        Require(counters.ReceivedFrames == _received, $"it counted {counters.ReceivedFrames} frames received, and {_received} came");
    }

    private static void Fill(Span<byte> frame, ulong to, ulong from, ulong number)
    {
        WriteMac(frame, to);
        WriteMac(frame[6..], from);
        BinaryPrimitives.WriteUInt16BigEndian(frame[12..], 0x88B5);
        BinaryPrimitives.WriteUInt64LittleEndian(frame[14..], number);
        for (var i = 22; i < frame.Length; i++)
            frame[i] = (byte)((number * 31) + (ulong)i);
    }

    private bool Offer(bool isWhole)
    {
        if (Receiver.Ring is null || !Receiver.HasRoom)
            return false;
        var length = !isWhole && Features.Has(VIRTIO_NET_F_MRG_RXBUF) && Sim.Next(2) == 0 ? 40 + Sim.Next(MostBuffer - 40) : MostBuffer;
        var request = new SimRequest(Receiver.TakeSlot(), 0, Length: length);
        Verify();
        Clear(request.Slot, ContentAt, length);
        Wrote();
        _buffers.Clear();
        if (isWhole)
            _buffers.Add(Buffer(request.Slot, ContentAt, length, true));
        else
            Cut(_buffers, request.Slot, ContentAt, length, true);
        return Put(Receiver, request, _buffers);
    }

    // VIRTIO_NET_CTRL_RX_PROMISC off.
    private void Choose()
    {
        var queue = Queues[2];
        if (!HasData || queue.Ring is null || !queue.HasRoom)
            return;
        var request = new SimRequest(queue.TakeSlot(), 2);
        Verify();
        Write(request.Slot, ContentAt, new byte[3]);
        Clear(request.Slot, AnswerAt, 1);
        Wrote();
        _buffers.Clear();
        Cut(_buffers, request.Slot, ContentAt, 3, false);
        _buffers.Add(Buffer(request.Slot, AnswerAt, 1, true));
        Put(queue, request, _buffers);
    }

    private void Collect(SimRequest request, int written)
    {
        var bytes = new byte[written];
        Read(request.Slot, ContentAt, bytes);
        CheckClear(request.Slot, ContentAt + written, request.Length - written);
        ReadOnlySpan<byte> part = bytes;
        if (_buffersLeft == 0)
        {
            if (written < HeaderSize)
            {
                Require(false, $"a frame with a header of {written} bytes came");
                return;
            }

            _buffersLeft = BinaryPrimitives.ReadUInt16LittleEndian(part[10..]);
            Require(_buffersLeft == 1 || (_buffersLeft > 1 && Features.Has(VIRTIO_NET_F_MRG_RXBUF)), $"a frame in {_buffersLeft} buffers came");
            Require(part[..10].IndexOfAnyExcept((byte)0) < 0, "a frame has offload data that nobody asked for");
            part = part[HeaderSize..];
            _length = 0;
        }

        if (_length + part.Length > _frame.Length)
        {
            Require(false, "a frame came that is longer than any");
            return;
        }

        part.CopyTo(_frame.AsSpan(_length));
        _length += part.Length;
        if (--_buffersLeft == 0)
            Receive(_frame.AsSpan(0, _length));
    }

    private void Receive(ReadOnlySpan<byte> bytes)
    {
        _received++;
        var number = bytes.Length >= LeastFrame ? BinaryPrimitives.ReadUInt64LittleEndian(bytes[14..]) : 0;
        if (!Sim.Frames.TryGetValue(number, out var frame))
        {
            Require(false, $"frame {number} came, which nobody sent");
            return;
        }

        Require(bytes.SequenceEqual(Content(frame, number)), $"frame {number} is not as {frame.From} sent it");
        Require(frame.From.Vlan == Vlan, $"frame {number} of {frame.From} came from another VLAN");
        Require(frame.From != this, $"frame {number} came back to who sent it");
        Require(frame.To == Mac || frame.To == Broadcast || frame.SentAt <= _choosySince, $"frame {number} came, which is for {frame.To:x}");
        Require(!frame.IsLost, $"frame {number} came, which was in the ring of {frame.From} at its reset");
        Require(frame.DoneAt == 0 || frame.DoneAt >= _upSince, $"frame {number} came, which was sent before the reset");
        Require(_last.GetValueOrDefault(frame.From) < number, $"frame {number} of {frame.From} came twice, or late");
        _last[frame.From] = LastNumber = number;
    }
}
