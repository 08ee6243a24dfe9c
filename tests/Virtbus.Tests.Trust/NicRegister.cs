namespace Virtbus.Tests.Trust;

/// <summary>Registers of a merlin adapter in BAR 0 and doorbells in BAR 2, see docs/adapter-registers.md.</summary>
internal static class NicRegister
{
    public const uint RegisterBar = 0, DoorbellBar = 2;

    public const ulong Identity = 0x00, Control = 0x40, Status = 0x48, Error = 0x50, CommandBase = 0x80, CommandSize = 0x88, CommandProducer = 0x90, CommandConsumer = 0x98;
    public const ulong EventBase = 0xC0, EventSize = 0xC8, EventProducer = 0xD0, EventConsumer = 0xD8;
    public const int Count = 0x100;

    public const ulong CommandDoorbell = 0x000, EventDoorbell = 0x008, TransmitDoorbell = 0x100, TransmitStride = 0x10;

    public const uint Enable = 1, Reset = 2;
    public const uint Enabled = 1, LinkUp = 2, Stopped = 4, Suspended = 8;
    public const uint Make = 0x4E4C524D;
}
