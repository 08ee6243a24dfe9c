using System.Buffers.Binary;
using Virtbus.Block;
using Virtbus.Ethernet;
using Virtbus.Memory;
using Virtbus.Models.VirtioBlk;
using Virtbus.Models.VirtioConsole;
using Virtbus.Models.VirtioNet;
using Virtbus.Models.VirtioRng;
using Virtbus.Platform;
using Virtbus.Virtio;
using Virtbus.Virtio.Rings;

namespace Virtbus.Tests.Models;

/// <summary>A queue of some model over memory that changes, on the caller's thread: its driver puts requests in, the model has its turns.</summary>
internal sealed class ChangingQueue : IDisposable, IConsolePeer, IFrameSink
{
    internal static readonly string[] Kinds = ["blk", "rng", "console-in", "console-out", "net-in", "net-out", "net-control"];

    private const int RingSize = 16;
    private const int DataAt = 0x1000;
    private const int SlotBytes = 0x600;
    private const ulong Mac = 0x02_00_00_00_00_01;

    private readonly string _kind;
    private readonly bool _packed;
    private readonly ChangingMemory _memory;
    private readonly Random _random;
    private readonly ConsoleInput _input = new();
    private readonly List<IDisposable> _owned = [];
    private readonly VirtioDevice _device;
    private readonly IQueueProcessor _processor;
    private readonly VirtioFeatures _features;
    private readonly DriverBuffer[] _buffers = new DriverBuffer[8];
    private readonly byte[] _bytes = new byte[SlotBytes];
    private readonly byte[] _content = new byte[SlotBytes];
    private DeviceRing _ring = null!;
    private DriverRing _driver = null!;

    internal ChangingQueue(string kind, bool packed, ChangingMemory memory, int seed)
    {
        (_kind, _packed, _memory) = (kind, packed, memory);
        _random = new Random(seed);
        _random.NextBytes(_content);
        _content.AsSpan().Replace(ChangingMemory.Secret, (byte)0);
        _features = VirtioFeatures.Of(VirtioFeatures.VIRTIO_F_VERSION_1, VirtioNetConfig.VIRTIO_NET_F_MRG_RXBUF, VirtioNetConfig.VIRTIO_NET_F_CTRL_VQ, VirtioNetConfig.VIRTIO_NET_F_CTRL_RX);
        (_device, _processor) = Make();
        Start();
    }

    /// <summary>Requests that came back.</summary>
    internal int Done { get; private set; }

    /// <summary>How often the ring was broken.</summary>
    internal int Broken { get; private set; }

    public OffloadKinds Takes => OffloadKinds.All;

    public void Dispose()
    {
        _processor.Drain();
        _ring.Stop();
        _processor.Dispose();
        _device.Dispose();
        _owned.ForEach(static one => one.Dispose());
    }

    /// <summary>Some requests, and turns until the model has nothing more to do.</summary>
    internal void Turn()
    {
        for (var n = 1 + _random.Next(4); n > 0; n--)
            Put();
        _driver.Publish();
        if (_kind == "console-in")
            _input.Add(_content.AsSpan(0, 1 + _random.Next(600)), null);
        if (_kind == "net-in")
            ((ReceiveQueue)_processor).TryAdd(new EthernetFrame(Net.Frame(Mac, Mac + 1, 60 + _random.Next(900), 1)), ((VirtioNetDevice)_device).Settings.Generation);
        var fault = Fault.None;
        // A driver can make available as many as it has descriptors; who goes on for longer goes round in a circle.
        for (var turns = 0; !Ask(ref fault); turns++)
            Assert.True(turns < 10_000, "the model does not come to rest");
        if (fault != Fault.None)
        {
            // As a queue that breaks ends.
            Broken++;
            Assert.NotEqual(Errno.EIO, fault.Errno);
            _processor.Drain();
            _ring.Publish();
            _ring.LetGo();
            _ring.Stop();
            Start();
            return;
        }

        while (_driver.TryTakeUsed(out _, out _, out _))
            Done++;
        // Its own driver finds what became of the ring.
        if (_driver.Fault == Fault.None && _driver.FreeDescriptors >= RingSize / 2)
            return;
        _processor.Drain();
        _ring.Publish();
        _ring.Stop();
        Start();
    }

    public int Receive(ReadOnlySpan<byte> bytes)
    {
        Output(bytes);
        return bytes.Length;
    }

    public void CanSend()
    {
    }

    public void DropUnsent()
    {
    }

    public void Deliver(in EthernetFrame frame)
    {
        Assert.True(frame.IsValid && frame.Length <= 1518);
        Output(frame.Bytes);
    }

    public void Miss()
    {
    }

    public void Flush()
    {
    }

    // In the middle of the model's work, memory changes as well.
    private void Output(ReadOnlySpan<byte> bytes)
    {
        ChangingMemory.CheckOutput(bytes);
        _memory.Change(_random, 0, ChangingMemory.Size);
    }

