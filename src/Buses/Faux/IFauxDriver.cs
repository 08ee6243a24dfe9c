namespace Virtbus.Buses.Faux;

/// <summary>What the bus needs of a driver, whatever hardware type it takes.</summary>
internal interface IFauxDriver
{
    FauxDeviceId[] IdTable { get; }
}
