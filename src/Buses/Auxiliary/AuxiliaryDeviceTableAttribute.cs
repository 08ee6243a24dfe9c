using Virtbus.Core;

namespace Virtbus.Buses.Auxiliary;

/// <summary>
/// An id-table entry of the auxiliary driver class that it stands on. The driver's table and the module's alias both come from it
/// (Linux: MODULE_DEVICE_TABLE).
/// </summary>
/// <param name="name">The match name that is served: <c>module.name</c>.</param>
[AttributeUsage(AttributeTargets.Class, AllowMultiple = true, Inherited = false)]
public sealed class AuxiliaryDeviceTableAttribute(string name) : ModuleAliasAttribute(AuxiliaryBus.ModaliasPrefix + name)
{
    /// <summary>The match name.</summary>
    public string Name { get; } = name;

    /// <summary>A number of the driver's own choice, handed to probe with the entry.</summary>
    public ulong DriverData { get; set; }
}
