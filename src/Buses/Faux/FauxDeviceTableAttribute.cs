using Virtbus.Core;

namespace Virtbus.Buses.Faux;

/// <summary>An id-table entry of the faux driver class that it stands on; the module's alias comes from it too.</summary>
/// <param name="model">The model that is served.</param>
[AttributeUsage(AttributeTargets.Class, AllowMultiple = true, Inherited = false)]
public sealed class FauxDeviceTableAttribute(string model) : ModuleAliasAttribute(FauxBus.ModaliasPrefix + model)
{
    /// <summary>The model.</summary>
    public string Model { get; } = model;

    /// <summary>A number of the driver's own choice.</summary>
    public ulong DriverData { get; set; }
}
