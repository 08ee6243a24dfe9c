using Virtbus.Core;

namespace Virtbus.Buses.Faux;

/// <summary>What the faux bus matches by.</summary>
public interface IFauxIdentity : IDeviceIdentity
{
    /// <summary>The model of the hardware.</summary>
    string Model { get; }
}
