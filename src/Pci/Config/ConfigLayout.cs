using System.Buffers.Binary;

namespace Virtbus.Pci;

/// <summary>
/// How the config space of a kind of function is made: values after power-on, who may change which bit, where the capabilities are. Made by
/// <see cref="ConfigSpaceBuilder"/>, immutable, and shared by all functions of that kind.
/// </summary>
public sealed class ConfigLayout
{
    private readonly ConfigImage _image;
    private readonly ConfigBlock?[] _owners;
    private readonly List<PciCapability> _capabilities;
    private readonly PciBar[] _bars;

    internal ConfigLayout(ConfigImage image, HeaderBlock header, List<PciCapability> capabilities, ConfigLayout? physical)
    {
        _image = image;
        _capabilities = capabilities;
        Header = header;
        Physical = physical;
        _bars = header.Bars;
        _owners = new ConfigBlock?[image.Values.Length];
        Own(header);
        foreach (var capability in capabilities)
            Own(capability);
    }

    /// <summary>Bytes: 256 or 4096.</summary>
    public int Size => _image.Values.Length * 4;

    /// <summary>Whether it is one of a bridge (type 1 header).</summary>
    public bool IsBridge => Header.IsBridge;

    /// <summary>Whether it is one of a virtual function.</summary>
    public bool IsVirtualFunction => Header.IsVirtualFunction;

    /// <summary>The layout of the physical function when this is one of a virtual function, else null.</summary>
    public ConfigLayout? Physical { get; }

    /// <summary>Vectors of the MSI capability; 0 when there is none.</summary>
    public int MsiVectors => Find<MsiCapability>()?.Vectors ?? 0;

    /// <summary>Vectors of the MSI-X capability; 0 when there is none.</summary>
    public int MsixVectors => Find<MsixCapability>()?.Vectors ?? 0;

    /// <summary>What the SR-IOV capability says; null when there is none.</summary>
    public SriovOptions? Sriov => Find<SriovCapability>()?.Options;

    internal HeaderBlock Header { get; }

    internal uint[] InitialValues => _image.Values;

    internal uint[] Writable => _image.Writable;

    internal uint[] Clearable => _image.Clearable;

    internal uint[] Kept => _image.Kept;

    /// <summary>What a base address register decodes; for a virtual function what the SR-IOV capability gives each of them.</summary>
    /// <param name="bar">0 to 5, or <see cref="PciBar.Rom"/>.</param>
    public PciBar GetBar(int bar)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual((uint)bar, (uint)PciBar.Count, nameof(bar));
        return _bars[bar];
    }

    /// <summary>Offset of a capability; 0 when there is none.</summary>
    /// <param name="id">Capability id, for example <see cref="PciCapabilityId.PCI_CAP_ID_MSIX"/>.</param>
    public int FindCapability(byte id) => _capabilities.Find(c => !c.IsExtended && c.Id == id)?.Offset ?? 0;

    /// <summary>Offset of an extended capability; 0 when there is none.</summary>
    /// <param name="id">Extended capability id, for example <see cref="PciExtendedCapabilityId.PCI_EXT_CAP_ID_SRIOV"/>.</param>
    public int FindExtendedCapability(ushort id) => _capabilities.Find(c => c.IsExtended && c.Id == id)?.Offset ?? 0;

    /// <summary>The bytes after power-on.</summary>
    public byte[] GetInitialValues() => ToBytes(_image.Values);

    /// <summary>For each byte the bits that a write sets to what was written. Some capabilities refuse values, as their standard says.</summary>
    public byte[] GetWritableBits() => ToBytes(_image.Writable);

    /// <summary>For each byte the bits that are cleared by writing 1.</summary>
    public byte[] GetClearableBits() => ToBytes(_image.Clearable);

    /// <summary>For each byte the bits that a function-level reset leaves as they are.</summary>
    public byte[] GetKeptBits() => ToBytes(_image.Kept);

    internal ConfigBlock? OwnerOf(int index) => _owners[index];

    internal T? Find<T>()
        where T : PciCapability
    {
        foreach (var capability in _capabilities)
        {
            if (capability is T found)
                return found;
        }
        return null;
    }

    private static byte[] ToBytes(uint[] words)
    {
        var bytes = new byte[words.Length * 4];
        for (var i = 0; i < words.Length; i++)
            BinaryPrimitives.WriteUInt32LittleEndian(bytes.AsSpan(4 * i), words[i]);
        return bytes;
    }

    private void Own(ConfigBlock block) => _owners.AsSpan(block.Offset / 4, (block.Length + 3) / 4).Fill(block);
}
