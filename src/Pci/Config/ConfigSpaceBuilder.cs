using static Virtbus.Pci.PciHeader;

namespace Virtbus.Pci;

/// <summary>
/// Puts a config space together: header, base address registers, capabilities in the order of the calls. A mistake is an
/// <see cref="ArgumentException"/> that names the capability and the remedy; what only shows when all is known comes from <see cref="Build"/>.
/// </summary>
public sealed class ConfigSpaceBuilder
{
    private const int FirstStandard = 0x40;
    private readonly HeaderBlock _header;
    private readonly ConfigLayout? _physical;
    private readonly List<PciCapability> _capabilities = [];
    private readonly List<HiddenBlock> _hidden = [];

    private ConfigSpaceBuilder(HeaderBlock header, ConfigLayout? physical)
    {
        _header = header;
        _physical = physical;
    }

    /// <summary>Starts the config space of a function that is no bridge (header type 0).</summary>
    /// <param name="vendor">Vendor id.</param>
    /// <param name="device">Device id.</param>
    public static ConfigSpaceBuilder Function(ushort vendor, ushort device) =>
        new(new HeaderBlock { VendorId = vendor, DeviceId = device, SubsystemVendorId = vendor, SubsystemId = device }, null);

    /// <summary>Starts the config space of a bridge or root port (header type 1): class 0604, all windows there.</summary>
    /// <param name="vendor">Vendor id.</param>
    /// <param name="device">Device id.</param>
    public static ConfigSpaceBuilder Bridge(ushort vendor, ushort device) =>
        new(new HeaderBlock { VendorId = vendor, DeviceId = device, IsBridge = true, ClassCode = 0x060400 }, null);

    /// <summary>
    /// Starts the config space of the virtual functions of a physical one: ids all ones, class, revision and subsystem as the physical
    /// function's, a PCI Express capability of its kind, base address registers as its SR-IOV capability says.
    /// </summary>
    /// <param name="physical">The physical function's layout.</param>
    public static ConfigSpaceBuilder VirtualFunction(ConfigLayout physical)
    {
        var sriov = physical.Find<SriovCapability>()
            ?? throw new ArgumentException("The physical function has no SR-IOV capability. Add one with Sriov.", nameof(physical));
        var header = new HeaderBlock
        {
            VendorId = 0xFFFF,
            DeviceId = 0xFFFF,
            IsVirtualFunction = true,
            ClassCode = physical.Header.ClassCode,
            Revision = physical.Header.Revision,
            SubsystemVendorId = physical.Header.SubsystemVendorId,
            SubsystemId = physical.Header.SubsystemId,
        };
        sriov.Bars.CopyTo(header.Bars, 0);
        return new ConfigSpaceBuilder(header, physical)
            .Add(new ExpressCapability(physical.Find<ExpressCapability>()!.Options, isVirtualFunction: true));
    }

    /// <summary>Class and revision.</summary>
    /// <param name="code">Base class, subclass and programming interface, 24 bits.</param>
    /// <param name="revision">Revision.</param>
    public ConfigSpaceBuilder Class(uint code, byte revision = 0)
    {
        Check(code <= 0xFFFFFF, $"Class 0x{code:x} has more than 24 bits. Give base class, subclass and programming interface.");
        Check(_physical is null, "The class of a virtual function is its physical function's. Leave Class out.");
        _header.ClassCode = code;
        _header.Revision = revision;
        return this;
    }

    /// <summary>Subsystem ids; without the call they are vendor and device id.</summary>
    /// <param name="vendor">Subsystem vendor id; a virtual function has its physical function's.</param>
    /// <param name="id">Subsystem id.</param>
    public ConfigSpaceBuilder Subsystem(ushort vendor, ushort id)
    {
        Check(!_header.IsBridge, "A type 1 header has no subsystem ids. Leave Subsystem out.");
        Check(_physical is null || vendor == _physical.Header.SubsystemVendorId,
            "A virtual function has the subsystem vendor id of its physical function. Give that one.");
        _header.SubsystemVendorId = vendor;
        _header.SubsystemId = id;
        return this;
    }

