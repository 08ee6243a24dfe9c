namespace Virtbus.Pci;

/// <summary>What kind of PCI Express port a function is; the values are those of the capability.</summary>
public enum PciPortType
{
    /// <summary>An endpoint on a link.</summary>
    Endpoint = 0,
    /// <summary>An endpoint that needs I/O ports.</summary>
    LegacyEndpoint = 1,
    /// <summary>A root port: the bridge from a root complex to a link.</summary>
    RootPort = 4,
    /// <summary>An endpoint inside a root complex, without a link.</summary>
    RootComplexEndpoint = 9,
}
