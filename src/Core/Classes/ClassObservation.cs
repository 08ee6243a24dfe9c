namespace Virtbus.Core;

/// <summary>An observer of a class and what it was told. Guarded by the fabric's gate.</summary>
internal sealed class ClassObservation(IClassObserver observer)
{
    public IClassObserver Observer { get; } = observer;

    /// <summary>The devices that were announced and not taken back.</summary>
    public HashSet<Device> Known { get; } = [];

    /// <summary>True when the observer was removed: nothing more is announced to it.</summary>
    public bool IsOver { get; set; }
}