    /// <summary>The interrupt pin.</summary>
    /// <param name="pin">1 for INTA to 4 for INTD.</param>
    public ConfigSpaceBuilder InterruptPin(byte pin)
    {
        Check(pin is >= 1 and <= 4, $"Interrupt pin {pin} does not exist. Give 1 (INTA) to 4 (INTD).");
        Check(_physical is null, "A virtual function has no interrupt pin. Leave InterruptPin out and use MSI-X.");
        _header.InterruptPin = pin;
        return this;
    }

    /// <summary>Says that the device has more functions than this one.</summary>
    public ConfigSpaceBuilder MultiFunction()
    {
        Check(_physical is null, "The header of a virtual function says nothing of other functions. Leave MultiFunction out.");
        _header.IsMultiFunction = true;
        return this;
    }

    /// <summary>A base address register for I/O ports.</summary>
    /// <param name="bar">0 to 5.</param>
    /// <param name="size">Bytes: a power of two from 4 to 256.</param>
    public ConfigSpaceBuilder IoBar(int bar, uint size) => Bar(bar, new PciBar(PciBarKind.Io, size));

    /// <summary>A base address register for memory below 4 GiB.</summary>
    /// <param name="bar">0 to 5.</param>
    /// <param name="size">Bytes: a power of two from 16 to 2^31.</param>
    /// <param name="prefetchable">Whether reads have no side effect.</param>
    public ConfigSpaceBuilder MemoryBar(int bar, uint size, bool prefetchable = false) => Bar(bar, new PciBar(PciBarKind.Memory32, size, prefetchable));

    /// <summary>A base address register for memory anywhere; it takes the next one too.</summary>
    /// <param name="bar">0 to 4.</param>
    /// <param name="size">Bytes: a power of two from 16 on.</param>
    /// <param name="prefetchable">Whether reads have no side effect.</param>
    public ConfigSpaceBuilder MemoryBar64(int bar, ulong size, bool prefetchable = true) => Bar(bar, new PciBar(PciBarKind.Memory64, size, prefetchable));

    /// <summary>The expansion ROM.</summary>
    /// <param name="size">Bytes: a power of two from 2048 to 16 MiB.</param>
    public ConfigSpaceBuilder Rom(uint size)
    {
        Check(_physical is null, "A virtual function has no expansion ROM. Leave Rom out.");
        Check(uint.IsPow2(size) && size is >= 2048 and <= 1 << 24, $"An expansion ROM of {size} bytes cannot be. Give a power of two from 2048 to 16777216.");
        _header.Bars[PciBar.Rom] = new PciBar(PciBarKind.Rom, size);
        return this;
    }

    /// <summary>Bytes of the function's own outside of any capability; read-only.</summary>
    /// <param name="offset">First byte, a multiple of 4, from 64 on.</param>
    /// <param name="bytes">Their values; a multiple of 4 of them.</param>
    public ConfigSpaceBuilder Hidden(int offset, params ReadOnlySpan<byte> bytes)
    {
        Check((offset & 3) == 0 && bytes.Length % 4 == 0 && bytes.Length > 0, $"Hidden bytes at 0x{offset:x} are no whole dwords. Align offset and length to 4.");
        _hidden.Add(new HiddenBlock(offset, bytes.ToArray()) { Offset = offset, WantedOffset = offset });
        return this;
    }

    /// <summary>Power management, version 3, with D0 and D3hot.</summary>
    /// <param name="noSoftReset">Whether the way from D3hot to D0 leaves the function as it was; else that resets it.</param>
    /// <param name="hasPme">Whether the function can ask to be woken from D0 and D3hot.</param>
    /// <param name="at">Where; null for the next free place.</param>
    public ConfigSpaceBuilder PowerManagement(bool noSoftReset = true, bool hasPme = false, int? at = null) =>
        Add(new PowerCapability(noSoftReset, hasPme) { WantedOffset = at });

    /// <summary>Message-signalled interrupts.</summary>
    /// <param name="vectors">1, 2, 4, 8, 16 or 32.</param>
    /// <param name="is64Bit">Whether the message address has 64 bits.</param>
    /// <param name="hasMasks">Whether each vector can be masked.</param>
    /// <param name="at">Where; null for the next free place.</param>
    public ConfigSpaceBuilder Msi(int vectors = 1, bool is64Bit = true, bool hasMasks = true, int? at = null)
    {
        Check(int.IsPow2(vectors) && vectors is >= 1 and <= 32, $"MSI with {vectors} vectors cannot be. Give 1, 2, 4, 8, 16 or 32.");
        return Add(new MsiCapability(vectors, is64Bit, hasMasks) { WantedOffset = at });
    }

