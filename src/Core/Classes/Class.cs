using System.Diagnostics.CodeAnalysis;

namespace Virtbus.Core;

/// <summary>
/// Devices seen by what they do, whatever bus they hang on: <c>net</c>, <c>block</c>, <c>input</c>. A subsystem creates a class; its
/// register function makes class devices.
/// </summary>
public sealed class Class
{
    private ClassObservation[] _observers = [];

    /// <summary>Makes a class.</summary>
    /// <param name="name">Lower-case name, as under <c>/sys/class</c>.</param>
    public Class(string name)
    {
        ArgumentException.ThrowIfNullOrEmpty(name);
        Name = name;
    }

    /// <summary>The class's name.</summary>
    public string Name { get; }

    /// <summary>
    /// Whether the tree shows it, as a folder in <c>/class</c> and one in each device that has some of it. Else its devices stand right in the device that they
    /// hang below, as character devices of Linux do that have no class.
    /// </summary>
    public bool IsShown { get; init; } = true;

    /// <summary>Attributes of every device of the class.</summary>
    public IReadOnlyList<AttributeGroup> DeviceAttributeGroups { get; init; } = [];

    /// <summary>Power callbacks for the devices of the class, or null.</summary>
    public IPowerOps? PowerOps { get; init; }

    /// <summary>The devices of the class in creation order, at this moment.</summary>
    public IReadOnlyList<Device> Devices => Directory.Snapshot();

    /// <summary>Finds a device by name.</summary>
    /// <param name="name">The device's name.</param>
    /// <param name="device">The device.</param>
    public bool TryGetDevice(string name, [NotNullWhen(true)] out Device? device) => Directory.TryGet(name, out device);

    /// <inheritdoc/>
    public override string ToString() => Name;

    internal DeviceDirectory Directory { get; } = new();

    internal IReadOnlyList<ClassObservation> Observers => _observers;

    // Under the fabric's gate.
    internal ClassObservation AddObserver(IClassObserver observer)
    {
        var observation = new ClassObservation(observer);
        _observers = [.. _observers, observation];
        return observation;
    }

    internal ClassObservation? RemoveObserver(IClassObserver observer)
    {
        if (Array.Find(_observers, o => o.Observer == observer) is not { } observation)
            return null;
        observation.IsOver = true;
        _observers = [.. _observers.Where(o => o != observation)];
        return observation;
    }
}
