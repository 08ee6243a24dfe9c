using Virtbus.Buses.Virtio;
using Virtbus.Core;
using Virtbus.Models.VirtioNet;
using Virtbus.Platform;
using Virtbus.Subsystems.Net;
using Virtbus.Virtio;
using static Virtbus.Models.VirtioNet.VirtioNetConfig;

namespace Virtbus.Drivers.VirtioNet;

/// <summary>
/// Registers an interface of the net subsystem for each virtio network device (VIRTIO 1.3, 5.1); it comes up at once. What the device takes of a frame is
/// left to it, and what it leaves is handed on as it is.
/// </summary>
[VirtioDeviceTable(VirtioDeviceId.VIRTIO_ID_NET)]
internal sealed class VirtioNetDriver(VirtioBus bus, string module) : VirtioDriver(bus, module)
{
    private const int MtuOffset = 10;

    public override VirtioFeatures Features => NetFeatures.All;

    protected override IReadOnlyList<AttributeGroup> DeviceAttributeGroups => VirtualFunctionGroup.Groups;

    protected override VirtioFeatures Validate(VirtioBusDevice device, VirtioFeatures features)
    {
        if (device.IsLegacy && !features.Has(VirtioLegacyConfig.VIRTIO_F_ANY_LAYOUT))
            throw new VirtbusException(Errno.ENODEV, $"Device {device.Name} is a legacy one that wants the header of a frame in a buffer of its own, which driver {Name} does not do.");
        features = NetFeatures.Settle(features);
        return features.Has(VIRTIO_NET_F_MTU) && device.ReadConfigUInt16(MtuOffset) < NetDevice.MinMtu ? features.Without(VIRTIO_NET_F_MTU) : features;
    }

    protected override async ValueTask ProbeAsync(VirtioBusDevice device, CancellationToken cancellationToken)
    {
        var card = device.Resources.Add(new NetCard(device));
        card.Start();
        device.Ready();
        card.SetProbing(cancellationToken);
        await card.BeginAsync();
        var subsystem = NetSubsystem.Of(device.Fabric!);
        var there = await subsystem.RegisterAsync(device, card, card.Options);
        try
        {
            there.SetQueues(card.Pairs);
            card.Interface = there;
            device.SetDriverData(card);
            await there.SetUpAsync(true);
        }
        catch
        {
            await subsystem.UnregisterAsync(there);
            throw;
        }

        card.SetProbing(CancellationToken.None);
    }

    protected override async ValueTask RemoveAsync(VirtioBusDevice device)
    {
        if (device.GetDriverData<NetCard>() is not { } card)
            return;
        card.EndCommands();
        await NetSubsystem.Of(device.Fabric!).UnregisterAsync(card.Interface!);
        card.Stop();
    }

    protected override async ValueTask FreezeAsync(VirtioBusDevice device)
    {
        var card = device.GetDriverData<NetCard>()!;
        card.EndCommands();
        await card.Interface!.SetPresentAsync(false);
        card.Stop();
    }

    protected override async ValueTask RestoreAsync(VirtioBusDevice device)
    {
        var card = device.GetDriverData<NetCard>()!;
        card.Start();
        device.Ready();
        await card.BeginAsync();
        card.Interface!.SetQueues(card.Pairs);
        card.Interface.SetCarrier(card.ReadLink());
        await card.Interface.SetPresentAsync(true);
    }

    protected override void OnConfigChanged(VirtioBusDevice device)
    {
        if (device.GetDriverData<NetCard>() is not { Interface: { } there } card)
            return;
        there.SetCarrier(card.ReadLink());
        if (card.IsAskedToAnnounce)
            card.Announce();
    }
}
