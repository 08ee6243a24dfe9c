using System.Globalization;
using System.Text;
using System.Text.Json;
using Virtbus.Daemon.Manifest;
using Virtbus.Daemon.Provisioning;
using Virtbus.Platform;
using Virtbus.Provisioning;

namespace Virtbus.Daemon.Apply;

/// <summary>
/// Writes a running fabric as the manifest that makes it again. Functions that were defined to last, and kinds that a manifest does not name, are told in
/// comments: they are not the manifest's matter.
/// </summary>
internal static class ManifestExport
{
    public static string Write(FabricHardware hardware, ProvisioningEngine engine, DeviceGroups groups, ModulesManifest modules)
    {
        var text = new StringBuilder();
        var functions = engine.Functions;
        var passing = functions.Where(static f => !f.IsKept && f.Device is not null).ToList();
        Section(text, "adapters", hardware.Adapters.Select(a => Adapter(a, [.. functions.Where(f => f.Kind == ManifestFunction.VirtualFunction && f.Parent == a.Name && f.Device is not null).OrderBy(IndexOf)])));
        Section(text, "switches", hardware.Switches.All.Select(Switch));
        Section(text, "joins", hardware.Joins.All.Select(static j => Join(j.Join)));
        Section(text, "disks", passing.Where(static f => f.Kind == DiskFunctions.KindName).Select(static f => Function(f, ("adapter", f.Parent!))));
        Section(text, "serials", passing.Where(static f => f.Kind == SerialFunctions.KindName).Select(static f => Function(f)));
        Section(text, "functions", passing.Where(static f => f.Kind is ManifestFunction.Plugged or VirtioFunctions.KindName).Select(static f => Function(f)));
        Section(text, "devices", groups.All.Select(static g => Group(g.Group)));
        // Those that were loaded by hand as well: without the module its functions are refused.
        List<string> names = [.. modules.Names.Select(static n => n.Value)];
        var said = names.Select(ModuleName.Of).ToHashSet();
        names.AddRange(passing.Where(static f => f.Kind == ManifestFunction.Plugged).Select(hardware.ModuleOf).OfType<string>().Where(said.Add));
        if (modules.Folders is [var folder] && names.Count == 0)
            text.Append("modules: ").Append(Scalar(folder)).Append('\n');
        else if (modules.Folders.Count + names.Count > 0)
            text.Append("modules: [").AppendJoin(", ", modules.Folders.Select(static f => f.Value).Concat(names).Select(Scalar)).Append("]\n");
        if (text.Length == 0)
            text.Append("{}\n");
        foreach (var function in functions.Except(passing))
            text.Append("# ").Append(function.Name).Append(" (").Append(function.Kind).Append(") is ").Append(function.StateName).Append(function.IsKept ? ", and lasts by itself\n" : "\n");
        return text.ToString();
    }

