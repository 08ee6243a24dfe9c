using System.Buffers.Binary;
using Virtbus.Buses.Virtio;
using Virtbus.Ethernet;
using Virtbus.Platform;
using Virtbus.Subsystems.Net;
using Virtbus.Virtio;
using static Virtbus.Models.VirtioNet.VirtioNetConfig;

namespace Virtbus.Drivers.VirtioNet;

/// <summary>One device: its queue pairs and its control queue, as the operations of an interface.</summary>
internal sealed class NetCard : INetOps, IDisposable
{
    // Which is as many as an interface of ours has use for; a device may have more.
    private const int MostPairs = 8;
    private const int PairsOffset = 8;
    private const int MtuOffset = 10;
    private const int StandardMtu = 1500;
    private const int MacSize = 6;
    private const int AddressType = 12;
    private const ushort IPv4 = 0x0800;
    private const ushort IPv6 = 0x86DD;

    private readonly VirtioBusDevice _device;
    private readonly ReceiveRing[] _receive;
    private readonly TransmitRing[] _transmit;
    private readonly ControlRing? _control;
    private readonly int _controlNumber;
    private int _pairs = 1;

    /// <summary>Reads who it is, and allocates its buffers.</summary>
    /// <exception cref="VirtbusException">The configuration can't be read; ENOMEM.</exception>
    internal NetCard(VirtioBusDevice device)
    {
        _device = device;
        Span<byte> mac = stackalloc byte[MacSize];
        if (device.Has(VIRTIO_NET_F_MAC))
            device.ReadConfig(0, mac);
        Address = AddressOf(mac);
        MaxMtu = device.Has(VIRTIO_NET_F_MTU) ? Math.Min((int)device.ReadConfigUInt16(MtuOffset), EthernetFrame.MaxLength - EthernetFrame.Overhead) : StandardMtu;
        var pairs = device.Has(VIRTIO_NET_F_MQ) ? Math.Max((int)device.ReadConfigUInt16(PairsOffset), 1) : 1;
        _controlNumber = 2 * pairs;
        var isMergeable = device.Has(VIRTIO_NET_F_MRG_RXBUF);
        var header = isMergeable || !device.IsLegacy ? 12 : 10;
        _receive = new ReceiveRing[Math.Min(pairs, MostPairs)];
        _transmit = new TransmitRing[_receive.Length];
        try
        {
            for (var i = 0; i < _receive.Length; i++)
            {
                _receive[i] = new ReceiveRing(device, header, isMergeable, MaxMtu + EthernetFrame.Overhead);
                _transmit[i] = new TransmitRing(device, header, MaxMtu + EthernetFrame.Overhead);
            }

            if (device.Has(VIRTIO_NET_F_CTRL_VQ))
                _control = new ControlRing(device);
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    /// <summary>The Ethernet address: the device's; one of our own where it has none, or one that no interface can have.</summary>
    internal ulong Address { get; }

    internal int MaxMtu { get; }

    /// <summary>How many pairs are used.</summary>
    internal int Pairs => _pairs;

    internal NetDevice? Interface { get; set; }

    /// <summary>Makes the queues; nobody uses them before <see cref="BeginAsync"/>.</summary>
    internal void Start()
    {
        var specs = new List<VirtioQueueSpec>();
        for (var i = 0; i < _receive.Length; i++)
        {
            specs.Add(new VirtioQueueSpec($"input.{i}", _receive[i].Take, ReceiveRing.Depth) { Number = 2 * i });
            // What was sent is taken back when there is more to send.
            specs.Add(new VirtioQueueSpec($"output.{i}", null, TransmitRing.Depth) { Number = (2 * i) + 1 });
        }

        if (_control is not null)
            specs.Add(new VirtioQueueSpec("control", _control.Take, ControlRing.Depth) { Number = _controlNumber });
        var queues = _device.CreateQueues([.. specs]);
        for (var i = 0; i < _receive.Length; i++)
        {
            _receive[i].Attach(queues[2 * i]);
            _transmit[i].Attach(queues[(2 * i) + 1]);
        }

        _control?.Attach(queues[^1]);
    }

    /// <summary>The device runs: it gets receive buffers, and is told how many pairs are used.</summary>
    internal async ValueTask BeginAsync(CancellationToken cancellationToken)
    {
        foreach (var ring in _receive)
            ring.Fill();
        _pairs = _receive.Length > 1 && await _control!.TrySetPairsAsync(_receive.Length, cancellationToken) ? _receive.Length : 1;
    }

    /// <summary>Lets go of the queues: no frame goes in or out when it returns.</summary>
    internal void Stop()
    {
        foreach (var ring in _receive)
            ring.Detach();
        foreach (var ring in _transmit)
            ring.Detach();
        _control?.Detach();
    }

    /// <summary>Whether the link carries, as the device says; it does where it does not say.</summary>
    internal bool ReadLink()
    {
        if (!_device.Has(VIRTIO_NET_F_STATUS))
            return true;
        Span<byte> status = stackalloc byte[2];
        return _device.TryReadConfig(StatusOffset, status, out _) && (BinaryPrimitives.ReadUInt16LittleEndian(status) & VIRTIO_NET_S_LINK_UP) != 0;
    }

    public ValueTask OpenAsync(NetDevice device)
    {
        foreach (var ring in _receive)
            ring.SetReceiver(device);
        return default;
    }

    public ValueTask StopAsync(NetDevice device)
    {
        foreach (var ring in _receive)
            ring.SetReceiver(null);
        return default;
    }

    // Frames of one flow go by one pair, so that they stay in order.
    public bool TryTransmit(ReadOnlySpan<byte> frame, out Fault fault) => _transmit[_pairs == 1 ? 0 : (int)(FlowOf(frame) % (uint)_pairs)].TrySend(frame, out fault);

    public void Dispose()
    {
        Stop();
        foreach (var ring in _receive)
            ring?.Dispose();
        foreach (var ring in _transmit)
            ring?.Dispose();
        _control?.Dispose();
    }

    private static uint FlowOf(ReadOnlySpan<byte> frame)
    {
        var hash = new HashCode();
        hash.AddBytes(frame[..AddressType]);
        var type = BinaryPrimitives.ReadUInt16BigEndian(frame[AddressType..]);
        if (type == IPv4 && frame.Length >= 34)
            hash.AddBytes(frame[26..34]);
        else if (type == IPv6 && frame.Length >= 54)
            hash.AddBytes(frame[22..54]);
        return (uint)hash.ToHashCode();
    }

    private ulong AddressOf(ReadOnlySpan<byte> mac)
    {
        var address = 0UL;
        foreach (var value in mac)
            address = (address << 8) | value;
        // Locally administered, the same at every start.
        return address == 0 || EthernetFrame.IsMulticast(address) ? 0x02_00_00_00_00_00 | (ulong)StableHash.Of(_device.DevPath) : address;
    }
}
