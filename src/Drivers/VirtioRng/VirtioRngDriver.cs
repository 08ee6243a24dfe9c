using Virtbus.Buses.Virtio;
using Virtbus.Core;
using Virtbus.Subsystems.HwRandom;
using Virtbus.Virtio;

namespace Virtbus.Drivers.VirtioRng;

/// <summary>Registers virtio entropy sources (VIRTIO 1.3, 5.4) with the hw_random subsystem.</summary>
[VirtioDeviceTable(VirtioDeviceId.VIRTIO_ID_RNG)]
internal sealed class VirtioRngDriver(VirtioBus bus, string module) : VirtioDriver(bus, module)
{
    private readonly IdAllocator _ids = new();

    public override VirtioFeatures Features => VirtioFeatures.None;

    protected override async ValueTask ProbeAsync(VirtioBusDevice device, CancellationToken cancellationToken)
    {
        var id = _ids.Allocate();
        device.Resources.AddAction(() =>
        {
            _ids.Free(id);
            return default;
        });
        var source = device.Resources.Add(new VirtioRandom($"{Name}.{id}", device.Allocate(VirtioRandom.BufferSize)));
        source.Start(device);
        device.SetDriverData(source);
        var subsystem = HwRandomSubsystem.Of(device.Fabric!);
        await subsystem.RegisterAsync(source);
        device.Resources.AddAction(() => subsystem.UnregisterAsync(source));
    }

    protected override ValueTask RemoveAsync(VirtioBusDevice device)
    {
        device.GetDriverData<VirtioRandom>()?.Stop();
        return default;
    }

    protected override ValueTask FreezeAsync(VirtioBusDevice device) => RemoveAsync(device);

    protected override ValueTask RestoreAsync(VirtioBusDevice device)
    {
        device.GetDriverData<VirtioRandom>()!.Start(device);
        return default;
    }
}
