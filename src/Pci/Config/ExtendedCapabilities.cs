using static Virtbus.Pci.PciExtended;
using static Virtbus.Pci.PciExtendedCapabilityId;

namespace Virtbus.Pci;

internal sealed class AriCapability(byte nextFunction) : PciCapability("ARI", PCI_EXT_CAP_ID_ARI, 8, 1)
{
    private protected override void FillRegisters(ConfigImage image) => image.Set(Offset + PCI_ARI_CAP, 2, (uint)nextFunction << 8);
}

internal sealed class AtsCapability(int queueDepth, bool isVirtualFunction) : PciCapability("ATS", PCI_EXT_CAP_ID_ATS, 8, 1)
{
    internal override uint Write(int register, ReadOnlySpan<uint> block, uint value, uint written, ref ConfigEffects effects)
    {
        effects |= ConfigEffects.Translation;
        return value;
    }

    private protected override void FillRegisters(ConfigImage image)
    {
        // A queue of 32 is written as 0; virtual functions share the physical function's queue and unit, and read 0.
        var depth = isVirtualFunction ? 0u : (uint)queueDepth & 31;
        image.Set(Offset + PCI_ATS_CAP, 2, depth | PCI_ATS_CAP_PAGE_ALIGNED | PCI_ATS_CAP_GLOBAL_INVALIDATE);
        image.Set(Offset + PCI_ATS_CTRL, 2, 0, PCI_ATS_CTRL_ENABLE | (isVirtualFunction ? 0u : PCI_ATS_CTRL_STU));
    }
}

internal sealed class PasidCapability(int width, bool execute, bool privileged) : PciCapability("PASID", PCI_EXT_CAP_ID_PASID, 8, 1)
{
    internal override uint Write(int register, ReadOnlySpan<uint> block, uint value, uint written, ref ConfigEffects effects)
    {
        effects |= ConfigEffects.Translation;
        return value;
    }

    private protected override void FillRegisters(ConfigImage image)
    {
        var modes = (execute ? PCI_PASID_CAP_EXEC : 0u) | (privileged ? PCI_PASID_CAP_PRIV : 0u);
        image.Set(Offset + PCI_PASID_CAP, 2, modes | ((uint)width << 8));
        image.Set(Offset + PCI_PASID_CTRL, 2, 0, modes | PCI_PASID_CTRL_ENABLE);
    }
}

internal sealed class SerialNumberCapability(ulong number) : PciCapability("device serial number", PCI_EXT_CAP_ID_DSN, 12, 1)
{
    private protected override void FillRegisters(ConfigImage image) => image.Set64(Offset + PCI_DSN_CAP, number);
}

internal sealed class VendorExtendedCapability(ushort id, byte revision, byte[] bytes, byte[] writable)
    : PciCapability("extended vendor-specific", PCI_EXT_CAP_ID_VNDR, 8 + bytes.Length, 1)
{
    internal override uint Write(int register, ReadOnlySpan<uint> block, uint value, uint written, ref ConfigEffects effects)
    {
        effects |= ConfigEffects.Vendor;
        return value;
    }

    private protected override void FillRegisters(ConfigImage image)
    {
        image.Set(Offset + PCI_VNDR_HEADER, 4, id | ((uint)revision << 16) | ((uint)Length << 20));
        image.SetBytes(Offset + 8, bytes, writable);
    }
}

internal sealed class VendorCapability(byte[] bytes, byte[] writable)
    : PciCapability("vendor-specific", PciCapabilityId.PCI_CAP_ID_VNDR, 3 + bytes.Length)
{
    internal override uint Write(int register, ReadOnlySpan<uint> block, uint value, uint written, ref ConfigEffects effects)
    {
        effects |= ConfigEffects.Vendor;
        return value;
    }

    private protected override void FillRegisters(ConfigImage image)
    {
        image.Set(Offset + PciCapabilityId.PCI_CAP_LENGTH, 1, (uint)Length);
        image.SetBytes(Offset + 3, bytes, writable);
    }
}

/// <summary>Advanced error reporting. The simulated link makes no errors; a function may set status bits for tests of error handling.</summary>
internal sealed class ErrorReportingCapability(bool isRootPort, bool isVirtualFunction)
    : PciCapability("advanced error reporting", PCI_EXT_CAP_ID_ERR, isRootPort ? 0x38 : 0x2C, 2)
{
    private protected override void FillRegisters(ConfigImage image)
    {
        const uint DataLinkProtocol = 1 << 4, Poisoned = 1 << 12, FlowControl = 1 << 13, CompletionTimeout = 1 << 14, CompleterAbort = 1 << 15;
        const uint Unexpected = 1 << 16, Overflow = 1 << 17, Malformed = 1 << 18, Ecrc = 1 << 19, Unsupported = 1 << 20;
        // Errors that belong to the link are the physical function's.
        const uint OfFunction = Poisoned | CompletionTimeout | CompleterAbort | Unexpected | Unsupported;
        const uint OfLink = DataLinkProtocol | FlowControl | Overflow | Malformed | Ecrc;
        const uint FatalAtFirst = DataLinkProtocol | FlowControl | Overflow | Malformed;
        const uint AdvisoryNonFatal = 1 << 13;
        const uint CorrectableOfLink = (1 << 0) | (1 << 6) | (1 << 7) | (1 << 8) | (1 << 12);

        var uncorrectable = OfFunction | (isVirtualFunction ? 0 : OfLink);
        var correctable = AdvisoryNonFatal | (isVirtualFunction ? 0 : CorrectableOfLink);
        var controls = isVirtualFunction ? 0u : uint.MaxValue;
        image.Set(Offset + PCI_ERR_UNCOR_STATUS, 4, 0, 0, uncorrectable, uncorrectable);
        image.Set(Offset + PCI_ERR_UNCOR_MASK, 4, 0, uncorrectable & controls, 0, uncorrectable & controls);
        image.Set(Offset + PCI_ERR_UNCOR_SEVER, 4, FatalAtFirst & controls, uncorrectable & controls, 0, uncorrectable & controls);
        image.Set(Offset + PCI_ERR_COR_STATUS, 4, 0, 0, correctable, correctable);
        image.Set(Offset + PCI_ERR_COR_MASK, 4, AdvisoryNonFatal & controls, correctable & controls, 0, correctable & controls);
        for (var i = 0; i < 4; i++)
            image.Set(Offset + PCI_ERR_HEADER_LOG + (4 * i), 4, 0, 0, 0, uint.MaxValue);
        if (!isRootPort)
            return;
        const uint ReportingEnables = 0x7, Received = 0x7F;
        image.Set(Offset + PCI_ERR_ROOT_COMMAND, 4, 0, ReportingEnables);
        image.Set(Offset + PCI_ERR_ROOT_STATUS, 4, 0, 0, Received, Received);
        image.Set(Offset + PCI_ERR_ROOT_ERR_SRC, 4, 0, 0, 0, uint.MaxValue);
    }
}
