using Virtbus.Buses.Auxiliary;
using Virtbus.Core;
using Virtbus.Platform;

namespace Virtbus.Drivers.Nic;

/// <summary>A part of an adapter on the virtual bus: the container that core drivers make and part drivers get.</summary>
public sealed class NicPart : AuxiliaryDevice
{
    private readonly INicCore _core;

    /// <summary>Initializes a part, named <c>module.kind.id</c>; it hangs below the hardware's device.</summary>
    /// <param name="bus">The fabric's virtual bus.</param>
    /// <param name="module">The core driver's module.</param>
    /// <param name="kind">What it is for, see <see cref="NicPartKind"/>.</param>
    /// <param name="id">A number that no other part of the module and kind has.</param>
    /// <param name="port">Which of its kind on the adapter it is, from 0.</param>
    /// <param name="core">What the core driver offers.</param>
    /// <exception cref="VirtbusException">EINVAL: a name is not allowed.</exception>
    public NicPart(AuxiliaryBus bus, string module, string kind, uint id, int port, INicCore core)
        : base(bus, module, kind, id, (core ?? throw new ArgumentNullException(nameof(core))).Device)
    {
        Kind = kind;
        Port = port;
        _core = core;
    }

    /// <summary>What the part is for.</summary>
    public string Kind { get; }

    /// <summary>Which of its kind on the adapter it is, from 0.</summary>
    public int Port { get; }

    /// <summary>What the core driver offers.</summary>
    /// <exception cref="ObjectDisposedException">The part was deleted, see <see cref="Device.Shared"/>.</exception>
    public INicCore Core => Shared(_core);

    /// <summary>A capability that the part's driver cannot do without.</summary>
    /// <typeparam name="T">The interface that stands for it.</typeparam>
    /// <exception cref="VirtbusException">ENODEV: the core does not offer it.</exception>
    public T Require<T>()
        where T : class =>
        Core.Find<T>() ?? throw new VirtbusException(
            Errno.ENODEV, $"Part {Name} has no {typeof(T).Name}: the adapter of {Core.Device.Name} does not offer it. Leave the part unbound, or bind a driver that does without.");

    /// <inheritdoc/>
    protected override IReadOnlyList<AttributeGroup> AttributeGroups => [.. base.AttributeGroups, .. Groups];

    private static readonly AttributeGroup[] Groups = [new(new ObjectAttribute<NicPart>("port", d => $"{d.Port}"))];
}