    private static void Section(StringBuilder text, string key, IEnumerable<IEnumerable<(string Key, string Value)>> items)
    {
        var isFirst = true;
        foreach (var item in items)
        {
            if (isFirst)
                text.Append(key).Append(":\n");
            isFirst = false;
            text.Append("  - { ").AppendJoin(", ", item.Select(static p => $"{(p.Key == "null" ? "\"null\"" : p.Key)}: {p.Value}")).Append(" }\n");
        }
    }

    private static IEnumerable<(string Key, string Value)> Adapter(AdapterManifest adapter, List<ProvisionedFunction> functions)
    {
        yield return ("name", Scalar(adapter.Name));
        yield return ("model", adapter.Model.Value.ToString().ToLowerInvariant());
        if (adapter.Mac is { } mac)
            yield return ("mac", Scalar(MacText.Of(mac)));
        yield return ("parts", $"[{string.Join(", ", Enum.GetValues<AdapterParts>().Where(p => p != AdapterParts.None && adapter.Parts.Value.HasFlag(p)).Select(static p => p.ToString().ToLowerInvariant()))}]");
        yield return ("ports", adapter.Ports.Value.ToString(CultureInfo.InvariantCulture));
        if (adapter.Tap is { } tap)
            yield return ("tap", Scalar(tap));
        if (adapter.Switch is { } place)
            yield return ("switch", Scalar(place));
        if (functions.Count == 0)
            yield break;
        // Those that last are counted, since PCI enables the first so many; what they are they say by themselves.
        yield return ("vfs", (IndexOf(functions[^1]) + 1).ToString(CultureInfo.InvariantCulture));
        var said = functions.Select(VirtualFunction).OfType<string>().ToList();
        if (said.Count > 0)
            yield return ("vf_profiles", $"[ {string.Join(", ", said)} ]");
    }

    private static IEnumerable<(string Key, string Value)> Switch(SwitchManifest manifest)
    {
        yield return ("name", Scalar(manifest.Name));
        if (manifest.Tap is not { } tap)
            yield break;
        yield return ("tap", Scalar(tap));
        yield return ("queues", manifest.Queues.Value.ToString(CultureInfo.InvariantCulture));
        if (manifest.Vlan is { } vlan)
            yield return ("vlan", vlan.Value.ToString(CultureInfo.InvariantCulture));
    }

    private static IEnumerable<(string Key, string Value)> Join(InterfaceJoin join)
    {
        yield return ("interface", Scalar(join.Interface));
        yield return join.Switch is { } place ? ("switch", Scalar(place)) : ("tap", Scalar(join.Tap!));
        if (join.Queues > 1)
            yield return ("queues", join.Queues.ToString(CultureInfo.InvariantCulture));
        if (join.Vlan > 0)
            yield return ("vlan", join.Vlan.ToString(CultureInfo.InvariantCulture));
    }

    private static int IndexOf(ProvisionedFunction function) => int.Parse(function.Values[ManifestFunction.Index], CultureInfo.InvariantCulture);

    // Null when its number says it all.
    private static string? VirtualFunction(ProvisionedFunction function)
    {
        var said = function.Values.Where(static v => v.Key != ManifestFunction.Index).Select(static v => $"{v.Key}: {Scalar(v.Value)}").ToList();
        if (function.Name != ManifestFunction.NameOf(function.Parent!, IndexOf(function)))
            said.Insert(0, $"name: {Scalar(function.Name)}");
        return function.IsKept || said.Count == 0 ? null : $"{{ vf: {IndexOf(function)}, {string.Join(", ", said)} }}";
    }

    private static IEnumerable<(string Key, string Value)> Function(ProvisionedFunction function, params IEnumerable<(string Key, string Value)> more)
    {
        yield return ("name", Scalar(function.Name));
        foreach (var (key, value) in more)
            yield return (key, Scalar(value));
        // As raw also where nobody said so: a guest may have written what looks like an image by now.
        if (function.Profile!.Values.Any(static v => v.Key == "file") && function.Profile.Values.All(static v => v.Key != "format"))
            yield return ("format", "raw");
        foreach (var (key, value) in function.Profile!.Values)
        {
            if (function.Kind != ManifestFunction.Plugged || key == "driver" || FunctionManifest.Keys.ContainsKey(key))
            {
                yield return (function.Kind == ManifestFunction.Plugged ? FunctionManifest.Keys.GetValueOrDefault(key, key) : key, Scalar(value));
                continue;
            }
            yield return ("provider", Scalar(key));
            yield return ("function", Scalar(value));
        }
    }

    private static IEnumerable<(string Key, string Value)> Group(DeviceManifest group)
    {
        yield return ("module", Scalar(group.Module));
        yield return ("name", Scalar(group.Name));
        yield return ("count", group.Count.Value.ToString(CultureInfo.InvariantCulture));
        if (group.Parent is { } parent)
            yield return ("parent", Scalar(parent));
    }

    // Words, numbers and truth values stand as they are; all else in quotation marks, whose escapes are those of JSON.
    private static string Scalar(string value) =>
        value.Length > 0 && value.All(static c => char.IsAsciiLetterOrDigit(c) || c is '-' or '_') && char.IsAsciiLetterOrDigit(value[0]) && !value.Equals("null", StringComparison.OrdinalIgnoreCase)
            ? value
            : JsonSerializer.Serialize(value, ExportJson.Default.String);
}
