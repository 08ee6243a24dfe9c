using static Virtbus.Pci.PciHeader;

namespace Virtbus.Pci;

/// <summary>A root port: the bridge from the root bus to a link with one slot. What is behind it is the business of the bus.</summary>
public sealed class PciRootPort : PciFunction
{
    private readonly int _express;
    private Action<bool>? _secondaryReset;
    private bool _isInReset;
    private readonly Lock _resetLock = new();

    /// <summary>Makes a root port with power management, MSI, advanced error reporting, ARI forwarding and a slot.</summary>
    /// <param name="slot">Number of the slot, 1 to 255; also the port's number and the serial number's last byte.</param>
    /// <param name="vendor">Vendor id.</param>
    /// <param name="device">Device id.</param>
    public PciRootPort(byte slot, ushort vendor = 0x5642, ushort device = 0x0010)
        : base(MakeLayout(slot, vendor, device)) => _express = Config.Layout.FindCapability(PciCapabilityId.PCI_CAP_ID_EXP);

    /// <summary>The bus behind the port; 0 until software set it.</summary>
    public byte SecondaryBus => Config.Read8(PCI_SECONDARY_BUS);

    /// <summary>The last bus behind the port.</summary>
    public byte SubordinateBus => Config.Read8(PCI_SUBORDINATE_BUS);

    /// <summary>Whether requests to device numbers above 0 go down as function numbers (ARI Forwarding Enable).</summary>
    public bool IsAriForwarding => (Config.Read16(_express + PciExpress.PCI_EXP_DEVCTL2) & PciExpress.PCI_EXP_DEVCTL2_ARI) != 0;

    /// <summary>Whether Secondary Bus Reset is set: what is behind the port is in reset.</summary>
    public bool IsSecondaryInReset => (Config.Read16(PCI_BRIDGE_CONTROL) & PciBridgeControl.PCI_BRIDGE_CTL_BUS_RESET) != 0;

    /// <summary>Sets whether a card is in the slot; the link is up then, and the change shows in the slot's status.</summary>
    /// <param name="present">Whether there is one.</param>
    public void SetPresence(bool present)
    {
        const uint Presence = (uint)PciExpress.PCI_EXP_SLTSTA_PDS << 16, PresenceChanged = 0x0008_0000, LinkStateChanged = 0x0100_0000;
        const uint LinkActive = (uint)PciExpress.PCI_EXP_LNKSTA_DLLLA << 16;
        if ((Config.Read32(_express + PciExpress.PCI_EXP_SLTCTL) & Presence) != 0 == present)
            return;
        Config.Set(_express + PciExpress.PCI_EXP_LNKCTL, LinkActive, present ? LinkActive : 0);
        Config.Set(_express + PciExpress.PCI_EXP_SLTCTL, Presence | PresenceChanged | LinkStateChanged,
            PresenceChanged | LinkStateChanged | (present ? Presence : 0));
    }

    /// <summary>Called when Secondary Bus Reset changes, on the thread that wrote it; null takes the handler off.</summary>
    /// <param name="changed">Told whether what is behind the port is in reset now.</param>
    public void SetSecondaryResetCallback(Action<bool>? changed) => Volatile.Write(ref _secondaryReset, changed);

    /// <inheritdoc/>
    protected override void ReadRegister(int bar, ulong offset, Span<byte> destination) => destination.Fill(0xFF);

    /// <inheritdoc/>
    protected override void WriteRegister(int bar, ulong offset, ReadOnlySpan<byte> source)
    {
    }

    /// <inheritdoc/>
    protected override void OnReset(PciResetKind kind) => ShowReset();

    /// <inheritdoc/>
    protected override void OnConfigChanged(int offset, int length, ConfigEffects effects)
    {
        if ((effects & ConfigEffects.Bridge) != ConfigEffects.None)
            ShowReset();
    }

    private static ConfigLayout MakeLayout(byte slot, ushort vendor, ushort device) => ConfigSpaceBuilder.Bridge(vendor, device)
        .Class(0x060400)
        .InterruptPin(1)
        .PowerManagement(hasPme: true)
        .Msi(1, is64Bit: true, hasMasks: true)
        .Express(new PciExpressOptions { Type = PciPortType.RootPort, PortNumber = slot, Slot = slot })
        .ErrorReporting()
        .Build();

    private void ShowReset()
    {
        bool now;
        lock (_resetLock)
        {
            now = IsSecondaryInReset;
            if (now == _isInReset)
                return;
            _isInReset = now;
        }
        Volatile.Read(ref _secondaryReset)?.Invoke(now);
    }
}