    // False while there is more to do.
    private bool Ask(ref Fault fault)
    {
        if (!_ring.TryFetch(out fault))
            return true;
        if (_processor.Process(out fault))
        {
            _ring.Publish();
            return false;
        }

        if (fault != Fault.None)
            return true;
        if (_random.Next(2) == 0)
            _ring.DisableKicks();
        return _processor.IsFull || !_ring.EnableKicks();
    }

    private void Start()
    {
        _memory.Write(0, new byte[DataAt]);
        var start = ChangingMemory.Base - ChangingMemory.Start;
        _driver = RingForm.NewDriver(_packed, _memory.Host, start, RingSize, _random.Next(2) == 0, true, offset: ChangingMemory.Start);
        _ring = RingForm.NewDevice(_packed);
        var layout = _driver.Layout;
        Assert.True(_ring.TryStart(layout, _memory.Port, QueueState.Beginning(_packed), out var fault), fault.Message);
        _processor.Start(_ring, _features);
    }

    private (VirtioDevice Device, IQueueProcessor Processor) Make()
    {
        if (_kind == "blk")
        {
            var medium = Own(new MemoryBackend(1 << 20));
            var device = new VirtioBlkDevice("blk", medium, "serial");
            return (device, new VirtioBlkQueues(device, new LookingBackend(medium, () => Output(default))));
        }

        if (_kind == "rng")
            return (new VirtioRngDevice("rng"), new VirtioRngQueues(bytes => Fill(bytes)));
        if (_kind is "console-in" or "console-out")
        {
            var device = new VirtioConsoleDevice("console");
            return (device, _kind == "console-out" ? new ConsoleOutputQueue(Receive) : new ConsoleInputQueue(_input, CanSend));
        }

        var network = new EthernetSwitch();
        network.Join(new SwitchPort(this));
        var net = new VirtioNetDevice("net", network, new VirtioNetOptions(Mac) { Packed = true });
        return (net, _kind switch { "net-in" => new ReceiveQueue(net), "net-out" => new TransmitQueue(net, network, 0), _ => new ControlQueue(net) });
    }

    private void Fill(Span<byte> bytes)
    {
        bytes.Fill(7);
        Output(bytes);
    }

    private T Own<T>(T one)
        where T : IDisposable
    {
        _owned.Add(one);
        return one;
    }

    private void Put()
    {
        var slot = DataAt + (_random.Next(16) * SlotBytes);
        var count = 0;
        switch (_kind)
        {
            case "blk":
                _bytes.AsSpan(0, 16).Clear();
                BinaryPrimitives.WriteInt32LittleEndian(_bytes, _random.Next(4) switch { 0 => 0, 1 => 1, 2 => 4, _ => 8 });
                BinaryPrimitives.WriteInt32LittleEndian(_bytes.AsSpan(8), _random.Next(100));
                _memory.Write(slot, _bytes.AsSpan(0, 16));
                Add(ref count, slot, 16, false);
                Add(ref count, slot + 0x100, 512, _bytes[0] != 1);
                Add(ref count, slot + 16, 1, true);
                break;
            case "rng" or "console-in" or "net-in":
                Add(ref count, slot, 100 + _random.Next(900), true);
                break;
            case "console-out":
                _memory.Write(slot, _content.AsSpan(0, 1000));
                Add(ref count, slot, 1 + _random.Next(1000), false);
                break;
            case "net-out":
                _memory.Write(slot, new byte[12]);
                _memory.Write(slot + 12, Net.Frame(Mac + 5, Mac, 1000, 1).AsSpan(0, 1000));
                Add(ref count, slot, 12, false);
                Add(ref count, slot + 12, 14 + _random.Next(900), false);
                break;
            default:
                _bytes.AsSpan(0, 300).Clear();
                _bytes[0] = (byte)_random.Next(6);
                _bytes[1] = (byte)_random.Next(4);
                _memory.Write(slot, _bytes.AsSpan(0, 300));
                Add(ref count, slot, 2, false);
                Add(ref count, slot + 2, 1 + _random.Next(298), false);
                Add(ref count, slot + 0x300, 1, true);
                break;
        }

        var buffers = _buffers.AsSpan(0, count);
        if (_random.Next(3) > 0)
        {
            _driver.Add(buffers);
            return;
        }

        var table = slot + 0x400;
        _memory.Write(table, new byte[16 * count]);
        RingForm.WriteTable(_packed, _memory.Host, ChangingMemory.Start + (ulong)table, buffers);
        _driver.AddIndirect(new Iova(ChangingMemory.Base + (ulong)table), (uint)(16 * count));
    }

    // Now and then in two.
    private void Add(ref int count, int at, int length, bool writes)
    {
        if (length > 1 && _random.Next(3) == 0)
        {
            var first = 1 + _random.Next(length - 1);
            _buffers[count++] = new DriverBuffer(new Iova(ChangingMemory.Base + (ulong)at), (uint)first, writes);
            (at, length) = (at + first, length - first);
        }

        _buffers[count++] = new DriverBuffer(new Iova(ChangingMemory.Base + (ulong)at), (uint)length, writes);
    }
}
