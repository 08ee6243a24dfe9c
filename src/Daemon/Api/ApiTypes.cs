using System.Text.Json.Serialization;

namespace Virtbus.Daemon.Api;

/// <summary>The daemon as a whole. State: starting, ready or stopping. Uptime: in seconds. Faults: bugs of device models that showed.</summary>
internal sealed record StatusAnswer(
    string State,
    int Pid,
    string Version,
    DateTimeOffset Since,
    long Uptime,
    string Manifest,
    string Runtime,
    int Devices,
    int Bound,
    int Deferred,
    int Modules,
    IReadOnlyList<SocketAnswer> Sockets,
    IReadOnlyList<BudgetAnswer> Budgets,
    long Faults);

/// <summary>
/// A socket by which a device is opened. Address: the device's PCI address, when it has one. Connections: how many users there were; bad
/// messages: of all of them. Hint: what its user could do better.
/// </summary>
internal sealed record SocketAnswer(
    string Device,
    string Protocol,
    string Path,
    bool Connected,
    string? Address,
    long Connections,
    long BadMessages,
    ConnectionAnswer? Connection,
    string? Hint);

/// <summary>
/// Who is connected to a socket. Process: absent when it may not be told, as for one of another container. Name: as the process calls itself,
/// escaped. Seconds: for how long. Maps: pieces of its memory that are mapped.
/// </summary>
internal sealed record ConnectionAnswer(int? Process, string? Name, DateTimeOffset Since, long Seconds, long Messages, long BadMessages, int Maps);

/// <summary>What the daemon may use so much of and no more. Used, limit: absent when that can't be told, or there is no end.</summary>
internal sealed record BudgetAnswer(string Name, long? Used, long? Limit);

/// <summary>
/// A device. State: unbound, deferred, probing, bound, unbinding or gone; absent for a device that is on no bus. Deferred: why its probe
/// waits. Power: on or suspended. Label: what people call the hardware, when its name is its place. Children: the devices below it, in the answer to a question for the tree.
/// Sockets: those by which it is opened, in the answer to a question for it alone.
/// </summary>
internal sealed record DeviceAnswer(
    string Name,
    string Path,
    string? Bus,
    string? Class,
    string? State,
    string? Driver,
    string? Module,
    string? Modalias,
    string? Deferred,
    string Power,
    string? Label,
    IReadOnlyList<DeviceAnswer>? Children,
    IReadOnlyList<SocketAnswer>? Sockets = null);

/// <summary>
/// A function that is defined. State: defined, configured, active, in use, draining or gone. Profile: its attributes with what they are, also those that
/// nobody set. Set: the names of those that somebody set. Kept: whether it lasts over the end of the daemon. Problem: why its definition is none.
/// </summary>
internal sealed record FunctionAnswer(
    string Name,
    string Kind,
    string? Parent,
    string State,
    string? Device,
    bool Kept,
    IReadOnlyDictionary<string, string> Profile,
    IReadOnlyList<string> Set,
    string? Problem);

/// <summary>A kind of function that can be made at a parent, with the attributes that it may have.</summary>
internal sealed record KindAnswer(string Kind, string? Parent, IReadOnlyDictionary<string, string> Fields);

/// <summary>The fabric as a manifest.</summary>
internal sealed record ManifestAnswer(string Manifest);

/// <summary>What brings the fabric to a manifest: a line a change, which begins with +, - or ~; and whether it was done.</summary>
internal sealed record ApplyAnswer(IReadOnlyList<string> Changes, bool Applied);

/// <summary>A driver.</summary>
internal sealed record DriverAnswer(string Bus, string Name, string Path, string? Module, IReadOnlyList<string> Devices);

/// <summary>A bus.</summary>
internal sealed record BusAnswer(string Name, int Devices, int Drivers, bool Autoprobe);

/// <summary>A network interface. State: up, down or absent; of a join: joined, waiting, or why it is not joined.</summary>
internal sealed record InterfaceAnswer(string Name, string? Path, string? Driver, string? Address, string State, string? Join, string? JoinState);

