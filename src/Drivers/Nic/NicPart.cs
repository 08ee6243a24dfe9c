using Virtbus.Buses.Auxiliary;
using Virtbus.Core;

namespace Virtbus.Drivers.Nic;

/// <summary>A part of an adapter on the virtual bus: the container that core drivers make and part drivers get.</summary>
public sealed class NicPart : AuxiliaryDevice
{
    internal NicPart(AuxiliaryBus bus, string module, NicPartKind kind, uint id, int port, INicCore core)
        : base(bus, module, NameOf(kind), id, core.Device)
    {
        Kind = kind;
        Port = port;
        Core = core;
    }

    /// <summary>What the part is for.</summary>
    public NicPartKind Kind { get; }

    /// <summary>Which of its kind on the adapter it is, from 0.</summary>
    public int Port { get; }

    /// <summary>What the core driver offers.</summary>
    public INicCore Core { get; }

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
