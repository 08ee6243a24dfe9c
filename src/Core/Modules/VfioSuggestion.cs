namespace Virtbus.Core;

/// <summary>A module whose driver can hand a PCI device to a user over VFIO.</summary>
/// <param name="Module">The module; its drivers show below <c>/module/NAME/drivers</c> once it is loaded.</param>
/// <param name="Alias">The alias of it that matches the device.</param>
public sealed record VfioSuggestion(ModuleInfo Module, string Alias)
{
    internal const string DevicePrefix = "pci:";
    internal const string DriverPrefix = "vfio_pci:";

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

    /// <summary>How many ids an alias names: the more, the better it fits.</summary>
    internal static int FixedFields(string alias) => NamesOf(alias).Count;

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
