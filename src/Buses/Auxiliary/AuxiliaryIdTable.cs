namespace Virtbus.Buses.Auxiliary;

/// <summary>A driver's id table at one moment. An entry is found without a look at those before it, which are of no use to the device.</summary>
internal sealed class AuxiliaryIdTable
{
    private readonly Dictionary<string, AuxiliaryDeviceId> _byName;

    public AuxiliaryIdTable(AuxiliaryDeviceId[] all)
    {
        All = all;
        _byName = new Dictionary<string, AuxiliaryDeviceId>(all.Length);
        foreach (var id in all)
            _byName.TryAdd(id.Name, id);
    }

    public AuxiliaryDeviceId[] All { get; }

    /// <summary>The first entry of a name, or null.</summary>
    public AuxiliaryDeviceId? Find(string name) => _byName.GetValueOrDefault(name);
}
