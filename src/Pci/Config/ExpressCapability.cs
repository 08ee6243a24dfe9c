using static Virtbus.Pci.PciExpress;

namespace Virtbus.Pci;

internal sealed class ExpressCapability(PciExpressOptions options, bool isVirtualFunction)
    : PciCapability("PCI Express", PciCapabilityId.PCI_CAP_ID_EXP, PCI_EXP_SIZEOF)
{
    private const uint CompletionTimeoutDisable = 0x10;
    private const uint MaxPayloadBits = PCI_EXP_DEVCTL_PAYLOAD;

    internal PciExpressOptions Options => options;

    /// <summary>Set when the function has the PASID capability, which rides on end-to-end prefixes.</summary>
    internal bool HasPrefixes { get; set; }

    private bool IsRootPort => options.Type == PciPortType.RootPort;

    private bool HasFunctionLevelReset => !IsRootPort && (options.HasFunctionLevelReset || isVirtualFunction);

    internal override uint Write(int register, ReadOnlySpan<uint> block, uint value, uint written, ref ConfigEffects effects)
    {
        if (register == PCI_EXP_DEVCTL && (written & PCI_EXP_DEVCTL_BCR_FLR) != 0 && HasFunctionLevelReset)
            effects |= ConfigEffects.Reset;
        return value;
    }

    private protected override void FillRegisters(ConfigImage image)
    {
        const uint Version2 = 2;
        image.Set(Offset + PCI_EXP_FLAGS, 2, Version2 | ((uint)options.Type << 4) | (options.Slot is not null ? PCI_EXP_FLAGS_SLOT : 0u));
        FillDevice(image);
        if (options.Type != PciPortType.RootComplexEndpoint)
            FillLink(image);
        if (options.Slot is { } slot)
        {
            // Two lamps, off at first, and commands that complete at once.
            const uint Lamps = 0x0018, NoCommandCompleted = 0x0004_0000, LampsOff = 0x03C0, LampControls = 0x03C0;
            const uint LinkStateChanged = 0x0100, PresenceChanged = 0x0008, LinkStateChangedEnable = 0x1000;
            image.Set(Offset + PCI_EXP_SLTCAP, 4, ((uint)slot << 19) | Lamps | NoCommandCompleted);
            image.Set(Offset + PCI_EXP_SLTCTL, 2, LampsOff, LinkStateChangedEnable | LampControls);
            image.Set(Offset + PCI_EXP_SLTSTA, 2, 0, 0, LinkStateChanged | PresenceChanged);
        }
        if (IsRootPort)
        {
            const uint ErrorAndPmeEnables = 0x000F, RetryVisible = 0x0010, PmeStatus = 0x0001_0000;
            image.Set(Offset + PCI_EXP_RTCTL, 2, 0, ErrorAndPmeEnables | RetryVisible);
            image.Set(Offset + PCI_EXP_RTCAP, 2, 1);
            image.Set(Offset + PCI_EXP_RTSTA, 4, 0, 0, PmeStatus);
        }
    }

    private void FillDevice(ConfigImage image)
    {
        var payload = (uint)int.Log2(options.MaxPayload / 128);
        image.Set(Offset + PCI_EXP_DEVCAP, 4,
            payload | PCI_EXP_DEVCAP_EXT_TAG | PCI_EXP_DEVCAP_RBER | (HasFunctionLevelReset ? PCI_EXP_DEVCAP_FLR : 0));
        const uint Errors = PCI_EXP_DEVSTA_CED | PCI_EXP_DEVSTA_NFED | PCI_EXP_DEVSTA_FED | PCI_EXP_DEVSTA_URD;
        // A virtual function has no control bit but the reset (which reads as 0); the physical function's bits hold for it too.
        if (isVirtualFunction)
        {
            image.Set(Offset + PCI_EXP_DEVSTA, 2, 0, 0, Errors);
        }
        else
        {
            const uint ErrorReporting = PCI_EXP_DEVCTL_CERE | PCI_EXP_DEVCTL_NFERE | PCI_EXP_DEVCTL_FERE | PCI_EXP_DEVCTL_URRE;
            const uint MaxRead512 = 0x2000;
            const uint Control = ErrorReporting | PCI_EXP_DEVCTL_RELAX_EN | MaxPayloadBits | PCI_EXP_DEVCTL_EXT_TAG | PCI_EXP_DEVCTL_NOSNOOP_EN
                | PCI_EXP_DEVCTL_READRQ;
            image.Set(Offset + PCI_EXP_DEVCTL, 2, PCI_EXP_DEVCTL_RELAX_EN | PCI_EXP_DEVCTL_NOSNOOP_EN | MaxRead512, Control, 0, MaxPayloadBits);
            image.Set(Offset + PCI_EXP_DEVSTA, 2, 0, 0, Errors);
        }
        const uint ExtendedFormat = 0x0010_0000, OnePrefix = 0x0040_0000;
        image.Set(Offset + PCI_EXP_DEVCAP2, 4, CompletionTimeoutDisable | (IsRootPort ? PCI_EXP_DEVCAP2_ARI : 0)
            | (HasPrefixes ? PCI_EXP_DEVCAP2_EE_PREFIX | ExtendedFormat | OnePrefix : 0));
        if (!isVirtualFunction)
            image.Set(Offset + PCI_EXP_DEVCTL2, 2, 0, CompletionTimeoutDisable | (IsRootPort ? PCI_EXP_DEVCTL2_ARI : 0u));
    }

    private void FillLink(ConfigImage image)
    {
        const uint OptionalAspm = 0x0040_0000, LinkActiveReporting = 0x0010_0000, BandwidthNotification = 0x0020_0000, SlotClock = 0x1000;
        const uint Aspm = 0x0003, ReadBoundary = 0x0008, LinkDisable = 0x0010, CommonClock = 0x0040, ExtendedSynch = 0x0080, BandwidthInterrupts = 0x0C00;
        var speedAndWidth = (uint)(options.LinkSpeed | (options.LinkWidth << 4));
        image.Set(Offset + PCI_EXP_LNKCAP, 4,
            speedAndWidth | OptionalAspm | ((uint)options.PortNumber << 24) | (IsRootPort ? LinkActiveReporting | BandwidthNotification : 0));
        if (!isVirtualFunction)
        {
            var control = Aspm | CommonClock | ExtendedSynch | (IsRootPort ? LinkDisable | BandwidthInterrupts : ReadBoundary);
            image.Set(Offset + PCI_EXP_LNKCTL, 2, 0, control, 0, control);
        }
        // The standard reserves the link status of a virtual function; it says here what the physical function's says, so that tools that list
        // the link of each function (lspci) have something to list.
        const uint BandwidthStatus = 0xC000;
        image.Set(Offset + PCI_EXP_LNKSTA, 2, speedAndWidth | SlotClock, 0, IsRootPort ? BandwidthStatus : 0);
        image.Set(Offset + PCI_EXP_LNKCAP2, 4, ((1u << options.LinkSpeed) - 1) << 1);
        // All but bit 6, which the board sets; sticky.
        const uint Control2 = 0xFFBF;
        if (!isVirtualFunction)
            image.Set(Offset + PCI_EXP_LNKCTL2, 2, (uint)options.LinkSpeed, Control2, 0, Control2);
    }
}
