using System.Globalization;
using Virtbus.Core;
using Virtbus.Ethernet;
using Virtbus.Platform;

namespace Virtbus.Subsystems.Net;

/// <summary>
/// A network interface: what the net subsystem makes when a driver registers one. Its parent is the device that the hardware is, never the
/// virtual-bus part that the driver was bound through (VB-17), so tools walk from the interface to the hardware.
/// </summary>
public sealed class NetDevice : Device
{
    /// <summary>The smallest MTU that can be set, in bytes.</summary>
    public const int MinMtu = 68;

    private const int StandardMtu = 1500;
    private readonly INetOps _ops;
    private readonly SemaphoreSlim _turn = new(1, 1);
    private IFrameReceiver[] _receivers = [];
    private NetStatistics _statistics;
    private volatile bool _up;
    private volatile bool _present = true;
    private volatile bool _carrier;
    private volatile int _mtu;

    internal NetDevice(NetSubsystem subsystem, string name, Device parent, INetOps ops, NetDeviceOptions options, int index)
        : base(name, parent, bus: null, subsystem.Class)
    {
        _ops = ops;
        Address = options.Address;
        MaxMtu = options.MaxMtu;
        _mtu = Math.Min(StandardMtu, options.MaxMtu);
        PhysicalPortName = options.PhysicalPortName;
        Index = index;
        _carrier = options.Carrier;
    }

    /// <summary>The interface's number, never used twice.</summary>
    public int Index { get; }

    /// <summary>The Ethernet address, 48 bits.</summary>
    public ulong Address { get; }

    /// <summary>The port's name on the adapter (Linux: phys_port_name).</summary>
    public string PhysicalPortName { get; }

    /// <summary>The largest MTU that can be set, in bytes.</summary>
    public int MaxMtu { get; }

    /// <summary>The largest payload of a frame, in bytes.</summary>
    public int Mtu => _mtu;

    /// <summary>True while frames can flow: the user wants the interface up, and its hardware is awake.</summary>
    public bool IsUp => _up && _present;

    /// <summary>True while the link carries.</summary>
    public bool HasCarrier => _carrier;

    /// <summary>The counters at this moment.</summary>
    public NetStatistics Statistics => _statistics.Read();

    /// <summary>Brings the interface up or takes it down.</summary>
    /// <param name="up">The wanted state; asking for the present one does nothing.</param>
    /// <exception cref="VirtbusException">What the driver answers.</exception>
    public async ValueTask SetUpAsync(bool up)
    {
        await _turn.WaitAsync();
        try
        {
            if (up == _up)
                return;
            if (up && _present)
                await _ops.OpenAsync(this);
            _up = up;
            if (!up && _present)
                await _ops.StopAsync(this);
        }
        finally
        {
            _turn.Release();
        }
    }

    /// <summary>
    /// Called by the driver when the hardware goes to sleep and when it is awake again. The user's wish to have the interface up or down stays.
    /// </summary>
    /// <param name="present">Whether the hardware can be used.</param>
    public async ValueTask SetPresentAsync(bool present)
    {
        await _turn.WaitAsync();
        try
        {
            if (present == _present)
                return;
            if (present && _up)
                await _ops.OpenAsync(this);
            _present = present;
            if (!present && _up)
                await _ops.StopAsync(this);
        }
        finally
        {
            _turn.Release();
        }
    }

    /// <summary>Sends a frame. Any thread.</summary>
    /// <param name="frame">
    /// An Ethernet frame without checksum, <see cref="EthernetFrame.MinLength"/> to <see cref="Mtu"/> + <see cref="EthernetFrame.Overhead"/> bytes.
    /// </param>
    /// <param name="fault">ENETDOWN as ENOTCONN: the interface is down; EMSGSIZE: the length; ENOBUFS: the queue is full.</param>
    public bool TryTransmit(ReadOnlySpan<byte> frame, out Fault fault)
    {
        if (!_up || !_present)
            fault = new Fault(Errno.ENOTCONN, "the interface is down");
        else if (frame.Length < EthernetFrame.MinLength || frame.Length > _mtu + EthernetFrame.Overhead)
            fault = new Fault(Errno.EMSGSIZE, "the frame is shorter than a header or longer than the MTU allows");
        else if (_ops.TryTransmit(frame, out fault))
            return _statistics.CountTransmitted(frame.Length);
        _statistics.CountTransmitDropped();
        return false;
    }