/// <summary>A module. State: loaded, available or skipped, and then the reason.</summary>
internal sealed record ModuleAnswer(
    string Name,
    string State,
    string? Description,
    IReadOnlyList<string>? Aliases,
    IReadOnlyList<string>? Drivers,
    IReadOnlyList<string>? Holders,
    int? BoundDevices,
    string File,
    string? Reason);

/// <summary>The end of an unload. Collected: whether the module's code was seen to leave memory.</summary>
internal sealed record UnloadAnswer(string Name, bool Collected);

/// <summary>
/// A driver by which a device can be handed to a user, best first. Generic: it takes any device. Reason: a sentence that says why it is here.
/// </summary>
internal sealed record SuggestionAnswer(string Driver, string Module, string Alias, bool Generic, string Reason);

/// <summary>What stands at a path of the tree. Kind: directory, with entries, or file, with its value.</summary>
internal sealed record NodeAnswer(string Path, string Kind, string? Mode, string? Value, IReadOnlyList<EntryAnswer>? Entries);

/// <summary>A mount of the tree. User: who owns its files, as seen where it is. Names: those that the kernel knows.</summary>
internal sealed record MountAnswer(string Folder, uint User, int Names, int OpenFiles);

/// <summary>An entry of a directory of the tree. Kind: directory, file or link. Target: of a link, as seen from its directory.</summary>
internal sealed record EntryAnswer(string Name, string Kind, string? Mode, string? Target);

/// <summary>An event; or, with <see cref="Lost"/> alone, how many are missing at this place.</summary>
internal sealed record UeventAnswer(
    long? Seqnum,
    string? Action,
    string? Devpath,
    string? Subsystem,
    IReadOnlyDictionary<string, string>? Variables,
    long? Lost);

/// <summary>The end of a daemon. Clean: whether everything was taken down in time.</summary>
internal sealed record ShutdownAnswer(int Pid, bool Clean, long Milliseconds);

/// <summary>A refusal.</summary>
internal sealed record ErrorAnswer(string Errno, string Message);

/// <summary>The JSON of the control interface, generated when the program is built.</summary>
[JsonSourceGenerationOptions(PropertyNamingPolicy = JsonKnownNamingPolicy.SnakeCaseLower, DefaultIgnoreCondition = JsonIgnoreCondition.WhenWritingNull)]
[JsonSerializable(typeof(LockHolder))]
[JsonSerializable(typeof(StatusAnswer))]
[JsonSerializable(typeof(IReadOnlyList<SocketAnswer>))]
[JsonSerializable(typeof(IReadOnlyList<MountAnswer>))]
[JsonSerializable(typeof(DeviceAnswer))]
[JsonSerializable(typeof(IReadOnlyList<DeviceAnswer>))]
[JsonSerializable(typeof(IReadOnlyList<FunctionAnswer>))]
[JsonSerializable(typeof(FunctionAnswer))]
[JsonSerializable(typeof(ApplyAnswer))]
[JsonSerializable(typeof(ManifestAnswer))]
[JsonSerializable(typeof(IReadOnlyList<KindAnswer>))]
[JsonSerializable(typeof(IReadOnlyList<DriverAnswer>))]
[JsonSerializable(typeof(IReadOnlyList<BusAnswer>))]
[JsonSerializable(typeof(IReadOnlyList<InterfaceAnswer>))]
[JsonSerializable(typeof(InterfaceAnswer))]
[JsonSerializable(typeof(IReadOnlyList<ModuleAnswer>))]
[JsonSerializable(typeof(ModuleAnswer))]
[JsonSerializable(typeof(UnloadAnswer))]
[JsonSerializable(typeof(IReadOnlyList<SuggestionAnswer>))]
[JsonSerializable(typeof(NodeAnswer))]
[JsonSerializable(typeof(UeventAnswer))]
[JsonSerializable(typeof(ShutdownAnswer))]
[JsonSerializable(typeof(ErrorAnswer))]
internal sealed partial class ApiJson : JsonSerializerContext;
