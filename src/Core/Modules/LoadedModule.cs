namespace Virtbus.Core;

/// <summary>A module that is loaded, as a reader sees it.</summary>
/// <param name="Info">What its file declares.</param>
/// <param name="Drivers">The drivers that it registered.</param>
/// <param name="Holders">The loaded modules that depend on it.</param>
/// <param name="BoundDevices">How many devices its drivers are bound to.</param>
public sealed record LoadedModule(ModuleInfo Info, IReadOnlyList<string> Drivers, IReadOnlyList<string> Holders, int BoundDevices);
