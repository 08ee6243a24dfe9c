using Virtbus.Ethernet;
using Virtbus.Platform;
using Virtbus.Virtio;
using static Virtbus.Models.VirtioNet.VirtioNetConfig;

namespace Virtbus.Models.VirtioNet;

/// <summary>
/// A virtio network device (VIRTIO 1.3, 5.1) at a port of a switch. Queue 2k receives and queue 2k + 1 sends for pair k; behind them is the control queue,
/// which is queue 2 for a driver of one pair. Frames come in on any thread and wait for no driver. Threads: see <see cref="VirtioDevice"/>.
/// </summary>
public sealed partial class VirtioNetDevice : VirtioDevice
{
    private static readonly VirtioFeatures Offered = VirtioFeatures.Of(
        VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_CTRL_GUEST_OFFLOADS, VIRTIO_NET_F_MTU, VIRTIO_NET_F_MAC,
        VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_HOST_ECN,
        VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_STATUS, VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_CTRL_RX, VIRTIO_NET_F_CTRL_VLAN, VIRTIO_NET_F_CTRL_RX_EXTRA,
        VIRTIO_NET_F_GUEST_ANNOUNCE, VIRTIO_NET_F_CTRL_MAC_ADDR, VIRTIO_NET_F_GUEST_USO4, VIRTIO_NET_F_GUEST_USO6, VIRTIO_NET_F_HOST_USO,
        VIRTIO_NET_F_HASH_REPORT, VIRTIO_NET_F_SPEED_DUPLEX, VIRTIO_NET_F_NOTF_COAL, VIRTIO_NET_F_VQ_NOTF_COAL,
        VirtioFeatures.VIRTIO_F_INDIRECT_DESC, VirtioFeatures.VIRTIO_F_EVENT_IDX, VirtioFeatures.VIRTIO_F_VERSION_1, VirtioFeatures.VIRTIO_F_IN_ORDER);

    // What one that does all by itself offers less.
    private static readonly VirtioFeatures OfOffloads = VirtioFeatures.Of(
        VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_CTRL_GUEST_OFFLOADS, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_GUEST_ECN,
        VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_GUEST_USO4, VIRTIO_NET_F_GUEST_USO6, VIRTIO_NET_F_HOST_USO);

    private static readonly VirtioFeatures OfPairs = VirtioFeatures.Of(VIRTIO_NET_F_MQ, VIRTIO_NET_F_RSS);

    // A feature, and those of which it needs one (5.1.3.1).
    private static readonly (int Feature, VirtioFeatures OneOf)[] Needs =
    [
        (VIRTIO_NET_F_GUEST_TSO4, VirtioFeatures.Of(VIRTIO_NET_F_GUEST_CSUM)),
        (VIRTIO_NET_F_GUEST_TSO6, VirtioFeatures.Of(VIRTIO_NET_F_GUEST_CSUM)),
        (VIRTIO_NET_F_GUEST_ECN, VirtioFeatures.Of(VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6)),
        (VIRTIO_NET_F_GUEST_USO4, VirtioFeatures.Of(VIRTIO_NET_F_GUEST_CSUM)),
        (VIRTIO_NET_F_GUEST_USO6, VirtioFeatures.Of(VIRTIO_NET_F_GUEST_CSUM)),
        (VIRTIO_NET_F_HOST_TSO4, VirtioFeatures.Of(VIRTIO_NET_F_CSUM)),
        (VIRTIO_NET_F_HOST_TSO6, VirtioFeatures.Of(VIRTIO_NET_F_CSUM)),
        (VIRTIO_NET_F_HOST_ECN, VirtioFeatures.Of(VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6)),
        (VIRTIO_NET_F_HOST_USO, VirtioFeatures.Of(VIRTIO_NET_F_CSUM)),
        (VIRTIO_NET_F_CTRL_RX, VirtioFeatures.Of(VIRTIO_NET_F_CTRL_VQ)),
        (VIRTIO_NET_F_CTRL_VLAN, VirtioFeatures.Of(VIRTIO_NET_F_CTRL_VQ)),
        (VIRTIO_NET_F_GUEST_ANNOUNCE, VirtioFeatures.Of(VIRTIO_NET_F_CTRL_VQ)),
        (VIRTIO_NET_F_MQ, VirtioFeatures.Of(VIRTIO_NET_F_CTRL_VQ)),
        (VIRTIO_NET_F_CTRL_MAC_ADDR, VirtioFeatures.Of(VIRTIO_NET_F_CTRL_VQ)),
        (VIRTIO_NET_F_RSS, VirtioFeatures.Of(VIRTIO_NET_F_CTRL_VQ)),
        (VIRTIO_NET_F_NOTF_COAL, VirtioFeatures.Of(VIRTIO_NET_F_CTRL_VQ)),
        (VIRTIO_NET_F_VQ_NOTF_COAL, VirtioFeatures.Of(VIRTIO_NET_F_CTRL_VQ)),
    ];

