using Virtbus.Buses.Auxiliary;
using Virtbus.Core;

namespace Virtbus.Drivers.Nic;

/// <summary>A part of an adapter on the virtual bus: the container that core drivers make and part drivers get.</summary>
public sealed class NicPart : AuxiliaryDevice
{
    private readonly INicCore _core;

    internal NicPart(AuxiliaryBus bus, string module, NicPartKind kind, uint id, int port, INicCore core)
        : base(bus, module, NameOf(kind), id, core.Device)
    {
        Kind = kind;
        Port = port;
        _core = core;
    }

    /// <summary>What the part is for.</summary>
    public NicPartKind Kind { get; }

    /// <summary>Which of its kind on the adapter it is, from 0.</summary>
    public int Port { get; }

    /// <summary>What the core driver offers.</summary>
    /// <exception cref="ObjectDisposedException">The part was deleted, see <see cref="Device.Shared"/>.</exception>
    public INicCore Core => Shared(_core);

    /// <summary>What a part of kind <see cref="NicPartKind.VfMigration"/> is for; null for the others.</summary>
    public INicVfMigration? VfMigration { get; internal init; }

    /// <inheritdoc/>
    protected override IReadOnlyList<AttributeGroup> AttributeGroups => [.. base.AttributeGroups, .. Groups];

    private static string NameOf(NicPartKind kind) => kind switch
    {
        NicPartKind.Net => "net",
        NicPartKind.Vdpa => "vdpa",
        _ => "vfmig",
    };

    private static readonly AttributeGroup[] Groups = [new(new ObjectAttribute<NicPart>("port", d => $"{d.Port}"))];
}
