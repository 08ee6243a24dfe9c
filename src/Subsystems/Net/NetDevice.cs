using System.Collections.Immutable;
using System.Globalization;
using Virtbus.Core;
using Virtbus.Ethernet;
using Virtbus.Platform;

namespace Virtbus.Subsystems.Net;

/// <summary>
/// A network interface: what the net subsystem makes when a driver registers one. Its parent is the device that the hardware is, never the
/// virtual-bus part that the driver was bound through (VB-17), so tools walk from the interface to the hardware.
/// </summary>
public sealed partial class NetDevice : Device
{
    /// <summary>The smallest MTU that can be set, in bytes.</summary>
    public const int MinMtu = 68;

    private readonly INetOps _ops;
    private readonly SemaphoreSlim _turn = new(1, 1);
    private IFrameReceiver[] _receivers = [];
    private readonly TransmitSide[] _transmit;
    private readonly ReceiveSide[] _receive;
    private readonly ulong _ownAddress;
    private readonly OffloadKinds _hardwareTransmit;
    private readonly OffloadKinds _hardwareReceive;
    private ulong _address;
    private long _transmitDropped;
    private ImmutableSortedSet<ushort> _vlans = [];
    private int _promiscuity;
    private volatile OffloadKinds _transmitOffloads;
    private volatile OffloadKinds _receiveOffloads;
    private volatile int _queues;
    private volatile bool _up;
    private bool _isOver;
    private volatile bool _present = true;
    private volatile bool _carrier;
    private volatile int _carrierChanges;
    private volatile string _alias = "";
    private volatile int _mtu;

    internal NetDevice(NetSubsystem subsystem, string name, Device parent, INetOps ops, NetDeviceOptions options, int index)
        : base(name, parent, bus: null, subsystem.Class)
    {
        _ops = ops;
        _ownAddress = _address = options.Address;
        MaxMtu = options.MaxMtu;
        _mtu = Math.Min(options.Mtu, options.MaxMtu);
        PhysicalPortName = options.PhysicalPortName;
        Index = index;
        _carrier = options.Carrier;
        _queues = Math.Max(options.Queues, 1);
        _transmit = [.. Enumerable.Range(0, _queues).Select(queue => new TransmitSide(ops, queue))];
        _receive = [.. Enumerable.Range(0, _queues).Select(static _ => new ReceiveSide())];
        _transmitOffloads = _hardwareTransmit = WithChecksum(options.TransmitOffloads);
        _receiveOffloads = _hardwareReceive = WithChecksum(options.ReceiveOffloads);
        FiltersVlans = options.FiltersVlans;
    }

    /// <summary>The interface's number, never used twice.</summary>
    public int Index { get; }

    /// <summary>The Ethernet address, 48 bits.</summary>
    public ulong Address => Volatile.Read(ref _address);

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

    /// <summary>How many queues of each kind there are, whether they are used or not.</summary>
    public int MaxQueues => _transmit.Length;

    /// <summary>How many queues of each kind are used.</summary>
    public int Queues => _queues;

    /// <summary>What of a frame's offload data goes to the hardware as it is: what that can and nobody switched off.</summary>
    public OffloadKinds Offloads => WithChecksum(_transmitOffloads);

    /// <summary>Whether the hardware drops frames of VLANs that are not among <see cref="Vlans"/>.</summary>
    public bool FiltersVlans { get; }

    /// <summary>The VLANs whose frames are received, where the hardware chooses; all while the interface is promiscuous.</summary>
    public IReadOnlyCollection<ushort> Vlans => Volatile.Read(ref _vlans);

    /// <summary>Whether all frames are received, whomever they are for.</summary>
    public bool IsPromiscuous => Volatile.Read(ref _promiscuity) > 0;

    /// <summary>The counters at this moment, of all queues together.</summary>
    public NetStatistics Statistics
    {
        get
        {
            var sum = new NetStatistics { TransmitDropped = Interlocked.Read(ref _transmitDropped) };
            foreach (var side in _transmit)
                sum = sum.Plus(side.Statistics);
            foreach (var side in _receive)
                sum = sum.Plus(side.Statistics);
            return sum;
        }
    }

    /// <summary>Brings the interface up or takes it down.</summary>
    /// <param name="up">The wanted state; asking for the present one does nothing.</param>
    /// <exception cref="VirtbusException">ENODEV: it is being taken out; what the driver answers.</exception>
    public ValueTask SetUpAsync(bool up) => SetUpAsync(up, isEnd: false);

    /// <summary>Takes the interface down for good: its driver goes.</summary>
    internal ValueTask EndAsync() => SetUpAsync(false, isEnd: true);

