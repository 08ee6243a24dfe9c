using Virtbus.Buses.Pci;
using Virtbus.Core;
using Virtbus.Platform;

namespace Virtbus.Subsystems.Vfio;

/// <summary>A module whose driver can hand a PCI device to a user over VFIO.</summary>
/// <param name="Module">The module; its drivers show below <c>/module/NAME/drivers</c> once it is loaded.</param>
/// <param name="Alias">The alias of it that matches the device.</param>
public sealed record VfioSuggestion(ModuleInfo Module, string Alias)
{
    private const string DevicePrefix = "pci:";
    private const string DriverPrefix = "vfio_pci:";

    // In the order of the alias. Each begins where its letters stand behind the end of the one before.
    private static readonly (string Letters, string Name)[] Fields =
    [
        ("v", "vendor"), ("d", "device"), ("sv", "subsystem vendor"), ("sd", "subsystem device"), ("bc", "class"), ("sc", "subclass"), ("i", "interface"),
    ];

    /// <summary>Whether the module takes any PCI device, because its alias names none.</summary>
    public bool IsGeneric => FixedFields(Alias) == 0;

    /// <summary>Why it is suggested, as a sentence.</summary>
    public string Reason => IsGeneric
        ? $"{Module.Name} takes any PCI device ({Alias})."
        : $"{Module.Name} is made for this device: {string.Join(", ", NamesOf(Alias))} match ({Alias}).";

    /// <summary>
    /// The modules by which a PCI device can be handed to a user, best first: a variant made for the device, then the generic one. They never
    /// bind by themselves; a tool loads the module, sets driver_override to its driver's name, unbinds and binds (VP-05).
    /// </summary>
    /// <param name="index">The modules that there are.</param>
    /// <param name="modalias">The device's alias; other than of PCI, there is none.</param>
    public static IReadOnlyList<VfioSuggestion> For(ModuleIndex index, string modalias)
    {
        ArgumentNullException.ThrowIfNull(index);
        ArgumentNullException.ThrowIfNull(modalias);
        if (!modalias.StartsWith(DevicePrefix, StringComparison.Ordinal))
            return [];
        var wanted = DriverPrefix + modalias[DevicePrefix.Length..];
        return
        [
            .. index.Modules
                .Select(m => m.Aliases.Where(a => AliasPattern.IsMatch(a, wanted)).OrderByDescending(FixedFields).FirstOrDefault() is { } alias
                    ? new VfioSuggestion(m, alias)
                    : null)
                .OfType<VfioSuggestion>()
                .OrderByDescending(s => FixedFields(s.Alias))
                .ThenBy(s => s.Module.Name, StringComparer.Ordinal),
        ];
    }

    /// <summary>
    /// Shows them on PCI devices as the attribute <c>vfio_drivers</c>: a line for each, the best first, with the driver's name and why. Linux has
    /// no such file; there a tool reads modules.alias.
    /// </summary>
    /// <param name="fabric">The fabric.</param>
    /// <param name="loader">Who knows the modules.</param>
    public static void ShowOnDevices(Fabric fabric, ModuleLoader loader)
    {
        ArgumentNullException.ThrowIfNull(fabric);
        ArgumentNullException.ThrowIfNull(loader);
        fabric.Tree.AddDeviceGroup(new AttributeGroup(new ObjectAttribute<Device>(
            "vfio_drivers",
            d => string.Join('\n', For(loader.Index, d.Modalias ?? "").Select(s => $"{s.DriverOn(d.Bus!)} {s.Reason}")),
            null,
            static d => d.Bus is PciBus)));
    }

    /// <summary>
    /// The name of its driver. A module's drivers are known once it is loaded; before that, by the custom of Linux that they are called as the
    /// module.
    /// </summary>
    /// <param name="bus">The bus of the device.</param>
    public string DriverOn(Bus bus)
    {
        ArgumentNullException.ThrowIfNull(bus);
        return bus.Drivers.FirstOrDefault(d => d.Module == Module.Name)?.Name ?? ModuleName.DriverOf(Module.Name);
    }

    // How many ids an alias names: the more, the better it fits.
    private static int FixedFields(string alias) => NamesOf(alias).Count;

    private static List<string> NamesOf(string alias)
    {
        var names = new List<string>();
        var rest = alias.AsSpan();
        if (rest.StartsWith(DriverPrefix, StringComparison.Ordinal))
            rest = rest[DriverPrefix.Length..];
        foreach (var (letters, name) in Fields)
        {
            if (!rest.StartsWith(letters, StringComparison.Ordinal))
                break;
            rest = rest[letters.Length..];
            // Values have upper-case digits, so the next field's letters end one.
            var end = rest.IndexOfAnyInRange('a', 'z');
            var value = end < 0 ? rest : rest[..end];
            if (value is not "*")
                names.Add(name);
            rest = end < 0 ? default : rest[end..];
        }
        return names;
    }
}
