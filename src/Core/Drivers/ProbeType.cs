namespace Virtbus.Core;

/// <summary>Whether probes of a driver run in the caller's order or beside it.</summary>
public enum ProbeType
{
    /// <summary>No wish: synchronous.</summary>
    Default,
    /// <summary>The device's add does not wait for this probe; siblings probe in parallel.</summary>
    PreferAsynchronous,
    /// <summary>Always in the caller's order, one device after the other.</summary>
    ForceSynchronous,
}
