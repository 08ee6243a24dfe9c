using Virtbus.Buses.Auxiliary;
using Virtbus.Core;

namespace Virtbus.Samples;

/// <summary>A part for tools of the factory: identity and test, no subsystem.</summary>
/// <param name="bus">The auxiliary bus.</param>
/// <param name="id">The creator's number for the part.</param>
/// <param name="parent">The device that it is a part of.</param>
/// <param name="port">What a tool may ask of the creator.</param>
public sealed class FactoryPart(AuxiliaryBus bus, uint id, Device parent, IFactoryPort port) : AuxiliaryDevice(bus, "aux_test_device", "factory", id, parent)
{
    /// <summary>What a tool may ask of the creator.</summary>
    public IFactoryPort Port { get; } = port;
}
