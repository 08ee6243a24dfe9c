namespace Virtbus.Pci;

/// <summary>What a function's PCI Express capability says.</summary>
public sealed record PciExpressOptions
{
    /// <summary>The kind of port.</summary>
    public PciPortType Type { get; init; } = PciPortType.Endpoint;

    /// <summary>Whether the function can be reset alone. Endpoints only.</summary>
    public bool HasFunctionLevelReset { get; init; } = true;

    /// <summary>Largest payload in bytes: 128, 256, 512, 1024, 2048 or 4096.</summary>
    public int MaxPayload { get; init; } = 256;

    /// <summary>Generation of the link: 1 for 2.5 GT/s, 2 for 5 GT/s.</summary>
    public int LinkSpeed { get; init; } = 2;

    /// <summary>Lanes: 1, 2, 4, 8, 12, 16 or 32.</summary>
    public int LinkWidth { get; init; } = 4;

    /// <summary>Number of the port; 0 to 255.</summary>
    public byte PortNumber { get; init; }

    /// <summary>Number of the slot that a root port leads to, 1 to 8191; null when it leads to no slot.</summary>
    public int? Slot { get; init; }
}
