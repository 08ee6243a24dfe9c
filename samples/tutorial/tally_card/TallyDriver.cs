using Virtbus.Buses.Pci;
using Virtbus.Core;

namespace TallyCard;

/// <summary>The driver of the card: attributes <c>tally</c> (write: adds), <c>limit</c> and <c>alarms</c> of each device.</summary>
/// <param name="bus">The fabric's PCI bus.</param>
/// <param name="module">The module's name, which is the driver's too.</param>
[PciDeviceTable(TallyFunction.VendorId, TallyFunction.DeviceId)]
internal sealed class TallyDriver(PciBus bus, string module) : PciDriver(bus, module)
{
    protected override IReadOnlyList<AttributeGroup> DeviceAttributeGroups => Groups;

    protected override ValueTask ProbeAsync(PciDevice device, PciDeviceId id, CancellationToken cancellationToken)
    {
        // What is added to the device's resources goes at the unbind, the last first; also when the probe fails behind it.
        device.Enable();
        device.Resources.AddAction(() =>
        {
            device.Disable();
            return default;
        });
        var card = new Card(device.GetRegion(0));
        // Messages are writes to memory, which a bus master makes.
        device.SetMaster(true);
        device.AllocateVectors(1, 1, PciInterruptKinds.MsiX)[0].SetHandler(card.CountAlarm);
        device.Resources.AddAction(() =>
        {
            device.FreeVectors();
            return default;
        });
        device.SetDriverData(card);
        return default;
    }

    private static readonly AttributeGroup[] Groups =
    [
        new(
            new ObjectAttribute<PciDevice>("tally", static d => $"{Of(d).Region.Read32(TallyFunction.Tally)}", static (d, value, _) => Write(d, "tally", TallyFunction.Add, value)),
            new ObjectAttribute<PciDevice>("limit", static d => $"{Of(d).Region.Read32(TallyFunction.Limit)}", static (d, value, _) => Write(d, "limit", TallyFunction.Limit, value)),
            new ObjectAttribute<PciDevice>("alarms", static d => $"{Of(d).Alarms}")),
    ];

    private static Card Of(PciDevice device) => device.GetDriverData<Card>() ?? throw new InvalidOperationException("Attributes of a driver are there while it is bound.");

    private static ValueTask Write(PciDevice device, string name, int register, string value)
    {
        Of(device).Region.Write32((ulong)register, (uint)AttributeValue.ParseUnsigned($"{device.DevPath}/{name}", value, uint.MaxValue));
        return default;
    }

    private sealed class Card(PciRegion region)
    {
        private long _alarms;

        public PciRegion Region => region;

        public long Alarms => Interlocked.Read(ref _alarms);

        public void CountAlarm() => Interlocked.Increment(ref _alarms);
    }
}