    /// <summary>Message-signalled interrupts from a table.</summary>
    /// <param name="vectors">1 to 2048.</param>
    /// <param name="tableBar">The BAR that has the table.</param>
    /// <param name="tableOffset">Where in it, a multiple of 8; best alone in its page.</param>
    /// <param name="pendingBar">The BAR that has the pending bits.</param>
    /// <param name="pendingOffset">Where in it, a multiple of 8.</param>
    /// <param name="at">Where; null for the next free place.</param>
    public ConfigSpaceBuilder Msix(int vectors, int tableBar, uint tableOffset, int pendingBar, uint pendingOffset, int? at = null)
    {
        Check(vectors is >= 1 and <= PciMsix.PCI_MSIX_MAX_VECTORS, $"MSI-X with {vectors} vectors cannot be. Give 1 to {PciMsix.PCI_MSIX_MAX_VECTORS}.");
        Check((tableOffset & 7) == 0 && (pendingOffset & 7) == 0,
            $"MSI-X cannot name a table at 0x{tableOffset:x} with pending bits at 0x{pendingOffset:x}. Give multiples of 8.");
        return Add(new MsixCapability(vectors, tableBar, tableOffset, pendingBar, pendingOffset) { WantedOffset = at });
    }

    /// <summary>PCI Express; config space has 4096 bytes then. A virtual function has the capability from the start.</summary>
    /// <param name="options">What it says.</param>
    /// <param name="at">Where; null for the next free place.</param>
    public ConfigSpaceBuilder Express(PciExpressOptions options, int? at = null)
    {
        Check(_physical is null, "A virtual function has its physical function's PCI Express capability. Leave Express out.");
        Check(int.IsPow2(options.MaxPayload) && options.MaxPayload is >= 128 and <= 4096,
            $"PCI Express with payloads of {options.MaxPayload} bytes cannot be. Give a power of two from 128 to 4096.");
        Check(options.LinkSpeed is 1 or 2, $"PCI Express of generation {options.LinkSpeed} is not there. Give 1 or 2.");
        Check(options.LinkWidth is 1 or 2 or 4 or 8 or 12 or 16 or 32, $"PCI Express with {options.LinkWidth} lanes cannot be. Give 1, 2, 4, 8, 12, 16 or 32.");
        Check(options.Type == PciPortType.RootPort == _header.IsBridge, "PCI Express: a root port has the header of a bridge, and nothing else has. Start with Bridge or change Type.");
        Check(options.Slot is null || (options.Type == PciPortType.RootPort && options.Slot is >= 1 and <= 8191),
            "PCI Express: only a root port leads to a slot, with a number from 1 to 8191. Leave Slot out or change it.");
        return Add(new ExpressCapability(options, isVirtualFunction: false) { WantedOffset = at });
    }

    /// <summary>A vendor-specific capability in the first 256 bytes.</summary>
    /// <param name="bytes">What follows its length byte, 252 bytes at most.</param>
    /// <param name="writable">For each byte the bits that software may write; shorter or empty for read-only.</param>
    /// <param name="at">Where; null for the next free place.</param>
    public ConfigSpaceBuilder Vendor(ReadOnlySpan<byte> bytes, ReadOnlySpan<byte> writable = default, int? at = null)
    {
        Check(bytes.Length <= 0xC0 - 3, $"The vendor-specific capability has no room for {bytes.Length} bytes. Use VendorExtended.");
        Check(writable.Length <= bytes.Length, "The vendor-specific capability has fewer bytes than masks. Give one mask for each byte.");
        return Add(new VendorCapability(bytes.ToArray(), writable.ToArray()) { WantedOffset = at });
    }

