using System.Buffers.Binary;
using Virtbus.Buses.Pci;
using Virtbus.Drivers.VfioPci;
using Virtbus.Drivers.VirtioAdmin;
using Virtbus.Pci;
using Virtbus.Platform;
using Virtbus.Subsystems.Vfio;
using Virtbus.Virtio;
using Virtbus.Virtio.Admin;
using static Virtbus.Drivers.VfioPci.VfioPciRegion;

namespace Virtbus.Drivers.VirtioVfioPci;

/// <summary>
/// A virtual network function, modern only, with the ports of a transitional one in BAR 0. Each access to them is an administration command of the physical
/// function (VIRTIO 1.4, 2.12.1.1); notifications go to the virtual function's own registers. Its modern registers are as they were.
/// </summary>
internal sealed class VirtioLegacyFunction(PciDevice device, bool migrates) : VirtioVfioFunction(device, migrates)
{
    private readonly VirtioLegacyHeader _header = new();
    private LegacyNotifyInfo _notifications;

    /// <inheritdoc/>
    public override string Ops => Migrates ? "virtio-vfio-pci-trans-lm" : "virtio-vfio-pci-trans";

    private int ConfigOffset => VirtioLegacyConfig.ConfigOffset(isMsixEnabled: InterruptKind == PciInterruptKinds.MsiX);

    /// <inheritdoc/>
    public override bool TryOpen(VfioOwner user, out Fault fault)
    {
        if (!TryFindNotifications(out _notifications, out fault))
            return false;
        _header.Open();
        return base.TryOpen(user, out fault);
    }

    /// <inheritdoc/>
    public override VfioRegionInfo GetRegionInfo(uint index) => index == VFIO_PCI_BAR0_REGION_INDEX
        ? new VfioRegionInfo(VfioRegionFlags.Read | VfioRegionFlags.Write, VirtioLegacyHeader.PortBytes)
        : base.GetRegionInfo(index);

    /// <inheritdoc/>
    public override bool TryRead(uint region, ulong offset, Span<byte> destination, out Fault fault)
    {
        if (region == VFIO_PCI_BAR0_REGION_INDEX)
            return IsPort(offset, destination.Length, out fault) && TryReadPort((int)offset, destination, out fault);
        if (!base.TryRead(region, offset, destination, out fault))
            return false;
        if (region == VFIO_PCI_CONFIG_REGION_INDEX && !Device.IsGone)
            _header.Read(offset, destination);
        return true;
    }

    /// <inheritdoc/>
    public override bool TryWrite(uint region, ulong offset, ReadOnlySpan<byte> source, out Fault fault)
    {
        if (region == VFIO_PCI_BAR0_REGION_INDEX)
            return IsPort(offset, source.Length, out fault) && TryWritePort((int)offset, source, out fault);
        // The tool box looks at the range.
        if (!base.TryWrite(region, offset, source, out fault))
            return false;
        if (region != VFIO_PCI_CONFIG_REGION_INDEX)
            return true;
        _header.Write(offset, source);
        SyncDoorbells();
        return true;
    }

    /// <inheritdoc/>
    public override IReadOnlyList<VfioDoorbell> GetDoorbells(uint region) => region == VFIO_PCI_BAR0_REGION_INDEX
        ? [.. Device.Doorbells.Where(IsNotification).Select(static d => new VfioDoorbell(VirtioLegacyConfig.VIRTIO_PCI_QUEUE_NOTIFY, sizeof(ushort), d.Match))]
        : [.. base.GetDoorbells(region).Where(d => !IsNotification(new PciDoorbell((int)region, d.Offset, d.Size, d.Match)))];

    /// <inheritdoc/>
    public override bool TryAttachDoorbell(uint region, VfioDoorbell doorbell, EventFd? signal, out Fault fault)
    {
        if (!GetDoorbells(region).Contains(doorbell))
            return Refuse(Errno.ENOENT, "the function has no such doorbell", out fault);
        return region == VFIO_PCI_BAR0_REGION_INDEX
            ? TryAttachDoorbell(region, doorbell, new PciDoorbell(_notifications.Bar, _notifications.Offset, sizeof(ushort), doorbell.Match), signal, out fault)
            : base.TryAttachDoorbell(region, doorbell, signal, out fault);
    }

