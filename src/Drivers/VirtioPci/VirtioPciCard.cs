using Virtbus.Buses.Pci;
using Virtbus.Buses.Virtio;
using Virtbus.Drivers.VirtioAdmin;
using Virtbus.Platform;
using Virtbus.Virtio;
using Virtbus.Virtio.Admin;

namespace Virtbus.Drivers.VirtioPci;

/// <summary>A function that is bound, and the virtio device that it is.</summary>
internal sealed class VirtioPciCard(PciDevice device, VirtioBus bus) : IVirtioAdminOwner, IAsyncDisposable
{
    private readonly VirtioPciAdministration _administration = new(device);
    private VirtioPciTransport? _transport;
    private bool _isEnabled;

    /// <summary>The device on the virtio bus; null while a reset is under way.</summary>
    internal VirtioBusDevice? Device { get; private set; }

    /// <summary>Its virtual functions; null when it can have none.</summary>
    internal VirtualFunctionProvider? Functions { get; set; }

    /// <summary>Finds the registers and puts the device on its bus.</summary>
    /// <exception cref="VirtbusException">ENODEV: no registers, or the device does not answer; EPERM: it would pass the IOMMU by.</exception>
    internal async ValueTask StartAsync()
    {
        if (!_isEnabled)
            device.Enable();
        _isEnabled = true;
        var transport = _transport = FindTransport();
        if (device.IsReal && !transport.DeviceFeatures.Has(VirtioFeatures.VIRTIO_F_ACCESS_PLATFORM))
        {
            throw new VirtbusException(
                Errno.EPERM, $"Device {device.Name} is real and does not offer VIRTIO_F_ACCESS_PLATFORM, so it would pass the IOMMU by and write over memory of the host. Offer it (QEMU: iommu_platform=on).");
        }

        device.SetMaster(true);
        try
        {
            Device = await bus.AddAsync(device, transport);
        }
        catch
        {
            // Nobody drives it.
            device.SetMaster(false);
            throw;
        }
    }

    /// <summary>Takes the device off its bus.</summary>
    internal async ValueTask StopAsync()
    {
        if (Device is not { } there)
            return;
        await bus.RemoveAsync(there);
        Device = null;
        // As it was found.
        _transport!.TryReset(out _);
    }

    public async ValueTask DisposeAsync()
    {
        await StopAsync();
        if (_isEnabled)
            device.Disable();
    }

    AdminCommandSet IVirtioAdminOwner.Commands => _administration.Commands;

    int IVirtioAdminOwner.ObjectLimit => _administration.ObjectLimit;

    bool IVirtioAdminOwner.TryExecute(ushort opcode, int function, ReadOnlySpan<byte> head, ReadOnlySpan<byte> body, Span<byte> result, out int written, out Fault fault) =>
        _administration.TryExecute(opcode, function, head, body, result, out written, out fault);

    bool IVirtioAdminOwner.TryTakeObject(int function, out uint id) => _administration.TryTakeObject(function, out id);

    bool IVirtioAdminOwner.HasObject(int function, uint id) => _administration.HasObject(function, id);

    void IVirtioAdminOwner.FreeObject(int function, uint id) => _administration.FreeObject(function, id);

    private VirtioPciTransport FindTransport()
    {
        if (VirtioPciLayout.TryFind(device, out var layout, out var reason))
            return new VirtioPciModern(device, layout!, _administration);
        return VirtioPciLegacy.TryOpen(device, out var legacy)
            ? legacy!
            : throw new VirtbusException(Errno.ENODEV, $"Device {device.Name} has no virtio registers: {reason}, and it has no ports of a transitional device.");
    }
}
