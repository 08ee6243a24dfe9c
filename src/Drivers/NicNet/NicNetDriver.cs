using Virtbus.Buses.Auxiliary;
using Virtbus.Drivers.Nic;
using Virtbus.Subsystems.Net;

namespace Virtbus.Drivers.NicNet;

/// <summary>
/// The one driver of network parts, whatever make of adapter they are cut from (VB-21): adapts queue sets to the net subsystem's operations
/// and registers an interface, which comes up at once.
/// </summary>
[AuxiliaryDeviceTable("merlin_core.net", DriverData = 1)]
[AuxiliaryDeviceTable("harrier_core.net", DriverData = 2)]
internal sealed class NicNetDriver(AuxiliaryBus bus, string module) : AuxiliaryDriver<NicPart>(bus, module)
{
    protected override async ValueTask ProbeAsync(NicPart device, AuxiliaryDeviceId id, CancellationToken cancellationToken)
    {
        var core = device.Core;
        var link = device.Require<INicLink>();
        var address = link.ReadAddress(device.Port);
        var subsystem = NetSubsystem.Of(device.Fabric!);
        var options = new NetDeviceOptions(address, $"p{device.Port}") { Carrier = link.IsLinkUp };
        var interfaceDevice = await subsystem.RegisterAsync(core.Device, new NicNetOps(device.Require<INicQueueSets>()), options);
        device.Resources.AddAction(() => subsystem.UnregisterAsync(interfaceDevice));
        device.Resources.Add(link.Subscribe(e => interfaceDevice.SetCarrier(e == NicEvent.LinkUp)));
        device.SetDriverData(interfaceDevice);
        await interfaceDevice.SetUpAsync(true);
    }

    protected override ValueTask SuspendAsync(NicPart device) => SetPresentAsync(device, false);

    protected override ValueTask ResumeAsync(NicPart device) => SetPresentAsync(device, true);

    private static ValueTask SetPresentAsync(NicPart device, bool present) => device.GetDriverData<NetDevice>()?.SetPresentAsync(present) ?? default;
}