    // More than guests have, and not enough for one to take the switch's table from all others.
    internal const int MostAddresses = 256;

    private readonly EthernetSwitch _network;
    private readonly VirtioNetOptions _options;
    private readonly ReceiveQueue[] _receive;
    private readonly TransmitQueue[] _transmit;
    private readonly NetPort _sink;

    /// <summary>Makes a device, reset, with no driver and its link up, and puts it on a switch.</summary>
    /// <param name="name">What it is called in logs and thread names.</param>
    /// <param name="network">The switch; the device leaves it when it is disposed.</param>
    /// <param name="options">What it is to be.</param>
    /// <exception cref="VirtbusException">EINVAL: an option is out of bounds.</exception>
    public VirtioNetDevice(string name, EthernetSwitch network, VirtioNetOptions options)
        : base(name, (2 * Checked(name, options).QueuePairs) + 1, options.QueueSize)
    {
        ArgumentNullException.ThrowIfNull(network);
        _network = network;
        _options = options;
        Settings = new NetSettings(options.Mac);
        Coalescing = new NetCoalescing(this, 2 * options.QueuePairs);
        DeviceFeatures = (options.Offloads ? Offered : Offered & ~OfOffloads) | (options.QueuePairs > 1 ? OfPairs : VirtioFeatures.None)
            | (options.Packed ? VirtioFeatures.Of(VirtioFeatures.VIRTIO_F_RING_PACKED) : VirtioFeatures.None);
        _receive = new ReceiveQueue[options.QueuePairs];
        _transmit = new TransmitQueue[options.QueuePairs];
        for (var pair = 0; pair < options.QueuePairs; pair++)
        {
            _receive[pair] = new ReceiveQueue(this);
            _transmit[pair] = new TransmitQueue(this, network, pair);
        }

        _sink = new NetPort(this, _receive);
        Port = new SwitchPort(_sink) { Name = name, AccessVlan = options.Vlan, MaxAddresses = MostAddresses };
        CreateQueues(Queue);
        network.Join(Port);
    }

    /// <inheritdoc/>
    public override uint DeviceId => VirtioDeviceId.VIRTIO_ID_NET;

    /// <inheritdoc/>
    public override VirtioFeatures DeviceFeatures { get; }

    /// <inheritdoc/>
    public override int ConfigSize => Size;

    /// <summary>How many queue pairs the device has.</summary>
    public int QueuePairs => _options.QueuePairs;

    /// <summary>Whether the link is up. While it is not, frames are lost in both directions.</summary>
    public bool IsLinkUp => Settings.IsLinkUp;

    /// <summary>Its speed in Mbit/s, as its driver reads it; null for unknown.</summary>
    public uint? Speed => _options.Speed;

    /// <summary>What went through so far; each number up to date, not all of the same moment. Any thread.</summary>
    public VirtioNetCounters Counters
    {
        get
        {
            var (received, sent) = (default((ulong Frames, ulong Bytes, ulong Lost)), default((ulong Frames, ulong Bytes, ulong Lost)));
            received.Lost = _sink.Lost;
            for (var pair = 0; pair < QueuePairs; pair++)
            {
                var (frames, bytes, lost) = _receive[pair].Counters;
                received = (received.Frames + frames, received.Bytes + bytes, received.Lost + lost + _receive[pair].Refused);
                (frames, bytes, lost) = _transmit[pair].Counters;
                sent = (sent.Frames + frames, sent.Bytes + bytes, sent.Lost + lost);
            }

            return new VirtioNetCounters(received.Frames, received.Bytes, received.Lost, sent.Frames, sent.Bytes, sent.Lost);
        }
    }

    internal NetSettings Settings { get; }

    internal NetCoalescing Coalescing { get; }

    internal bool HasDriver => (Status & VirtioStatus.DRIVER_OK) != 0;

    internal SwitchPort Port { get; }

    internal ReceiveQueue Receiver => _receive[0];