    /// <summary>An extended vendor-specific capability.</summary>
    /// <param name="id">The vendor's id for it.</param>
    /// <param name="revision">0 to 15.</param>
    /// <param name="bytes">What follows its header.</param>
    /// <param name="writable">For each byte the bits that software may write; shorter or empty for read-only.</param>
    /// <param name="at">Where; null for the next free place.</param>
    public ConfigSpaceBuilder VendorExtended(ushort id, byte revision, ReadOnlySpan<byte> bytes, ReadOnlySpan<byte> writable = default, int? at = null)
    {
        Check(revision <= 15, $"The extended vendor-specific capability has 4 bits for revision {revision}. Give 0 to 15.");
        Check(bytes.Length <= 0xF00 - 8, $"The extended vendor-specific capability has no room for {bytes.Length} bytes. Split it.");
        Check(writable.Length <= bytes.Length, "The extended vendor-specific capability has fewer bytes than masks. Give one mask for each byte.");
        return Add(new VendorExtendedCapability(id, revision, bytes.ToArray(), writable.ToArray()) { WantedOffset = at });
    }

    /// <summary>Advanced error reporting.</summary>
    /// <param name="at">Where; null for the next free place.</param>
    public ConfigSpaceBuilder ErrorReporting(int? at = null) =>
        Add(new ErrorReportingCapability(_header.IsBridge, _physical is not null) { WantedOffset = at });

    /// <summary>Device serial number.</summary>
    /// <param name="number">The number (EUI-64).</param>
    /// <param name="at">Where; null for the next free place.</param>
    public ConfigSpaceBuilder SerialNumber(ulong number, int? at = null) => Add(new SerialNumberCapability(number) { WantedOffset = at });

    /// <summary>Alternative routing id interpretation.</summary>
    /// <param name="nextFunction">The device's next function; 0 at the end.</param>
    /// <param name="at">Where; null for the next free place.</param>
    public ConfigSpaceBuilder Ari(byte nextFunction = 0, int? at = null) => Add(new AriCapability(nextFunction) { WantedOffset = at });

    /// <summary>Address translation services.</summary>
    /// <param name="queueDepth">Invalidations that the function takes at once, 1 to 32.</param>
    /// <param name="at">Where; null for the next free place.</param>
    public ConfigSpaceBuilder Ats(int queueDepth = 32, int? at = null)
    {
        Check(queueDepth is >= 1 and <= 32, $"ATS with a queue of {queueDepth} cannot be. Give 1 to 32.");
        return Add(new AtsCapability(queueDepth, _physical is not null) { WantedOffset = at });
    }

    /// <summary>Process address space ids. Virtual functions use their physical function's capability.</summary>
    /// <param name="width">Bits of an id, 1 to 20.</param>
    /// <param name="execute">Whether requests may ask for execute permission.</param>
    /// <param name="privileged">Whether requests may be privileged.</param>
    /// <param name="at">Where; null for the next free place.</param>
    public ConfigSpaceBuilder Pasid(int width = 20, bool execute = false, bool privileged = false, int? at = null)
    {
        Check(width is >= 1 and <= 20, $"PASIDs of {width} bits cannot be. Give 1 to 20.");
        Check(_physical is null, "PASID: a virtual function uses its physical function's capability. Leave Pasid out.");
        return Add(new PasidCapability(width, execute, privileged) { WantedOffset = at });
    }

