using Virtbus.Buses.Pci;
using Virtbus.Pci;
using Virtbus.Virtio;
using static Virtbus.Virtio.VirtioPciCapability;

namespace Virtbus.Drivers.VirtioPci;

/// <summary>
/// Where the modern registers of a function are (VIRTIO 1.3, 4.1.4): of each kind the first capability that makes sense. What lies outside of its BAR, in a
/// BAR that there is not, or is too short for what it is, is passed over.
/// </summary>
/// <param name="Common">Common configuration: 56 bytes at least.</param>
/// <param name="Notify">Notifications.</param>
/// <param name="Isr">ISR.</param>
/// <param name="Config">Configuration of the device's type; null when it has none.</param>
internal sealed record VirtioPciLayout(VirtioPciCapability Common, VirtioPciCapability Notify, VirtioPciCapability Isr, VirtioPciCapability? Config)
{
    private const int MostCapabilities = 48;
    private const int FirstCapability = 0x40;
    private const int MostBar = 5;

    public static bool TryFind(PciDevice device, out VirtioPciLayout? layout, out string reason)
    {
        layout = null;
        VirtioPciCapability? common = null, notify = null, isr = null, config = null;
        Span<byte> bytes = stackalloc byte[MaxSize];
        // A list that was made into a circle ends all the same.
        var at = device.ReadConfig8(PciHeader.PCI_CAPABILITY_LIST) & 0xFC;
        for (var hops = 0; at >= FirstCapability && hops < MostCapabilities; hops++, at = device.ReadConfig8(at + 1) & 0xFC)
        {
            if (device.ReadConfig8(at) != PciCapabilityId.PCI_CAP_ID_VNDR)
                continue;
            var length = Math.Min((int)device.ReadConfig8(at + 2), MaxSize);
            device.ReadConfig(at, bytes[..length]);
            if (!TryRead(at, bytes[..length], out var found) || !Fits(device, found))
                continue;
            switch (found.Type)
            {
                case VIRTIO_PCI_CAP_COMMON_CFG:
                    common ??= found;
                    break;
                case VIRTIO_PCI_CAP_NOTIFY_CFG:
                    notify ??= found;
                    break;
                case VIRTIO_PCI_CAP_ISR_CFG:
                    isr ??= found;
                    break;
                case VIRTIO_PCI_CAP_DEVICE_CFG:
                    config ??= found;
                    break;
            }
        }

        reason = common is null ? "no common configuration" : isr is null ? "no ISR" : notify is null ? "no notifications" : "";
        if (reason.Length > 0)
            return false;
        layout = new VirtioPciLayout(common!.Value, notify!.Value, isr!.Value, config);
        return true;
    }

    private static bool Fits(PciDevice device, in VirtioPciCapability found)
    {
        var (least, alignment) = found.Type switch
        {
            VIRTIO_PCI_CAP_COMMON_CFG => (VirtioCommonConfig.ShortSize, 4u),
            VIRTIO_PCI_CAP_NOTIFY_CFG => (2, 2u),
            VIRTIO_PCI_CAP_ISR_CFG => (1, 1u),
            VIRTIO_PCI_CAP_DEVICE_CFG => (1, 4u),
            _ => (int.MaxValue, 1u),
        };
        if (found.Bar > MostBar || found.Length < (ulong)least || (found.Offset & (alignment - 1)) != 0)
            return false;
        // Offset and length have 32 bits each, so their sum does not overflow.
        return found.Offset + found.Length <= device.GetRegion(found.Bar).Bar.Size;
    }
}
