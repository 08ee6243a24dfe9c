using System.Buffers.Binary;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Pci;

namespace Virtbus.Tests.Drivers.Adapter.Tern;

/// <summary>
/// A third make of adapter, with two ports that a wire connects, and rings of another form: one ring a port for both directions, whose slots say
/// in memory whose they are. There is no command ring, no event ring and no index block; a port is set up by registers, and what is written
/// to its doorbell is done before the write returns.
/// </summary>
internal sealed class TernFunction() : PciFunction(Layout)
{
    public const ushort DeviceId = 0x3001;
    public const int Ports = 2;

    // BAR 0: identity, address, and 32 bytes a port.
    public const int Identity = 0x00;
    public const int AddressLow = 0x04;
    public const int AddressHigh = 0x08;
    public const int PortBase = 0x100;
    public const int PortStride = 0x20;
    public const int RingLow = 0x00;
    public const int RingHigh = 0x04;
    public const int RingSlots = 0x08;
    public const int Doorbell = 0x0C;

    // A slot: address 8, length 4, owner 4. Even slots are frames to send, odd ones room for frames that come.
    public const int SlotSize = 16;
    public const int OwnerOffset = 12;
    public const uint OwnedByDriver = 0;
    public const uint OwnedByHardware = 1;
    public const uint Letters = 0x4E524554;

    private static readonly ConfigLayout Layout = ConfigSpaceBuilder.Function(0x5642, DeviceId)
        .Class(0x020000, revision: 1)
        .MemoryBar64(0, 0x1000)
        .MemoryBar64(4, 0x1000)
        .PowerManagement()
        .Msix(Ports, 4, 0, 4, 0x800)
        .Express(new PciExpressOptions())
        .Build();

    private readonly Lock _lock = new();
    private readonly Port[] _ports = [new(), new()];

    protected override void ReadRegister(int bar, ulong offset, Span<byte> destination)
    {
        destination.Clear();
        if (bar == 0 && destination.Length == 4)
        {
            BinaryPrimitives.WriteUInt32LittleEndian(destination, (int)offset switch
            {
                Identity => Letters,
                AddressLow => 0x00000030,
                AddressHigh => 0x0200,
                _ => 0,
            });
        }
    }

    protected override void WriteRegister(int bar, ulong offset, ReadOnlySpan<byte> source)
    {
        if (bar != 0 || source.Length != 4 || offset < PortBase || offset >= PortBase + (Ports * PortStride))
            return;
        var number = ((int)offset - PortBase) / PortStride;
        var value = BinaryPrimitives.ReadUInt32LittleEndian(source);
        var raised = false;
        lock (_lock)
        {
            var port = _ports[number];
            switch ((int)offset % PortStride)
            {
                case RingLow:
                    port.Ring = (port.Ring & ~0xFFFFFFFFUL) | value;
                    break;
                case RingHigh:
                    port.Ring = (port.Ring & 0xFFFFFFFFUL) | ((ulong)value << 32);
                    break;
                case RingSlots:
                    (port.Slots, port.NextSend, port.NextReceive) = (value, 0, 1);
                    break;
                case Doorbell:
                    using (var use = UsePort())
                        raised = use.Dma is { } dma && Carry(dma, port, _ports[1 - number]);
                    break;
            }
        }
        if (raised)
            RaiseMsix(1 - number);
    }

    protected override void OnReset(PciResetKind kind)
    {
        lock (_lock)
        {
            foreach (var port in _ports)
                port.Slots = 0;
        }
    }

    private static bool Carry(DmaPort dma, Port from, Port to)
    {
        var carried = false;
        Span<byte> slot = stackalloc byte[SlotSize];
        Span<byte> room = stackalloc byte[SlotSize];
        var frame = new byte[2048];
        while (from.Slots > 0 && dma.TryRead(At(from, from.NextSend), slot) && Owner(slot) == OwnedByHardware)
        {
            var bytes = frame.AsSpan(0, (int)Math.Min(BinaryPrimitives.ReadUInt32LittleEndian(slot[8..]), (uint)frame.Length));
            dma.TryRead(Address(slot), bytes);
            // What finds no room is lost.
            if (to.Slots > 0 && dma.TryRead(At(to, to.NextReceive), room) && Owner(room) == OwnedByHardware && dma.TryWrite(Address(room), bytes))
            {
                BinaryPrimitives.WriteInt32LittleEndian(room[8..], bytes.Length);
                Give(dma, to, to.NextReceive, room);
                to.NextReceive = (to.NextReceive + 2) % to.Slots;
                carried = true;
            }
            Give(dma, from, from.NextSend, slot);
            from.NextSend = (from.NextSend + 2) % from.Slots;
        }
        return carried;
    }

    private static Iova At(Port port, uint slot) => new(port.Ring + (slot * SlotSize));

    private static Iova Address(ReadOnlySpan<byte> slot) => new(BinaryPrimitives.ReadUInt64LittleEndian(slot));

    private static uint Owner(ReadOnlySpan<byte> slot) => BinaryPrimitives.ReadUInt32LittleEndian(slot[OwnerOffset..]);

    // The owner comes last: who sees it sees the rest.
    private static void Give(DmaPort dma, Port port, uint at, Span<byte> slot)
    {
        BinaryPrimitives.WriteUInt32LittleEndian(slot[OwnerOffset..], OwnedByDriver);
        dma.TryWrite(At(port, at), slot[..OwnerOffset]);
        Thread.MemoryBarrier();
        dma.TryWrite(new Iova(At(port, at).Value + OwnerOffset), slot[OwnerOffset..]);
    }

    private sealed class Port
    {
        public ulong Ring { get; set; }

        public uint Slots { get; set; }

        public uint NextSend { get; set; }

        public uint NextReceive { get; set; }
    }
}
