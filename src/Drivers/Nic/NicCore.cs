using Virtbus.Buses.Auxiliary;
using Virtbus.Core;
using Virtbus.Hardware.Adapter;
using Virtbus.Hardware.VirtioBlk;
using Virtbus.Platform;

namespace Virtbus.Drivers.Nic;

/// <summary>
/// The library that core drivers share: it makes the parts that an adapter is capable of, and turns the few things in which makes differ
/// into what parts use. A core driver derives from it and says how its hardware is spoken to.
/// </summary>
public abstract class NicCore : INicCore
{
    private readonly Lock _lock = new();
    private Action<NicEvent>[] _handlers = [];
    private volatile bool _linkUp = true;

    /// <summary>Makes the core of an adapter.</summary>
    /// <param name="device">The hardware's device.</param>
    protected NicCore(Device device) => Device = device;

    /// <inheritdoc/>
    public Device Device { get; }

    /// <inheritdoc/>
    public bool IsLinkUp => _linkUp;

    /// <inheritdoc/>
    public abstract NicIdentity Identify();

    /// <inheritdoc/>
    public NicQueues AllocateQueues(int depth) => new(this, AllocateQueueSet(depth));

    /// <inheritdoc/>
    public abstract VirtioBlkDevice CreateBlockFunction(string name, string medium, string serial, int queues);

    /// <inheritdoc/>
    public IDisposable Subscribe(Action<NicEvent> handler)
    {
        ArgumentNullException.ThrowIfNull(handler);
        lock (_lock)
            _handlers = [.. _handlers, handler];
        return new Subscription(this, handler);
    }

    /// <summary>Sets the link and tells the parts.</summary>
    /// <param name="up">Whether it carries.</param>
    public void SetLink(bool up)
    {
        Action<NicEvent>[] handlers;
        lock (_lock)
        {
            if (_linkUp == up)
                return;
            _linkUp = up;
            handlers = _handlers;
        }
        foreach (var handler in handlers)
            handler(up ? NicEvent.LinkUp : NicEvent.LinkDown);
    }

    /// <summary>
    /// Creates one virtual-bus device for each part that the adapter is capable of (MS-01). They are deleted when the core driver is unbound.
    /// </summary>
    /// <param name="module">The core driver's module, the first part of the names.</param>
    /// <param name="ids">The module's allocators; an id comes back when its device is released.</param>
    public async ValueTask CreatePartsAsync(string module, NicPartIds ids)
    {
        ArgumentNullException.ThrowIfNull(ids);
        var identity = Identify();
        for (var port = 0; port < identity.NetworkParts; port++)
            await CreatePartAsync(module, NicPartKind.Net, port, ids.Net);
        for (var port = 0; port < identity.VdpaParts; port++)
            await CreatePartAsync(module, NicPartKind.Vdpa, port, ids.Vdpa);
    }

    /// <summary>The attributes that an adapter has while a core driver is bound.</summary>
    public static IReadOnlyList<AttributeGroup> DeviceAttributeGroups { get; } =
    [
        new(
            new ObjectAttribute<Device>("address", d => Subsystems.Net.NetDevice.FormatAddress(Of(d).Identify().MacAddress)),
            new ObjectAttribute<Device>("link", d => Of(d).IsLinkUp ? "1" : "0", (d, value, _) =>
            {
                Of(d).SetLink(AttributeValue.ParseBoolean(d.DevPath + "/link", value));
                return default;
            })),
    ];

    /// <summary>Has the hardware allocate a queue set.</summary>
    /// <param name="depth">Frames per queue.</param>
    /// <exception cref="VirtbusException">ENOSPC, EINVAL: as the hardware says.</exception>
    protected abstract QueueSet AllocateQueueSet(int depth);

    /// <summary>Has the hardware free a queue set.</summary>
    /// <param name="set">The queue set.</param>
    protected abstract void FreeQueueSet(QueueSet set);

    internal void Free(QueueSet set) => FreeQueueSet(set);

    private static NicCore Of(Device device) =>
        device.GetDriverData<NicCore>() ?? throw new VirtbusException(Errno.ENODEV, $"Adapter {device.Name} lost its driver meanwhile.");

    private async ValueTask CreatePartAsync(string module, NicPartKind kind, int port, IdAllocator ids)
    {
        var bus = Device.Fabric!.GetBus<AuxiliaryBus>();
        var id = ids.Allocate();
        NicPart part;
        try
        {
            part = new NicPart(bus, module, kind, id, port, this) { Release = _ => ids.Free(id) };
        }
        catch
        {
            ids.Free(id);
            throw;
        }
        await Device.Fabric.RegisterAsync(part);
        Device.Resources.AddAction(() => bus.DestroyAsync(part));
    }

    private sealed class Subscription(NicCore core, Action<NicEvent> handler) : IDisposable
    {
        public void Dispose()
        {
            lock (core._lock)
                core._handlers = [.. core._handlers.Where(h => h != handler)];
        }
    }
}