    /// <inheritdoc/>
    protected override void OnReset()
    {
        _header.Reset();
        SyncDoorbells();
        base.OnReset();
    }

    /// <inheritdoc/>
    protected override bool IsEnabled(uint region) => region == VFIO_PCI_BAR0_REGION_INDEX ? ArePortsEnabled : base.IsEnabled(region);

    private bool ArePortsEnabled => _header.IsIoEnabled && Config is { IsAwake: true };

    private bool TryFindNotifications(out LegacyNotifyInfo place, out Fault fault)
    {
        place = default;
        Span<LegacyNotifyInfo> places = stackalloc LegacyNotifyInfo[AdminLegacyLayout.NotifyEntries];
        if (!VirtioPciAdmin.TryLegacyNotifyInfo(Device, places, out var count, out fault))
            return false;
        foreach (var offered in places[..count])
        {
            if (offered.Flags != LegacyNotifyInfo.VIRTIO_ADMIN_CMD_NOTIFY_INFO_FLAGS_OWNER_MEM)
                continue;
            place = offered;
            return true;
        }

        return Refuse(
            Errno.ENOENT,
            $"Device {Device.Name} has no place of its own for the notifications of old drivers. Set driver_override to 'vfio-pci' to hand it out without them.",
            out fault);
    }

    private bool IsPort(ulong offset, int length, out Fault fault)
    {
        fault = Fault.None;
        if (Device.IsGone)
            return Refuse(Errno.EIO, "the function is gone", out fault);
        if (!ArePortsEnabled)
            return Refuse(Errno.EIO, "the user has I/O ports disabled in the command register", out fault);
        const ulong size = VirtioLegacyHeader.PortBytes;
        return (offset <= size && (ulong)length <= size - offset) || Refuse(Errno.EINVAL, "the access leaves the ports", out fault);
    }

    // A command has one field, so an access goes as a whole to where it begins; the device refuses one that is no field.
    private bool TryReadPort(int offset, Span<byte> destination, out Fault fault)
    {
        if (offset == VirtioLegacyConfig.VIRTIO_PCI_QUEUE_NOTIFY)
        {
            // The user's ports are enabled; whether its memory is too is another thing.
            return IsNotification(destination.Length, out fault)
                && TryReadRegister<ushort>(_notifications.Bar, _notifications.Offset, testMemory: false, out var value, out fault)
                && BinaryPrimitives.TryWriteUInt16LittleEndian(destination, value);
        }

        var config = ConfigOffset;
        return offset < config
            ? VirtioPciAdmin.TryLegacyCommonRead(Device, (byte)offset, destination, out fault)
            : VirtioPciAdmin.TryLegacyDeviceRead(Device, (byte)(offset - config), destination, out fault);
    }

    private bool TryWritePort(int offset, ReadOnlySpan<byte> source, out Fault fault)
    {
        if (offset == VirtioLegacyConfig.VIRTIO_PCI_QUEUE_NOTIFY)
        {
            return IsNotification(source.Length, out fault)
                && TryWriteRegister(_notifications.Bar, _notifications.Offset, testMemory: false, BinaryPrimitives.ReadUInt16LittleEndian(source), out fault);
        }

        var config = ConfigOffset;
        return offset < config
            ? VirtioPciAdmin.TryLegacyCommonWrite(Device, (byte)offset, source, out fault)
            : VirtioPciAdmin.TryLegacyDeviceWrite(Device, (byte)(offset - config), source, out fault);
    }

    // Registers of the function that do what the port does, for one queue each. They are shown at the port alone.
    private bool IsNotification(PciDoorbell doorbell) =>
        doorbell is { Size: sizeof(ushort), Match: not null } && doorbell.Bar == _notifications.Bar && doorbell.Offset == _notifications.Offset;

    private static bool IsNotification(int length, out Fault fault)
    {
        fault = Fault.None;
        return length == sizeof(ushort) || Refuse(Errno.EINVAL, "a notification has two bytes", out fault);
    }

    private static bool Refuse(Errno errno, string why, out Fault fault)
    {
        fault = new Fault(errno, why);
        return false;
    }
}