    /// <summary>Single root I/O virtualization, for a physical function.</summary>
    /// <param name="options">What it says.</param>
    /// <param name="at">Where; null for the next free place.</param>
    public ConfigSpaceBuilder Sriov(SriovOptions options, int? at = null)
    {
        const uint StandardPageSizes = 0x553;
        Check(_physical is null && !_header.IsBridge, "SR-IOV is for physical functions. Leave Sriov out.");
        Check(options.TotalVfs is >= 1 and <= 256, $"SR-IOV with {options.TotalVfs} virtual functions cannot be. Give 1 to 256.");
        Check(options.FirstVfOffset != 0, "SR-IOV: the first virtual function would be the physical one. Give a FirstVfOffset above 0.");
        Check(options.VfStride != 0 || options.TotalVfs == 1, "SR-IOV: all virtual functions would have one routing id. Give a VfStride above 0.");
        Check((options.SupportedPageSizes & StandardPageSizes) == StandardPageSizes,
            $"SR-IOV: page sizes 0x{options.SupportedPageSizes:x} lack some that the standard wants. Include 0x{StandardPageSizes:x}.");
        Check(options.VfBars.Count <= PciBar.Rom, "SR-IOV: virtual functions have six base address registers. Give six VfBars at most.");
        var bars = new PciBar[PciBar.Count];
        for (var i = 0; i < options.VfBars.Count; i++)
        {
            var bar = options.VfBars[i];
            if (bar.Kind == PciBarKind.None)
                continue;
            Check(bar.Kind is PciBarKind.Memory32 or PciBarKind.Memory64, $"SR-IOV: BAR {i} of a virtual function must be memory. Change its kind.");
            Check(bar.Size >= 4096, $"SR-IOV: BAR {i} of a virtual function has {bar.Size} bytes, less than a page. Give 4096 at least.");
            SetBar("SR-IOV", bars, i, bar);
        }
        return Add(new SriovCapability(options, bars) { WantedOffset = at });
    }

    /// <summary>Checks what is left to check, and makes the layout. The builder is used up then.</summary>
    public ConfigLayout Build()
    {
        var express = _capabilities.Find(c => c is ExpressCapability) as ExpressCapability;
        var extended = _capabilities.FindAll(c => c.IsExtended);
        var standard = _capabilities.FindAll(c => !c.IsExtended);
        if (extended.Count > 0 && express is null)
            Check(false, $"The {extended[0].Name} capability needs the config space of PCI Express. Add Express.");
        if (express is not null)
            express.HasPrefixes = extended.Exists(c => c is PasidCapability) || _physical?.Find<PasidCapability>() is not null;
        CheckMsix();
        var size = express is null ? PCI_CFG_SPACE_SIZE : PCI_CFG_SPACE_EXP_SIZE;
        var taken = new ConfigBlock?[size / 4];
        taken.AsSpan(0, FirstStandard / 4).Fill(_header);
        foreach (var hidden in _hidden)
            Take(taken, hidden, FirstStandard, size);
        Place(taken, standard, FirstStandard, PCI_CFG_SPACE_SIZE);
        Place(taken, extended, PCI_CFG_SPACE_SIZE, size);
        _header.HasCapabilities = standard.Count > 0;
        _header.FirstCapability = standard.Count > 0 ? standard[0].Offset : 0;
        // The list of extended capabilities starts at 256 always.
        var first = extended.Find(c => c.Offset == PCI_CFG_SPACE_SIZE);
        if (extended.Count > 0)
        {
            if (first is null)
                Check(false, $"The {extended[0].Name} capability is at 0x{extended[0].Offset:x} and none at 0x100, where the list starts. Move one there.");
            extended.Remove(first!);
            extended.Insert(0, first!);
        }
        Link(standard);
        Link(extended);
        var image = new ConfigImage(size);
        _header.Fill(image);
        foreach (var hidden in _hidden)
            hidden.Fill(image);
        foreach (var capability in _capabilities)
            capability.Fill(image);
        return new ConfigLayout(image, _header, [.. standard, .. extended], _physical);
    }

    private static void Link(List<PciCapability> capabilities)
    {
        for (var i = 0; i + 1 < capabilities.Count; i++)
            capabilities[i].Next = capabilities[i + 1].Offset;
    }

    private static void Place(ConfigBlock?[] taken, List<PciCapability> capabilities, int start, int end)
    {
        foreach (var capability in capabilities)
        {
            if (capability.WantedOffset is { } wanted)
            {
                capability.Offset = wanted;
                Take(taken, capability, start, end);
            }
        }
        foreach (var capability in capabilities)
        {
            if (capability.WantedOffset is not null)
                continue;
            var words = (capability.Length + 3) / 4;
            var at = start / 4;
            while (at + words <= end / 4 && taken.AsSpan(at, words).ContainsAnyExcept((ConfigBlock?)null))
                at++;
            Check(at + words <= end / 4, $"The {capability.Name} capability of {capability.Length} bytes finds no room below 0x{end:x}. Leave another one out.");
            capability.Offset = at * 4;
            Take(taken, capability, start, end);
        }
    }

