using Virtbus.Core;

namespace Virtbus.Buses.Auxiliary;

/// <summary>What the auxiliary bus matches by.</summary>
public interface IAuxiliaryIdentity : IDeviceIdentity
{
    /// <summary>The device's name without its id: <c>module.name</c>.</summary>
    string MatchName { get; }
}
