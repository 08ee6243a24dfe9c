using Virtbus.Buses.Pci;
using Virtbus.Buses.Virtio;
using Virtbus.Core;
using Virtbus.Platform;
using Virtbus.Virtio;

namespace Virtbus.Drivers.VirtioPci;

/// <summary>
/// The transport of virtio devices that are PCI functions (Linux: virtio-pci): finds the registers, modern ones first, and puts the device on the virtio
/// bus, where the driver of its type takes it.
/// </summary>
[PciDeviceTable(Vendor)]
internal sealed class VirtioPciDriver(PciBus bus, VirtioBus virtio) : PciDriver(bus, "virtio-pci")
{
    private const uint Vendor = 0x1AF4;
    private const ushort FirstDevice = 0x1000;
    private const ushort LastDevice = 0x107F;

    public override Func<PciDevice, int, ValueTask>? ConfigureVirtualFunctions => static (device, count) =>
    {
        var card = device.GetDriverData<VirtioPciCard>();
        if (count == 0)
            return card?.Functions?.SetNumberAsync(0) ?? default;
        if (card?.Device is not { } there || (there.Status & VirtioStatus.DRIVER_OK) == 0)
            throw new VirtbusException(Errno.EBUSY, $"Device {device.Name} enables no virtual functions before a driver runs its virtio device. Bind one first.");
        if (!there.Has(VirtioFeatures.VIRTIO_F_SR_IOV))
            throw new VirtbusException(Errno.EINVAL, $"Device {device.Name} does not offer VIRTIO_F_SR_IOV, so it has no virtual functions.");
        return card.Functions?.SetNumberAsync(count) ?? device.SetVirtualFunctionsAsync(count);
    };

    // The vendor's other ids are not virtio.
    protected override bool Accepts(IPciIdentity device) => device.DeviceId is >= FirstDevice and <= LastDevice;

    protected override async ValueTask ProbeAsync(PciDevice device, PciDeviceId id, CancellationToken cancellationToken)
    {
        var card = device.Resources.AddAsync(new VirtioPciCard(device, virtio));
        device.SetDriverData(card);
        await card.StartAsync();
        if (device.TotalVirtualFunctions == 0)
            return;
        device.Resources.AddAction(() => device.VirtualFunctions.Count > 0 ? device.SetVirtualFunctionsAsync(0) : default);
        card.Functions = device.Resources.Add(new VirtualFunctionProvider(device));
        card.Functions.Start();
    }

    // The virtio device has been frozen: it is reset.
    protected override ValueTask SuspendAsync(PciDevice device)
    {
        device.SetMaster(false);
        return default;
    }

    protected override ValueTask ResumeAsync(PciDevice device)
    {
        device.SetMaster(true);
        return default;
    }

    // A reset takes all from the device that its driver set up, so that one goes before it and comes back afterwards.
    protected override ValueTask PrepareResetAsync(PciDevice device) => device.GetDriverData<VirtioPciCard>()?.StopAsync() ?? default;

    protected override ValueTask ResetDoneAsync(PciDevice device) => device.GetDriverData<VirtioPciCard>()?.StartAsync() ?? default;
}
