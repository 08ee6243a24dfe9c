using System.Text.Json.Serialization;
using Virtbus.Platform;

namespace Virtbus.Transports.Fuse;

/// <summary>What whoever mounted says of it.</summary>
/// <param name="Folder">Where it is, as that one sees it.</param>
/// <param name="User">Who owns every file: a user id, as that one sees it.</param>
/// <param name="Group">The group, likewise.</param>
public sealed record FuseMountRequest(string Folder, uint User, uint Group);

internal sealed record FuseMountAnswer(Errno Errno, string Message);

[JsonSerializable(typeof(FuseMountRequest))]
[JsonSerializable(typeof(FuseMountAnswer))]
internal sealed partial class FuseJson : JsonSerializerContext;