    private async ValueTask SetUpAsync(bool up, bool isEnd)
    {
        await _turn.WaitAsync();
        try
        {
            _isOver |= isEnd;
            if (up == _up)
                return;
            if (_isOver && up)
                throw new VirtbusException(Errno.ENODEV, $"Interface {Name} is being taken out. Bind its driver again first.");
            if (up && _present)
                await OpenAsync();
            _up = up;
            if (!up && _present)
                await CloseAsync();
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
                await OpenAsync();
            _present = present;
            if (!present && _up)
                await CloseAsync();
        }
        finally
        {
            _turn.Release();
        }
    }

    /// <summary>
    /// Has all frames received, whomever they are for, until as many calls say otherwise (Linux: dev_set_promiscuity).
    /// </summary>
    /// <param name="promiscuous">Whether one user more wants them, or one less.</param>
    /// <exception cref="VirtbusException">What the driver answers; nothing is changed then.</exception>
    public async ValueTask SetPromiscuousAsync(bool promiscuous)
    {
        await _turn.WaitAsync();
        try
        {
            var after = _promiscuity + (promiscuous ? 1 : -1);
            if (after < 0)
                throw new InvalidOperationException($"Nobody wants all frames of {Name}, and somebody takes that back.");
            if (_up && _present && after > 0 != _promiscuity > 0)
                await _ops.SetPromiscuousAsync(this, promiscuous);
            Volatile.Write(ref _promiscuity, after);
        }
        finally
        {
            _turn.Release();
        }
    }

    /// <summary>Gives the interface another address.</summary>
    /// <param name="address">48 bits, no group's and not 0.</param>
    /// <exception cref="VirtbusException">EADDRNOTAVAIL: it is none that an interface has; EOPNOTSUPP: the hardware's is fixed; what the driver answers.</exception>
    public async ValueTask SetAddressAsync(ulong address)
    {
        if (address == 0 || address >> 48 != 0 || EthernetFrame.IsMulticast(address))
            throw new VirtbusException(Errno.EADDRNOTAVAIL, $"{DevPath}/address: {FormatAddress(address)} is no address of an interface. Choose one that is not 0 and whose first byte is even.");
        await _turn.WaitAsync();
        try
        {
            await _ops.SetAddressAsync(this, address);
            Volatile.Write(ref _address, address);
        }
        finally
        {
            _turn.Release();
        }
    }

    /// <summary>Sets the VLANs whose frames are received, where the hardware chooses.</summary>
    /// <param name="vlans">Each 1 to 4094.</param>
    /// <exception cref="VirtbusException">What the driver answers; those before it are set then.</exception>
    public async ValueTask SetVlansAsync(IEnumerable<ushort> vlans)
    {
        ImmutableSortedSet<ushort> wanted = [.. vlans];
        await _turn.WaitAsync();
        try
        {
            foreach (var vlan in _vlans.SymmetricExcept(wanted))
            {
                var isWanted = wanted.Contains(vlan);
                if (_up && _present)
                    await _ops.SetVlanAsync(this, vlan, isWanted);
                Volatile.Write(ref _vlans, isWanted ? _vlans.Add(vlan) : _vlans.Remove(vlan));
            }
        }
        finally
        {
            _turn.Release();
        }
    }

    /// <summary>Called by the driver when it uses fewer queues than it registered, or more than before.</summary>
    /// <param name="queues">1 to as many as were registered.</param>
    public void SetQueues(int queues)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(queues, 1);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(queues, _transmit.Length);
        _queues = queues;
    }

    /// <summary>Called by the driver when the link comes or goes.</summary>
    /// <param name="carrier">Whether the link carries.</param>
    public void SetCarrier(bool carrier)
    {
        if (_carrier == carrier)
            return;
        _carrier = carrier;
        Interlocked.Increment(ref _carrierChanges);
        Fabric?.EmitUevent(this, UeventAction.Change);
    }

    /// <summary>Adds who gets received frames.</summary>
    /// <param name="receiver">The receiver.</param>
    public void AddReceiver(IFrameReceiver receiver)
    {
        lock (_turn)
            Volatile.Write(ref _receivers, [.. _receivers, receiver]);
    }

    /// <summary>Takes a receiver out. One that runs at this moment may still get a frame; one in the middle of a batch is told of its end.</summary>
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

    private static OffloadKinds WithChecksum(OffloadKinds kinds) => (kinds & OffloadKinds.Checksum) == OffloadKinds.None ? OffloadKinds.None : kinds;

    // Hardware that was reset knows nothing of before.
    private async ValueTask OpenAsync()
    {
        await _ops.OpenAsync(this);
        try
        {
            if (_address != _ownAddress)
                await _ops.SetAddressAsync(this, _address);
            await _ops.SetPromiscuousAsync(this, IsPromiscuous);
            foreach (var vlan in _vlans)
                await _ops.SetVlanAsync(this, vlan, true);
        }
        catch
        {
            await _ops.StopAsync(this);
            throw;
        }

        foreach (var side in _transmit)
            side.SetOpen(true);
    }

    private ValueTask CloseAsync()
    {
        foreach (var side in _transmit)
            side.SetOpen(false);
        return _ops.StopAsync(this);
    }
}
