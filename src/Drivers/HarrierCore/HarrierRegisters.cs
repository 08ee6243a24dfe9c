using Virtbus.Buses.Pci;
using Virtbus.Drivers.NicRings;

namespace Virtbus.Drivers.HarrierCore;

/// <summary>The registers of a harrier adapter: 32 bits each; what is wider is a pair, the low half first.</summary>
internal sealed class HarrierRegisters(PciDevice device) : NicRegisters(device)
{
    private const ulong CommandDoorbell = 0x010;
    private const ulong EventDoorbell = 0x014;
    private const ulong TransmitDoorbell = 0x400;
    private const int TransmitStride = 4;

    public override string Make => "harrier";

    // HARR
    public override uint Letters => 0x52524148;

    public override ulong Read(NicRegister register)
    {
        var (offset, isPair) = PlaceOf(register);
        var low = Region.Read32(offset);
        // What is gone reads as all ones, whatever its width.
        if (!isPair)
            return low == uint.MaxValue ? ulong.MaxValue : low;
        return low | ((ulong)Region.Read32(offset + 4) << 32);
    }

    public override void Write(NicRegister register, ulong value)
    {
        var (offset, isPair) = PlaceOf(register);
        Region.Write32(offset, (uint)value);
        if (isPair)
            Region.Write32(offset + 4, (uint)(value >> 32));
    }

    public override void RingCommands(uint producer) => Doorbells.Write32(CommandDoorbell, producer);

    public override void RingEvents(uint consumer) => Doorbells.Write32(EventDoorbell, consumer);

    public override void RingTransmit(int set) => Doorbells.Write32(TransmitDoorbell + (ulong)(set * TransmitStride), 0);

    private static (ulong Offset, bool IsPair) PlaceOf(NicRegister register) => register switch
    {
        NicRegister.Identity => (0x000, true),
        NicRegister.Control => (0x008, false),
        NicRegister.Status => (0x00C, false),
        NicRegister.Error => (0x010, false),
        NicRegister.Parts => (0x014, false),
        NicRegister.Queues => (0x018, true),
        NicRegister.Windows => (0x020, true),
        NicRegister.MacAddress => (0x028, true),
        NicRegister.CommandSize => (0x100, false),
        NicRegister.CommandBase => (0x110, true),
        NicRegister.EventSize => (0x200, false),
        NicRegister.EventBase => (0x210, true),
        _ => throw new ArgumentOutOfRangeException(nameof(register), register, null),
    };
}