    /// <summary>Called by the driver for each frame received.</summary>
    /// <param name="frame">The frame.</param>
    public void Receive(ReadOnlySpan<byte> frame)
    {
        if (!_up)
        {
            _statistics.CountReceiveDropped();
            return;
        }
        _statistics.CountReceived(frame.Length);
        foreach (var receiver in Volatile.Read(ref _receivers))
            receiver.Receive(this, frame);
    }

    /// <summary>Called by the driver when the link comes or goes.</summary>
    /// <param name="carrier">Whether the link carries.</param>
    public void SetCarrier(bool carrier)
    {
        if (_carrier == carrier)
            return;
        _carrier = carrier;
        Fabric?.EmitUevent(this, UeventAction.Change);
    }

    /// <summary>Adds who gets received frames.</summary>
    /// <param name="receiver">The receiver.</param>
    public void AddReceiver(IFrameReceiver receiver)
    {
        lock (_turn)
            Volatile.Write(ref _receivers, [.. _receivers, receiver]);
    }

    /// <summary>Takes a receiver out. One that runs at this moment may still get a frame.</summary>
    /// <param name="receiver">The receiver.</param>
    public void RemoveReceiver(IFrameReceiver receiver)
    {
        lock (_turn)
            Volatile.Write(ref _receivers, [.. _receivers.Where(r => r != receiver)]);
    }

    /// <summary>Writes an address as people read it.</summary>
    /// <param name="address">48 bits.</param>
    public static string FormatAddress(ulong address) =>
        string.Join(':', Enumerable.Range(0, 6).Select(i => (address >> (40 - (8 * i)) & 0xFF).ToString("x2", CultureInfo.InvariantCulture)));

    /// <inheritdoc/>
    protected override void AddUeventVariables(UeventVariables variables)
    {
        variables.Add("INTERFACE", Name);
        variables.Add("IFINDEX", $"{Index}");
    }

    internal static readonly AttributeGroup[] Groups =
    [
        new(
            new ObjectAttribute<NetDevice>("address", d => FormatAddress(d.Address)),
            new ObjectAttribute<NetDevice>("carrier", d => d._carrier ? "1" : "0"),
            new ObjectAttribute<NetDevice>("ifindex", d => $"{d.Index}"),
            new ObjectAttribute<NetDevice>("mtu", d => $"{d._mtu}", (d, value, _) => d.SetMtu(value)),
            new ObjectAttribute<NetDevice>("operstate", d => !d.IsUp || !d._carrier ? "down" : "up"),
            new ObjectAttribute<NetDevice>("flags", d => d._up ? "0x1003" : "0x1002", (d, value, _) => d.SetFlagsAsync(value)),
            new ObjectAttribute<NetDevice>("phys_port_name", d => d.PhysicalPortName)),
        new(
            "statistics",
            new ObjectAttribute<NetDevice>("rx_bytes", d => $"{d.Statistics.ReceivedBytes}"),
            new ObjectAttribute<NetDevice>("rx_dropped", d => $"{d.Statistics.ReceiveDropped}"),
            new ObjectAttribute<NetDevice>("rx_packets", d => $"{d.Statistics.ReceivedFrames}"),
            new ObjectAttribute<NetDevice>("tx_bytes", d => $"{d.Statistics.TransmittedBytes}"),
            new ObjectAttribute<NetDevice>("tx_dropped", d => $"{d.Statistics.TransmitDropped}"),
            new ObjectAttribute<NetDevice>("tx_packets", d => $"{d.Statistics.TransmittedFrames}")),
    ];

    private ValueTask SetMtu(string value)
    {
        var mtu = AttributeValue.ParseUnsigned(DevPath + "/mtu", value);
        if (mtu < MinMtu || mtu > (ulong)MaxMtu)
            throw new VirtbusException(Errno.EINVAL, $"{DevPath}/mtu: {value} is out of range. The interface takes {MinMtu} to {MaxMtu}.");
        _mtu = (int)mtu;
        return default;
    }

    // IFF_UP is bit 0; no other flag can be set here.
    private ValueTask SetFlagsAsync(string value) => SetUpAsync((AttributeValue.ParseUnsigned(DevPath + "/flags", value, 0xFFFF) & 1) != 0);
}
