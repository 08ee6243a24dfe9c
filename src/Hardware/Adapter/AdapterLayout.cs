namespace Virtbus.Hardware.Adapter;

/// <summary>
/// In which the makes differ: ids, and where in which width the registers and doorbells are. What lies in memory is the same for both.
/// docs/adapter-registers.md has the tables.
/// </summary>
internal sealed class AdapterLayout
{
    /// <summary>Where the virtio windows begin, in the register BAR and likewise in the doorbell BAR.</summary>
    public const int WindowBase = 0x8000;

    /// <summary>Bytes of a virtio window.</summary>
    public const int WindowSize = 0x1000;

    private readonly (AdapterRegister Register, bool High)[] _words;

    private AdapterLayout(params (int Offset, AdapterRegister Register, bool Wide)[] registers)
    {
        _words = new (AdapterRegister, bool)[(registers.Max(r => r.Offset) / 4) + 2];
        foreach (var (offset, register, wide) in registers)
        {
            _words[offset / 4] = (register, false);
            if (wide)
                _words[(offset / 4) + 1] = (register, true);
        }
    }

    /// <summary>The first make: 64-bit registers.</summary>
    public static AdapterLayout Merlin { get; } = new(
        (0x00, AdapterRegister.Identity, true),
        (0x08, AdapterRegister.Parts, true),
        (0x10, AdapterRegister.Queues, true),
        (0x18, AdapterRegister.Windows, true),
        (0x20, AdapterRegister.MacAddress, true),
        (0x40, AdapterRegister.Control, true),
        (0x48, AdapterRegister.Status, true),
        (0x50, AdapterRegister.Error, true),
        (0x80, AdapterRegister.CommandBase, true),
        (0x88, AdapterRegister.CommandSize, true),
        (0x90, AdapterRegister.CommandProducer, true),
        (0x98, AdapterRegister.CommandConsumer, true),
        (0xC0, AdapterRegister.EventBase, true),
        (0xC8, AdapterRegister.EventSize, true),
        (0xD0, AdapterRegister.EventProducer, true),
        (0xD8, AdapterRegister.EventConsumer, true))
    {
        Model = "merlin",
        Identity = 0x4E4C524D | 1UL << 32,
        DeviceId = 0x1001,
        VirtualDeviceId = 0x1002,
        CommandDoorbell = 0x000,
        EventDoorbell = 0x008,
        TransmitDoorbell = 0x100,
        TransmitStride = 0x10,
    };

    /// <summary>The second make: 32-bit registers; what is wider is a pair, the low half first.</summary>
    public static AdapterLayout Harrier { get; } = new(
        (0x000, AdapterRegister.Identity, true),
        (0x008, AdapterRegister.Control, false),
        (0x00C, AdapterRegister.Status, false),
        (0x010, AdapterRegister.Error, false),
        (0x014, AdapterRegister.Parts, false),
        (0x018, AdapterRegister.Queues, true),
        (0x020, AdapterRegister.Windows, true),
        (0x028, AdapterRegister.MacAddress, true),
        (0x100, AdapterRegister.CommandSize, false),
        (0x104, AdapterRegister.CommandProducer, false),
        (0x108, AdapterRegister.CommandConsumer, false),
        (0x110, AdapterRegister.CommandBase, true),
        (0x200, AdapterRegister.EventSize, false),
        (0x204, AdapterRegister.EventProducer, false),
        (0x208, AdapterRegister.EventConsumer, false),
        (0x210, AdapterRegister.EventBase, true))
    {
        Model = "harrier",
        Identity = 0x52524148 | 1UL << 32,
        DeviceId = 0x2001,
        VirtualDeviceId = 0x2002,
        CommandDoorbell = 0x010,
        EventDoorbell = 0x014,
        TransmitDoorbell = 0x400,
        TransmitStride = 0x04,
    };

    public required string Model { get; init; }

    public required ulong Identity { get; init; }

    public required ushort DeviceId { get; init; }

    public required ushort VirtualDeviceId { get; init; }

    /// <summary>Offset of the command doorbell in the doorbell BAR; the value is the producer index.</summary>
    public required int CommandDoorbell { get; init; }

    /// <summary>Offset of the event doorbell; the value is the consumer index.</summary>
    public required int EventDoorbell { get; init; }

    /// <summary>Offset of the first queue set's transmit doorbell; any value rings it.</summary>
    public required int TransmitDoorbell { get; init; }

    /// <summary>Bytes from one transmit doorbell to the next.</summary>
    public required int TransmitStride { get; init; }

    /// <summary>What lies at a 32-bit word of the register BAR.</summary>
    public (AdapterRegister Register, bool High) At(ulong word) => word < (ulong)_words.Length ? _words[word] : default;
}
