using Virtbus.Platform;
using Virtbus.Remote.Pci.VfioUser;
using Virtbus.Subsystems.Vfio;

namespace Virtbus.Tests.Trust;

/// <summary>A user of a serial port, which it has look at itself.</summary>
internal sealed class SerialUser(VfioUserClient client, bool byMessage) : UserDevice(client, byMessage)
{
    // Registers of a 16550A, BAR 0.
    private const ulong Data = 0, InterruptEnable = 1, FifoControl = 2, LineControl = 3, ModemControl = 4, LineStatus = 5, Scratch = 7;
    private const byte ReceivedData = 1, EnableAndClear = 7, EightBits = 3, Loop = 0x10, DataReady = 1;
    private const uint PortBar = 0;

    public override IEnumerable<Func<Fault>> SetUp => base.SetUp.Concat(
    [
        () => SetSignals(IntxIndex, 1),
        () => WriteByte(LineControl, EightBits),
        () => WriteByte(FifoControl, EnableAndClear),
        () => WriteByte(ModemControl, Loop),
        () => WriteByte(InterruptEnable, ReceivedData),
    ]);

    public override void Work(Random random)
    {
        switch (random.Next(4))
        {
            case 0:
                Unmask();
                break;
            case 1:
                Client.TryRead(PortBar, Data, new byte[1], out _);
                break;
            case 2:
                WriteByte((ulong)random.Next(8), (byte)random.Next(256));
                break;
            default:
                for (var i = random.Next(20); i > 0; i--)
                    Client.TryPost(PortBar, Data, [(byte)i], out _);
                break;
        }
    }

    public override void Check()
    {
        for (var value = 0; value < 256; value += 51)
        {
            Demand(WriteByte(Scratch, (byte)value));
            Demand(ReadByte(Scratch) == value, "the scratch register does not hold what was written to it");
        }
        for (var round = 0; round < 3; round++)
        {
            for (var i = 0; i < 16; i++)
                Demand(WriteByte(Data, (byte)((round * 16) + i)));
            DemandSignal(0);
            for (var i = 0; i < 16; i++)
            {
                Demand((ReadByte(LineStatus) & DataReady) != 0, "a character that was sent did not come back");
                Demand(ReadByte(Data) == (round * 16) + i, "another character came back than was sent");
            }
            Demand((ReadByte(LineStatus) & DataReady) == 0, "more characters came back than were sent");
            Demand(Unmask());
        }
    }

    private Fault Unmask() =>
        FaultOf(Client.TrySetIrqs(new VfioIrqSet { Flags = VfioIrqSetFlags.DataNone | VfioIrqSetFlags.ActionUnmask, Index = IntxIndex, Start = 0, Count = 1 }, out var fault), fault);

    private Fault WriteByte(ulong register, byte value) => FaultOf(Client.TryWrite(PortBar, register, [value], out var fault), fault);

    private byte ReadByte(ulong register)
    {
        Span<byte> value = stackalloc byte[1];
        Demand(FaultOf(Client.TryRead(PortBar, register, value, out var fault), fault));
        return value[0];
    }
}
