namespace Virtbus.Pci;

/// <summary>What a physical function's SR-IOV capability says.</summary>
public sealed record SriovOptions
{
    /// <summary>Virtual functions at most, 1 to 256.</summary>
    public required int TotalVfs { get; init; }

    /// <summary>Device id of the virtual functions.</summary>
    public required ushort VfDeviceId { get; init; }

    /// <summary>Distance in routing ids from the physical function to the first virtual one.</summary>
    public ushort FirstVfOffset { get; init; } = 1;

    /// <summary>Distance in routing ids between virtual functions.</summary>
    public ushort VfStride { get; init; } = 1;

    /// <summary>What one virtual function's base address registers decode, by number; memory only, each of 4096 bytes at least.</summary>
    public IReadOnlyList<PciBar> VfBars { get; init; } = [];

    /// <summary>Supported page sizes: bit n for 2^(n+12) bytes. The standard's six from 4 KiB to 4 MiB must be among them.</summary>
    public uint SupportedPageSizes { get; init; } = 0x553;

    /// <summary>Number of the function that this one depends on; its own number when there is none.</summary>
    public byte FunctionDependencyLink { get; init; }

    /// <summary>Whether the ARI bit keeps its value over the way from D3hot to D0.</summary>
    public bool IsAriPreserved { get; init; } = true;
}