    internal FlowTable Flows { get; } = new();

    /// <summary>Plugs the cable in or out, and tells the driver; without it the switch forgets who was there. Any thread but a queue's.</summary>
    /// <param name="up">Whether the link is to be up.</param>
    public void SetLink(bool up)
    {
        if (IsLinkUp == up)
            return;
        ChangeConfig(() => Settings.SetStatus(VIRTIO_NET_S_LINK_UP, up));
        if (!up)
            _network.Forget(Port);
    }

    /// <summary>Asks the driver to tell the network where it is, after it moved. Any thread but a queue's.</summary>
    /// <returns>False when it did not take VIRTIO_NET_F_GUEST_ANNOUNCE.</returns>
    public bool Announce()
    {
        if (!DriverFeatures.Has(VIRTIO_NET_F_GUEST_ANNOUNCE) || (Status & (VirtioStatus.DRIVER_OK | VirtioStatus.SUSPEND)) == 0)
            return false;
        ChangeConfig(() => Settings.SetStatus(VIRTIO_NET_S_ANNOUNCE, true));
        return true;
    }

    /// <summary>Whether a queue is enabled; on any thread.</summary>
    internal bool IsEnabled(int queue) => IsQueueEnabled(queue);

    /// <summary>What is said of a queue is in force from now on; on any thread.</summary>
    internal void Coalesce(int queue, Coalescing value) => SetQueueCoalescing(queue, value.MaxPackets, value.MaxMicroseconds);

    /// <summary>Whether a frame, or what it is cut into, is longer than the network is to have.</summary>
    internal bool IsTooLong(in EthernetFrame frame)
    {
        var payload = frame.Length - EthernetFrame.MinLength;
        return payload > _options.Mtu && frame.PieceLength - FlowHeader.EthernetBytes(frame.Bytes) > _options.Mtu;
    }

    /// <inheritdoc/>
    protected override void ReadConfig(int offset, Span<byte> destination, VirtioFeatures? driverFeatures)
    {
        Span<byte> space = stackalloc byte[Size];
        Write(space, _options, Settings.Filter.Mac, Settings.Status);
        space.Slice(offset, destination.Length).CopyTo(destination);
    }

    /// <inheritdoc/>
    protected override bool TryWriteConfig(int offset, ReadOnlySpan<byte> source, VirtioFeatures? driverFeatures, out Fault fault)
    {
        if (offset + source.Length > MacSize || driverFeatures is { } features && features.Has(VirtioFeatures.VIRTIO_F_VERSION_1))
            return Refuse(Errno.EROFS, "the only field that a driver may write is mac, and only a legacy driver", out fault);
        Span<byte> mac = stackalloc byte[MacSize];
        WriteMac(mac, Settings.Filter.Mac);
        source.CopyTo(mac[offset..]);
        // Byte by byte, so what it is in between may be no address (5.1.4.3).
        var address = ReadMac(mac);
        Settings.Change((ReceiveFilter filter) => filter with { Mac = address }, Settings.Generation);
        return Done(out fault);
    }

    /// <inheritdoc/>
    protected override bool TryAcceptFeatures(VirtioFeatures features, out Fault fault)
    {
        foreach (var (feature, oneOf) in Needs)
        {
            if (features.Has(feature) && (features & oneOf).IsEmpty)
                return Refuse(Errno.EINVAL, "a network feature was taken without one that it needs", out fault);
        }

        return Done(out fault);
    }

    /// <inheritdoc/>
    protected override void OnReset()
    {
        Settings.Reset();
        Coalescing.Reset();
        Flows.Clear();
    }

    /// <inheritdoc/>
    protected override void OnQueueEnabling(int queue) => Coalescing.Enable(queue, DriverFeatures);

    /// <inheritdoc/>
    protected override void OnBeginUse() => _network.Forget(Port);

    /// <inheritdoc/>
    protected override void OnDispose() => _network.Leave(Port);

    private static VirtioNetOptions Checked(string name, VirtioNetOptions options)
    {
        ArgumentNullException.ThrowIfNull(options);
        return options.Checked(name);
    }

    private IQueueProcessor Queue(int index)
    {
        if (index == 2 * QueuePairs)
            return new ControlQueue(this);
        if ((index & 1) != 0)
            return _transmit[index / 2];
        return index == 2 ? new SecondQueue(_receive[1], new ControlQueue(this)) : _receive[index / 2];
    }
}
