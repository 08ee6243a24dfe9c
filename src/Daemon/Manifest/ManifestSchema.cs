using System.Text;
using System.Text.Encodings.Web;
using System.Text.Json;

namespace Virtbus.Daemon.Manifest;

/// <summary>The JSON schema of a manifest, for editors; made from the rules that the reader follows.</summary>
internal static class ManifestSchema
{
    /// <summary>The schema's text, as the shipped file has it.</summary>
    public static string Text
    {
        get
        {
            using var buffer = new MemoryStream();
            using (var json = new Utf8JsonWriter(buffer, new JsonWriterOptions { Indented = true, NewLine = "\n", Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping }))
            {
                json.WriteStartObject();
                json.WriteString("$schema", "https://json-schema.org/draft/2020-12/schema");
                json.WriteString("title", "Virtbus manifest");
                ManifestReader.Rules("/").WriteSchema(json);
                json.WriteEndObject();
            }
            return Encoding.UTF8.GetString(buffer.ToArray()) + "\n";
        }
    }
}
