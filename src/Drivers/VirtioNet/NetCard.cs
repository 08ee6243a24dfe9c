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
    // Of a device that says it has more, so many are used: what it says is not to cost any amount of memory.
    private const int MostPairs = 128;
    private const int PairsOffset = 8;
    private const int MtuOffset = 10;
    private const int StandardMtu = 1500;
    private const int MacSize = 6;
    private const int AnnounceSize = 60;

    private readonly VirtioBusDevice _device;
    private readonly ReceiveRing[] _receive;
    private readonly TransmitRing[] _transmit;
    private readonly ControlRing? _control;
    private readonly int _controlNumber;
    private readonly OffloadKinds _takes;
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
        _takes = NetFeatures.Receive(device.Has);
        var longest = _takes is OffloadKinds.None or OffloadKinds.Checksum ? MaxMtu + EthernetFrame.Overhead : EthernetFrame.MaxUncutLength;
        _receive = new ReceiveRing[Math.Min(pairs, MostPairs)];
        _transmit = new TransmitRing[_receive.Length];
        try
        {
            for (var i = 0; i < _receive.Length; i++)
            {
                _receive[i] = new ReceiveRing(device, i, header, isMergeable, longest, _takes);
                _transmit[i] = new TransmitRing(device, header);
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

    /// <summary>What the interface is, when the queues are made.</summary>
    internal NetDeviceOptions Options => new(Address, "p0", MaxMtu, ReadLink())
    {
        Queues = _receive.Length,
        // A queue of fewer descriptors than the longest frame takes would lose it each time.
        TransmitOffloads = NetFeatures.Transmit(_device.Has) & (_device.Queues.All(static q => q.Size >= TransmitRing.MostSlots || q.Index % 2 == 0) ? OffloadKinds.All : OffloadKinds.Checksum),
        ReceiveOffloads = _takes,
        FiltersVlans = _device.Has(VIRTIO_NET_F_CTRL_VLAN),
    };

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

    /// <summary>Has commands end with a probe that is given up; with none, that it is through.</summary>
    internal void SetProbing(CancellationToken cancellationToken)
    {
        if (_control is { } control)
            control.Probing = cancellationToken;
    }

    /// <summary>The device runs: it gets receive buffers, and is told how many pairs are used.</summary>
    internal async ValueTask BeginAsync()
    {
        foreach (var ring in _receive)
            ring.Fill();
        _pairs = _receive.Length > 1 && await _control!.TryCommandAsync(NetCommand.SetPairs, [(byte)_receive.Length, 0]) ? _receive.Length : 1;
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
    internal bool ReadLink() => !_device.Has(VIRTIO_NET_F_STATUS) || (ReadStatus() & VIRTIO_NET_S_LINK_UP) != 0;

    /// <summary>Whether the device asks the driver to tell the network where it is.</summary>
    internal bool IsAskedToAnnounce => _device.Has(VIRTIO_NET_F_GUEST_ANNOUNCE) && (ReadStatus() & VIRTIO_NET_S_ANNOUNCE) != 0;

    /// <summary>Tells the network where the interface is, and the device that it was told (VIRTIO 1.3, 5.1.6.5.4).</summary>
    internal async Task AnnounceAsync()
    {
        if (Interface is not { } there)
            return;
        // An interface that is down tells nobody.
        there.TryTransmit(MakeAnnouncement(there.Address), out _);
        await _control!.TryCommandAsync(NetCommand.AcknowledgeAnnounce, []);
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

    public bool TryTransmit(int queue, in EthernetFrame frame, out Fault fault) => _transmit[queue].TrySend(frame, out fault);

    public void Flush(int queue) => _transmit[queue].Flush();

    public bool SetPolled(int queue, bool polled)
    {
        _receive[queue].SetPolled(polled);
        return true;
    }

    public bool Poll(int queue) => _receive[queue].Poll();

    // A device that does not choose gives all frames. One that does was told of no groups: all of them are wanted.
    public async ValueTask SetPromiscuousAsync(NetDevice device, bool promiscuous)
    {
        if (!_device.Has(VIRTIO_NET_F_CTRL_RX))
            return;
        if (!await _control!.TryCommandAsync(NetCommand.AllMulticast, [1]) | !await _control.TryCommandAsync(NetCommand.Promiscuous, [promiscuous ? (byte)1 : (byte)0]) && promiscuous)
            throw Refused("to receive all frames");
    }

    public async ValueTask SetAddressAsync(NetDevice device, ulong address)
    {
        if (!_device.Has(VIRTIO_NET_F_CTRL_MAC_ADDR))
            throw new VirtbusException(Errno.EOPNOTSUPP, $"Interface {device.Name} has the address of its device, which offers no way to change it.");
        var bytes = new byte[8];
        BinaryPrimitives.WriteUInt64BigEndian(bytes, address << 16);
        if (!await _control!.TryCommandAsync(NetCommand.SetAddress, bytes[..MacSize]))
            throw Refused($"the address {NetDevice.FormatAddress(address)}");
    }

    public async ValueTask SetVlanAsync(NetDevice device, ushort vlan, bool wanted)
    {
        if (_device.Has(VIRTIO_NET_F_CTRL_VLAN) && !await _control!.TryCommandAsync(wanted ? NetCommand.AddVlan : NetCommand.RemoveVlan, [(byte)vlan, (byte)(vlan >> 8)]))
            throw Refused($"VLAN {vlan}");
    }

    public void Dispose()
    {
        Stop();
        foreach (var ring in _receive)
            ring?.Dispose();
        foreach (var ring in _transmit)
            ring?.Dispose();
        _control?.Dispose();
    }

    private VirtbusException Refused(string what) => new(Errno.EIO, $"Device {_device.Name} refuses {what}, or does not answer. Bind it anew, or leave it as it is.");

    private ushort ReadStatus()
    {
        Span<byte> status = stackalloc byte[2];
        return _device.TryReadConfig(StatusOffset, status, out _) ? BinaryPrimitives.ReadUInt16LittleEndian(status) : (ushort)0;
    }

    // Who asks for his own address by another one's (RFC 903): an interface has no IP address, and switches learn by any frame.
    private static byte[] MakeAnnouncement(ulong address)
    {
        var frame = new byte[AnnounceSize];
        frame.AsSpan(0, MacSize).Fill(0xFF);
        WriteAddress(frame, MacSize);
        ReadOnlySpan<byte> request = [0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3];
        request.CopyTo(frame.AsSpan(12));
        WriteAddress(frame, 22);
        WriteAddress(frame, 32);
        return frame;

        void WriteAddress(Span<byte> to, int at)
        {
            BinaryPrimitives.WriteUInt16BigEndian(to[at..], (ushort)(address >> 32));
            BinaryPrimitives.WriteUInt32BigEndian(to[(at + 2)..], (uint)address);
        }
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
