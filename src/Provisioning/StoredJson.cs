using System.Text.Json.Serialization;

namespace Virtbus.Provisioning;

[JsonSerializable(typeof(StoredDefinition))]
[JsonSourceGenerationOptions(WriteIndented = true, PropertyNamingPolicy = JsonKnownNamingPolicy.CamelCase)]
internal sealed partial class StoredJson : JsonSerializerContext;
