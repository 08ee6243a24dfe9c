using System.Buffers.Binary;
using Virtbus.Ethernet;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Models.VirtioNet;
using Virtbus.Virtio.Rings;

namespace Virtbus.Bench;

/// <summary>
/// Both drivers and both devices by turns on one thread, with the devices' queues called straight: what a frame costs in processor time on all of the
/// way, however busy the host is.
/// </summary>
internal sealed class NetTurns : IDisposable
{
    private const ulong MacA = 0x02_00_00_00_00_0A;
    private const ulong MacB = 0x02_00_00_00_00_0B;
    private const ulong Base = 0x100000;
    private const int Size = 256;
    private const int HeaderSize = 12;
    private const ulong RingSpace = 0x10000;

    private readonly HostMemory _memory;
    private readonly IoAddressSpace _space = new();
    private readonly VirtioNetDevice _a;
    private readonly VirtioNetDevice _b;
    private readonly TransmitQueue _transmit;
    private readonly ReceiveQueue _receive;
    private readonly DriverRing[] _drivers = new DriverRing[2];
    private readonly DeviceRing[] _devices = new DeviceRing[2];
    private readonly int[] _slots = new int[Size];
    private readonly int _length;
    private readonly int _slotSize;
    private readonly int _burst;

    internal NetTurns(bool packed, int length, bool cut, int burst)
    {
        (_length, _burst) = (length, burst);
        _slotSize = cut ? 1 << 17 : 2048;
        _memory = HostMemory.Allocate("virtbus-bench", (2 * RingSpace) + (ulong)(Size * (_slotSize + 2048)), out var file);
        file.Dispose();
        _space.TryMap(new Iova(Base), _memory.Size, _memory, 0, DmaAccess.ReadWrite, out _);
        var dma = new StandaloneDma("bench");
        dma.Attach(_space);
        var network = new EthernetSwitch();
        _a = new VirtioNetDevice("a", network, new VirtioNetOptions(MacA));
        _b = new VirtioNetDevice("b", network, new VirtioNetOptions(MacB));
        var features = _a.DeviceFeatures.Without(VirtioNetConfig.VIRTIO_NET_F_HASH_REPORT);
        _receive = new ReceiveQueue(_b);
        _transmit = new TransmitQueue(_a, network, 0);
        for (var i = 0; i < 2; i++)
        {
            _drivers[i] = packed
                ? new PackedDriverRing(_memory, new Iova(Base), (ulong)i * RingSpace, Size, eventIndex: true, indirect: true)
                : new SplitDriverRing(_memory, new Iova(Base), (ulong)i * RingSpace, Size, eventIndex: true, indirect: true);
            _devices[i] = packed ? new PackedDeviceRing() : new SplitDeviceRing();
            if (!_devices[i].TryStart(_drivers[i].Layout, dma.Port, QueueState.Beginning(packed), out var fault))
                throw new InvalidOperationException(fault.Message);
        }

        _receive.Start(_devices[0], features);
        _transmit.Start(_devices[1], features);
        var port = new SwitchPort(new NetPort(_b, [_receive]));
        network.Join(port);
        var frame = new byte[HeaderSize + length];
        VirtioNetConfig.WriteMac(frame.AsSpan(HeaderSize), MacA);
        VirtioNetConfig.WriteMac(frame.AsSpan(HeaderSize + 6), MacB);
        WriteTcp(frame.AsSpan(HeaderSize));
        // The switch comes to know the port.
        new SwitchBatch(network).Forward(port, new EthernetFrame(frame.AsSpan(HeaderSize, 60)));
        VirtioNetConfig.WriteMac(frame.AsSpan(HeaderSize), MacB);
        VirtioNetConfig.WriteMac(frame.AsSpan(HeaderSize + 6), MacA);
        if (cut)
            new byte[] { 1, 1, 54, 0, 0xA8, 5, 34, 0, 16, 0 }.CopyTo(frame, 0);
        for (var i = 0; i < Size; i++)
        {
            _memory.Write(Place(i), frame);
            Offer(i);
        }

        _drivers[0].Publish();
    }

    /// <summary>Makes a frame behind its addresses one of TCP over IPv4, which a switch looks at before it lets it be cut.</summary>
    /// <param name="frame">The frame.</param>
    internal static void WriteTcp(Span<byte> frame)
    {
        (frame[12], frame[14], frame[22], frame[23]) = (8, 0x45, 64, 6);
        BinaryPrimitives.WriteUInt16BigEndian(frame[16..], (ushort)(frame.Length - 14));
        frame[46] = 0x50;
    }

    /// <summary>Sends frames and takes them.</summary>
    /// <returns>Processor time in nanoseconds a frame, drivers and devices together.</returns>
    internal double Go(int frames)
    {
        var start = Environment.CpuUsage.TotalTime;
        var received = 0;
        for (var sent = 0; sent < frames; sent += _burst)
            received += Burst();
        if (received < frames)
            throw new InvalidOperationException($"{frames - received} frames were lost.");
        return (Environment.CpuUsage.TotalTime - start).TotalNanoseconds / received;
    }

    public void Dispose()
    {
        _transmit.Dispose();
        _receive.Dispose();
        _a.Dispose();
        _b.Dispose();
        _space.Dispose();
        _memory.Dispose();
    }

    private ulong Place(int slot) => (2 * RingSpace) + ((ulong)slot * (ulong)_slotSize);

    private ulong Room(int slot) => (2 * RingSpace) + (Size * (ulong)_slotSize) + ((ulong)slot * 2048);

    private void Offer(int slot) => _slots[_drivers[0].Add([new DriverBuffer(new Iova(Base + Room(slot)), 2048, true)])] = slot;

    private int Burst()
    {
        for (var i = 0; i < _burst; i++)
            _drivers[1].Add([new DriverBuffer(new Iova(Base + Place(i)), (uint)(HeaderSize + _length), false)]);
        _drivers[1].Publish();
        while (_transmit.Process(out _))
            _devices[1].Publish();
        while (_receive.Process(out _))
            _devices[0].Publish();
        while (_drivers[1].TryTakeUsed(out _, out _, out _))
        {
        }

        var bytes = 0L;
        while (_drivers[0].TryTakeUsed(out var head, out var written, out _))
        {
            bytes += written;
            Offer(_slots[head]);
        }

        _drivers[0].Publish();
        return (int)(bytes / (HeaderSize + _length));
    }
}
