using Virtbus.Buses.Auxiliary;
using Virtbus.Buses.Pci;
using Virtbus.Core;

[assembly: FabricModule("trust_slots", typeof(Virtbus.Tests.Trust.Module.TrustSlots), Description = "Hardware that a test can pull out")]

namespace Virtbus.Tests.Trust.Module;

/// <summary>
/// Devices trust.slot.N: each stands for a slot with a scratch function in it, which belongs to vfio-pci. Its attribute hardware takes the
/// function out and puts another one in.
/// </summary>
public sealed class TrustSlots : IFabricModule
{
    /// <inheritdoc/>
    public ValueTask InitAsync(ModuleContext context)
    {
        ArgumentNullException.ThrowIfNull(context);
        return context.RegisterDriverAsync(new SlotDriver(context.Fabric.GetBus<AuxiliaryBus>(), context.Fabric.GetBus<PciBus>(), context.Name));
    }

    [AuxiliaryDeviceTable("trust.slot")]
    private sealed class SlotDriver(AuxiliaryBus bus, PciBus pci, string module) : AuxiliaryDriver<AuxiliaryDevice>(bus, module)
    {
        protected override IReadOnlyList<AttributeGroup> DeviceAttributeGroups => Groups;

        protected override async ValueTask ProbeAsync(AuxiliaryDevice device, AuxiliaryDeviceId id, CancellationToken cancellationToken)
        {
            var slot = new Slot(pci);
            device.SetDriverData(slot);
            await slot.PutInAsync();
        }

        protected override ValueTask RemoveAsync(AuxiliaryDevice device) => device.GetDriverData<Slot>()!.TakeOutAsync(isSurprise: false);

        private static Slot Of(AuxiliaryDevice device) => device.GetDriverData<Slot>()!;

        private static readonly AttributeGroup[] Groups =
        [
            new(
                new ObjectAttribute<AuxiliaryDevice>("address", static device => Of(device).Address),
                new ObjectAttribute<AuxiliaryDevice>("hardware", null, static (device, value, _) => value.Trim() switch
                {
                    "in" => Of(device).PutInAsync(),
                    "pulled" => Of(device).TakeOutAsync(isSurprise: true),
                    _ => Of(device).BreakAsync(),
                })),
        ];
    }
}
