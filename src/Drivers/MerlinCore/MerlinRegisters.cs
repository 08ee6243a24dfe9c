using Virtbus.Buses.Pci;
using Virtbus.Drivers.NicRings;

namespace Virtbus.Drivers.MerlinCore;

/// <summary>The registers of a merlin adapter: 64 bits each.</summary>
internal sealed class MerlinRegisters(PciDevice device) : NicRegisters(device)
{
    private const ulong CommandDoorbell = 0x000;
    private const ulong EventDoorbell = 0x008;
    private const ulong TransmitDoorbell = 0x100;
    private const int TransmitStride = 0x10;

    public override string Make => "merlin";

    // MRLN
    public override uint Letters => 0x4E4C524D;

    public override ulong Read(NicRegister register) => Region.Read64(OffsetOf(register));

    public override void Write(NicRegister register, ulong value) => Region.Write64(OffsetOf(register), value);

    public override void RingCommands(uint producer) => Doorbells.Write32(CommandDoorbell, producer);

    public override void RingEvents(uint consumer) => Doorbells.Write32(EventDoorbell, consumer);

    public override void RingTransmit(int set) => Doorbells.Write32(TransmitDoorbell + (ulong)(set * TransmitStride), 0);

    private static ulong OffsetOf(NicRegister register) => register switch
    {
        NicRegister.Identity => 0x00,
        NicRegister.Parts => 0x08,
        NicRegister.Queues => 0x10,
        NicRegister.Windows => 0x18,
        NicRegister.MacAddress => 0x20,
        NicRegister.Control => 0x40,
        NicRegister.Status => 0x48,
        NicRegister.Error => 0x50,
        NicRegister.CommandBase => 0x80,
        NicRegister.CommandSize => 0x88,
        NicRegister.EventBase => 0xC0,
        NicRegister.EventSize => 0xC8,
        _ => throw new ArgumentOutOfRangeException(nameof(register), register, null),
    };
}
