using System.Collections.Concurrent;
using Virtbus.Block;
using Virtbus.Ethernet;
using Virtbus.Models.VirtioBlk;
using Virtbus.Platform;

namespace Virtbus.Hardware.Adapter;

/// <summary>
/// What every make of adapter has inside: the lanes that do the work of its functions, the switch between their queue sets, the wire to the
/// outside, and the media for block functions.
/// </summary>
public sealed class AdapterEngine : IDisposable
{
    private const int WireDepth = 256;
    private readonly Lock _lock = new();
    private readonly ConcurrentDictionary<string, Medium> _media = new();
    private readonly List<FunctionUnit> _functions = [];
    private volatile bool _linkUp = true;

    /// <summary>Makes the inside of an adapter.</summary>
    /// <param name="name">The adapter's name, for thread names and errors.</param>
    /// <param name="macAddress">The first address, 48 bits; parts count up from it.</param>
    /// <param name="networkParts">How many network parts its physical function is capable of.</param>
    /// <param name="vdpaParts">How many vDPA parts each function is capable of.</param>
    public AdapterEngine(string name, ulong macAddress, int networkParts, int vdpaParts)
    {
        Name = name;
        MacAddress = macAddress;
        NetworkParts = networkParts;
        VdpaParts = vdpaParts;
        Common = new AdapterLane(this, name);
    }

    /// <summary>The adapter's name.</summary>
    public string Name { get; }

    /// <summary>The adapter's first address.</summary>
    public ulong MacAddress { get; }

    /// <summary>How many network parts the physical function is capable of; a virtual one has at most one.</summary>
    public int NetworkParts { get; }

    /// <summary>How many vDPA parts each function is capable of.</summary>
    public int VdpaParts { get; }

    /// <summary>How many queue sets the functions have at this moment.</summary>
    public int QueueSetCount => Switch.Ports.Count(p => p.Sink is QueueSet);

    /// <summary>Whether the link carries.</summary>
    public bool IsLinkUp => _linkUp;

    /// <summary>What is between its ports.</summary>
    internal EthernetSwitch Switch { get; } = new();

    /// <summary>The lane of the wire, and of all functions that no user owns.</summary>
    internal AdapterLane Common { get; }

    /// <summary>Puts a medium in, for a block function to use. It stays its owner's.</summary>
    /// <param name="name">The medium's name.</param>
    /// <param name="medium">The back end.</param>
    /// <param name="cacheMode">Keeps the cache mode that its drivers choose; null for as long as it is in.</param>
    /// <exception cref="VirtbusException">EEXIST: a medium of that name is in.</exception>
    public void AttachMedium(string name, IBlockBackend medium, ICacheModeStore? cacheMode = null)
    {
        if (!_media.TryAdd(name, new Medium(medium, cacheMode ?? new VolatileCacheMode())))
            throw new VirtbusException(Errno.EEXIST, $"Adapter {Name} has a medium '{name}' already. Choose another name.");
    }

    /// <summary>Takes a medium out. Functions that use it must be gone; the medium stays its owner's to close.</summary>
    /// <param name="name">The medium's name; one that is not there is no error.</param>
    public void DetachMedium(string name) => _media.TryRemove(name, out _);

    /// <summary>Plugs a wire in: one more port of the switch.</summary>
    /// <param name="send">Takes a frame to the outside, on the common lane's thread; it must not block. The frame is valid during the call only.</param>
    public AdapterWire ConnectWire(FrameHandler send)
    {
        ArgumentNullException.ThrowIfNull(send);
        return new AdapterWire(this, WireDepth, send);
    }

    /// <summary>Stops the adapter's threads. Its functions must be out of their slots.</summary>
    public void Dispose() => Common.Dispose();

    /// <summary>Makes a virtio block device on a medium; ENOENT when there is no such medium.</summary>
    internal Errno CreateBlockFunction(in VirtioBlockParameters parameters, out VirtioBlkDevice? device)
    {
        device = null;
        if (!_media.TryGetValue(parameters.Medium, out var medium))
            return Errno.ENOENT;
        try
        {
            device = new VirtioBlkDevice(
                parameters.Name, medium.Backend, parameters.Serial, parameters.Queues, cacheMode: medium.CacheMode, packed: parameters.Packed);
            return Errno.None;
        }
        catch (VirtbusException e)
        {
            // The host has no descriptor left.
            return e.Errno;
        }
    }

    internal void SetLink(bool up)
    {
        _linkUp = up;
        FunctionUnit[] functions;
        lock (_lock)
            functions = [.. _functions];
        foreach (var function in functions)
            function.TellLink();
    }

    internal void Add(FunctionUnit function)
    {
        lock (_lock)
            _functions.Add(function);
    }

    internal void Remove(FunctionUnit function)
    {
        lock (_lock)
            _functions.Remove(function);
    }

    /// <summary>Makes a lane for one function.</summary>
    /// <param name="name">The function's name.</param>
    internal AdapterLane OpenLane(string name) => new(this, name);

    /// <summary>Ends a lane that no function has any more; not the common one.</summary>
    internal void CloseLane(AdapterLane lane)
    {
        if (lane == Common)
            return;
        Switch.RemoveLane(lane.Switching);
        lane.Dispose();
    }

    private sealed record Medium(IBlockBackend Backend, ICacheModeStore CacheMode);
}
