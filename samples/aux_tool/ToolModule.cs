using Virtbus.Buses.Auxiliary;
using Virtbus.Core;
using Virtbus.Samples;

[assembly: FabricModule("aux_tool", typeof(ToolModule), Description = "Factory tool: provisions and tests parts, offers no subsystem")]

namespace Virtbus.Samples;

/// <summary>A consumer that no subsystem stands behind: what it offers are attributes for the people in the factory.</summary>
public sealed class ToolModule : IFabricModule
{
    /// <inheritdoc/>
    public ValueTask InitAsync(ModuleContext context) => context.RegisterDriverAsync(new FactoryDriver(context.Fabric.GetBus<AuxiliaryBus>(), context.Name));
}

/// <summary>Serves factory parts.</summary>
/// <param name="bus">The auxiliary bus.</param>
/// <param name="module">The module's name.</param>
[AuxiliaryDeviceTable("aux_test_device.factory")]
public sealed class FactoryDriver(AuxiliaryBus bus, string module) : AuxiliaryDriver<FactoryPart>(bus, module)
{
    private static readonly AttributeGroup[] Groups =
    [
        new(
            "factory",
            new ObjectAttribute<FactoryPart>("serial_number", d => d.Port.SerialNumber, Provision, isString: true),
            new ObjectAttribute<FactoryPart>("selftest", d => d.Port.SelfTest()),
            new ObjectAttribute<FactoryPart>("parts", d => string.Concat(d.Parent!.Children.Select(c => $"{c.Name}\t{c.Driver?.Name ?? "-"}\n")))),
    ];

    /// <inheritdoc/>
    protected override IReadOnlyList<AttributeGroup> DeviceAttributeGroups => Groups;

    private static ValueTask Provision(FactoryPart device, string value, CancellationToken cancellationToken)
    {
        device.Port.Provision(value);
        return default;
    }
}
