using Virtbus.Core;

namespace Virtbus.Buses.Faux;

/// <summary>A device on the faux bus with the hardware behind it.</summary>
/// <typeparam name="THardware">The hardware's type, by which a driver talks to it.</typeparam>
public sealed class FauxDevice<THardware> : Device, IFauxIdentity
    where THardware : class
{
    internal FauxDevice(FauxBus bus, string name, string model, THardware hardware, Device parent)
        : base(name, parent, bus)
    {
        ArgumentException.ThrowIfNullOrEmpty(model);
        ArgumentNullException.ThrowIfNull(hardware);
        Model = model;
        Hardware = hardware;
    }

    /// <inheritdoc/>
    public string Model { get; }

    /// <summary>The hardware.</summary>
    public THardware Hardware { get; }

    /// <inheritdoc/>
    protected override IReadOnlyList<AttributeGroup> AttributeGroups => Groups;

    private static readonly AttributeGroup[] Groups = [new(new ObjectAttribute<FauxDevice<THardware>>("model", d => d.Model))];
}
