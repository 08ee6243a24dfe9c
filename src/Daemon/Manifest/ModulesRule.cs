using System.Text.Json;

namespace Virtbus.Daemon.Manifest;

/// <summary>A folder of modules; or a list of folders, which have a <c>/</c>, and of modules by name.</summary>
internal sealed class ModulesRule(string baseFolder) : Rule<ModulesManifest>
{
    private readonly PathRule _folder = new(baseFolder, PathKind.Folder);
    private readonly TextRule _name = new("a module's name, of letters, digits, '_' and '-', or a folder with a '/', for example ./modules", "^[A-Za-z0-9_-]+$", 63);

    public override bool TryRead(ManifestNode node, string path, List<ManifestError> errors, out ModulesManifest value)
    {
        value = ModulesManifest.None;
        if (node is not SequenceNode list)
        {
            if (!_folder.TryRead(node, path, errors, out var folder))
                return false;
            value = new ModulesManifest([new ManifestValue<string>(folder, node.At, path)], []);
            return true;
        }
        var (folders, names) = (new List<ManifestValue<string>>(), new List<ManifestValue<string>>());
        for (var i = 0; i < list.Items.Count && errors.Count < ManifestError.MaxKept; i++)
        {
            var (item, inside) = (list.Items[i], $"{path}[{i}]");
            var isFolder = item is ScalarNode scalar && scalar.Text.Contains('/');
            if (isFolder ? _folder.TryRead(item, inside, errors, out var read) : _name.TryRead(item, inside, errors, out read))
                (isFolder ? folders : names).Add(new ManifestValue<string>(read, item.At, inside));
        }
        value = new ModulesManifest(folders, names);
        return true;
    }

    public override void WriteSchema(Utf8JsonWriter json)
    {
        json.WriteStartArray("oneOf");
        json.WriteStartObject();
        _folder.WriteSchema(json);
        json.WriteEndObject();
        json.WriteStartObject();
        json.WriteString("type", "array");
        json.WriteStartObject("items");
        _folder.WriteSchema(json);
        json.WriteEndObject();
        json.WriteEndObject();
        json.WriteEndArray();
    }
}