    private static void Take(ConfigBlock?[] taken, ConfigBlock block, int start, int end)
    {
        Check((block.Offset & 3) == 0, $"The {block.Name} is at 0x{block.Offset:x}, no multiple of 4. Move it.");
        Check(block.Offset >= start && block.Offset + block.Length <= end,
            $"The {block.Name} of {block.Length} bytes at 0x{block.Offset:x} leaves 0x{start:x} to 0x{end - 1:x}. Move it.");
        var place = taken.AsSpan(block.Offset / 4, (block.Length + 3) / 4);
        foreach (var other in place)
            Check(other is null, $"The {block.Name} at 0x{block.Offset:x} overlaps the {other?.Name} at 0x{other?.Offset:x}. Move one of them.");
        place.Fill(block);
    }

    private static void SetBar(string what, PciBar[] bars, int index, in PciBar bar)
    {
        var most = bar.Kind switch { PciBarKind.Io => 256UL, PciBarKind.Memory32 => 1UL << 31, _ => 1UL << 63 };
        var least = bar.Kind == PciBarKind.Io ? 4UL : 16UL;
        Check((uint)index < PciBar.Rom, $"{what}: BAR {index} does not exist. Give 0 to 5.");
        Check(ulong.IsPow2(bar.Size) && bar.Size >= least && bar.Size <= most,
            $"{what}: BAR {index} of {bar.Size} bytes cannot be. Give a power of two from {least} to {most}.");
        Check(bars[index].Kind == PciBarKind.None, $"{what}: BAR {index} is there already. Give another number.");
        Check(index == 0 || bars[index - 1].Kind != PciBarKind.Memory64, $"{what}: BAR {index} is the upper half of BAR {index - 1}. Give another number.");
        if (bar.Kind == PciBarKind.Memory64)
            Check(index < 5 && bars[index + 1].Kind == PciBarKind.None, $"{what}: BAR {index} needs the next one for its upper half. Give another number.");
        bars[index] = bar;
    }

    private static void Check(bool condition, string message)
    {
        if (!condition)
            throw new ArgumentException(message);
    }

    private ConfigSpaceBuilder Bar(int index, in PciBar bar)
    {
        Check(_physical is null, "The base address registers of virtual functions are in the SR-IOV capability. Give them there as VfBars.");
        Check(!_header.IsBridge || index + (bar.Kind == PciBarKind.Memory64 ? 1 : 0) < 2, $"The header of a bridge has no BAR {index}. Give 0 or 1.");
        SetBar("The header", _header.Bars, index, bar);
        return this;
    }

    private ConfigSpaceBuilder Add(PciCapability capability)
    {
        var isRepeatable = capability is VendorCapability or VendorExtendedCapability;
        Check(isRepeatable || !_capabilities.Exists(c => c.GetType() == capability.GetType()), $"The {capability.Name} capability is there already. Add it once.");
        _capabilities.Add(capability);
        return this;
    }

    private void CheckMsix()
    {
        if (_capabilities.Find(c => c is MsixCapability) is not MsixCapability msix)
            return;
        CheckInside("table", msix.TableBar, msix.TableOffset, msix.TableSize);
        CheckInside("pending bits", msix.PendingBar, msix.PendingOffset, msix.PendingSize);
        Check(msix.TableBar != msix.PendingBar || msix.TableOffset + msix.TableSize <= msix.PendingOffset || msix.PendingOffset + msix.PendingSize <= msix.TableOffset,
            $"MSI-X: the table at 0x{msix.TableOffset:x} and the pending bits at 0x{msix.PendingOffset:x} of BAR {msix.TableBar} overlap. Move one of them.");
    }

    private void CheckInside(string what, int bar, uint offset, uint size)
    {
        Check((uint)bar < PciBar.Rom && _header.Bars[bar].Kind is PciBarKind.Memory32 or PciBarKind.Memory64,
            $"MSI-X: the {what} cannot be in BAR {bar}, which is no memory. Name a memory BAR, and define it.");
        Check((ulong)offset + size <= _header.Bars[bar].Size,
            $"MSI-X: the {what}, {size} bytes at 0x{offset:x}, leaves BAR {bar} of {_header.Bars[bar].Size} bytes. Move it or make the BAR larger.");
    }
}
