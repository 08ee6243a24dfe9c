using System.Text.Json.Serialization;

namespace Virtbus.Daemon.Apply;

[JsonSerializable(typeof(string))]
internal sealed partial class ExportJson : JsonSerializerContext;
