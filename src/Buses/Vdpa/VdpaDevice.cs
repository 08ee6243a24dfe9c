using Virtbus.Core;
using Virtbus.Platform;

namespace Virtbus.Buses.Vdpa;

/// <summary>
/// A virtio data path that a piece of hardware, or a simulator, serves: what a vDPA provider puts on the <c>vdpa</c> bus. The bus only
/// lets the user choose which driver turns it into something (C12): <c>vhost-vdpa</c> hands it to a user outside.
/// </summary>
public sealed class VdpaDevice : Device, IVdpaIdentity
{
    /// <summary>Initializes a device.</summary>
    /// <param name="bus">The fabric's vdpa bus.</param>
    /// <param name="name">The user's name for it.</param>
    /// <param name="parent">The device that serves it.</param>
    /// <param name="ops">The provider's operations.</param>
    /// <exception cref="VirtbusException">EINVAL: the name.</exception>
    public VdpaDevice(VdpaBus bus, string name, Device parent, IVdpaOps ops)
        : base(name, parent, bus)
    {
        ArgumentNullException.ThrowIfNull(bus);
        ArgumentNullException.ThrowIfNull(parent);
        ArgumentNullException.ThrowIfNull(ops);
        Ops = ops;
        Faults = bus.Faults.Open(name);
        ops.SetFaultSource(Faults);
    }

    /// <summary>The provider's operations.</summary>
    public IVdpaOps Ops { get; }

    internal FaultSource Faults { get; }

    /// <inheritdoc/>
    public uint VirtioType => Ops.DeviceId;

    /// <inheritdoc/>
    protected override IReadOnlyList<AttributeGroup> AttributeGroups => Groups;

    private static readonly AttributeGroup[] Groups =
    [
        new(
            new ObjectAttribute<VdpaDevice>("device_id", d => $"{d.Ops.DeviceId}"),
            new ObjectAttribute<VdpaDevice>("device_features", d => $"0x{d.Ops.DeviceFeatures:x}"),
            new ObjectAttribute<VdpaDevice>("faults", static d => $"{d.Faults.Count}", null, static d => d.Faults.Count > 0),
            new ObjectAttribute<VdpaDevice>("max_vq_size", d => $"{d.Ops.MaxQueueSize}"),
            new ObjectAttribute<VdpaDevice>("max_vqs", d => $"{d.Ops.QueueCount}"),
            new ObjectAttribute<VdpaDevice>("status", d => $"0x{d.Ops.Status:x2}"),
            new ObjectAttribute<VdpaDevice>("vendor_id", d => $"0x{d.Ops.VendorId:x}")),
        AttributeGroup.Dynamic<VdpaDevice>("queues", d => Enumerable.Range(0, d.Ops.QueueCount).Select(QueueAttribute)),
    ];

    private static ObjectAttribute<VdpaDevice> QueueAttribute(int queue) => new($"{queue}", d =>
    {
        var counters = d.Ops.GetQueueCounters(queue);
        return $"ready {(d.Ops.IsQueueReady(queue) ? 1 : 0)}\nindex {d.Ops.GetQueueState(queue).NextAvailable}\n"
            + $"requests {counters.Requests}\nbytes {counters.Bytes}\nerrors {counters.Errors}\nkicks {counters.Kicks}\ncalls {counters.Calls}\n"
            + $"in_place {counters.InPlace}\nuring {counters.Uring}\nworker {counters.Worker}";
    });
}
