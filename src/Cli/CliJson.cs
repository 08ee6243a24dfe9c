using System.Text.Json.Serialization;
using Virtbus.Cli.Completion;
using Virtbus.Cli.Verbs;

namespace Virtbus.Cli;

/// <summary>JSON of what the program itself says; the rest is the daemon's own.</summary>
[JsonSourceGenerationOptions(PropertyNamingPolicy = JsonKnownNamingPolicy.SnakeCaseLower)]
[JsonSerializable(typeof(CancelledPlug))]
[JsonSerializable(typeof(CompletionScript))]
[JsonSerializable(typeof(FunctionSource[]))]
[JsonSerializable(typeof(ManifestReport))]
[JsonSerializable(typeof(VmCommandLineAnswer))]
internal sealed partial class CliJson : JsonSerializerContext;
