using Virtbus.Buses.Auxiliary;
using Virtbus.Core;

namespace Virtbus.Samples;

/// <summary>The part that a test driver serves. The creator's container: the consumer's probe gets this class, not a void pointer.</summary>
/// <param name="bus">The auxiliary bus.</param>
/// <param name="id">The creator's number for the part.</param>
/// <param name="parent">The device that it is a part of.</param>
/// <param name="port">What the consumer may ask of the creator.</param>
public sealed class TestPart(AuxiliaryBus bus, uint id, Device parent, ITestPort port) : AuxiliaryDevice(bus, "aux_test_device", "test", id, parent)
{
    /// <summary>What the consumer may ask of the creator.</summary>
    public ITestPort Port { get; } = port;
}
