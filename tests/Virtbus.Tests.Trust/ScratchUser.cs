using System.Security.Cryptography;
using Virtbus.Platform;
using Virtbus.Remote.Pci.VfioUser;

namespace Virtbus.Tests.Trust;

/// <summary>A user of a scratch function.</summary>
internal sealed class ScratchUser(VfioUserClient client, bool byMessage) : UserDevice(client, byMessage)
{
    // Registers of the function, BAR 0.
    private const ulong InterruptCause = 0x08, InterruptEnable = 0x0C, Raise = 0x10, Doorbell = 0x14, DmaAddressLow = 0x20, DmaAddressHigh = 0x24, DmaLength = 0x28;
    private const ulong DmaOffset = 0x2C, DmaCommand = 0x30, DmaStatus = 0x34, Plain = 0x100;
    private const uint AllCauses = 7, FromMemory = 1, ToMemory = 2, Done = 2;
    private const int DmaVector = 0, DoorbellVector = 1;
    private const int DeviceMemory = 0x10000;
    private const uint RegisterBar = 0;

    public override IEnumerable<Func<Fault>> SetUp => base.SetUp.Concat(
    [
        () => SetSignals(MsixIndex, Vectors),
        () => Write32(RegisterBar, InterruptEnable, AllCauses),
    ]);

    public override void Work(Random random)
    {
        switch (random.Next(6))
        {
            case 0:
                Write32(RegisterBar, Raise, (uint)random.Next(Vectors));
                break;
            case 1:
                Write32(RegisterBar, Doorbell, (uint)random.Next());
                break;
            case 2:
                Write32(RegisterBar, InterruptCause, AllCauses);
                Write32(RegisterBar, InterruptEnable, AllCauses);
                break;
            default:
                // What it is under way with, when the user dies; sometimes over the end of what is mapped.
                var length = random.Next(1, DeviceMemory + 1);
                StartTransfer(random.Next(2) == 0 ? FromMemory : ToMemory, random.Next(MemorySize), length, random.Next(DeviceMemory - length + 1));
                break;
        }
    }

    public override void Check()
    {
        var bytes = RandomNumberGenerator.GetBytes(3000);
        Demand(FaultOf(Client.TryWrite(RegisterBar, Plain, bytes, out var fault), fault));
        var read = new byte[bytes.Length];
        Demand(FaultOf(Client.TryRead(RegisterBar, Plain, read, out fault), fault));
        Demand(read.AsSpan().SequenceEqual(bytes), "the registers do not hold what was written to them");

        const int Back = MemorySize / 2;
        bytes = RandomNumberGenerator.GetBytes(DeviceMemory - 5);
        Memory.Write(1, bytes);
        Transfer(FromMemory, 1, bytes.Length, 3);
        Transfer(ToMemory, Back, bytes.Length, 3);
        read = new byte[bytes.Length];
        Memory.Read(Back, read);
        Demand(read.AsSpan().SequenceEqual(bytes), "what came back by DMA is not what went there");

        Demand(FaultOf(Client.TryGetDoorbells(RegisterBar, out var doorbells, out fault), fault));
        Demand(doorbells.Count == 1, "the doorbell has no eventfd");
        doorbells[0].Signal.Signal();
        DemandSignal(DoorbellVector);
    }

    private void Transfer(uint command, int at, int length, int offset)
    {
        Demand(StartTransfer(command, at, length, offset));
        DemandSignal(DmaVector);
        var status = Read32(RegisterBar, DmaStatus);
        Demand(status == Done, $"the transfer ended with status {status}");
    }

    private Fault StartTransfer(uint command, int at, int length, int offset)
    {
        var address = MemoryBase.Value + (ulong)at;
        Span<(ulong Register, uint Value)> writes =
        [
            (DmaAddressLow, (uint)address), (DmaAddressHigh, (uint)(address >> 32)), (DmaLength, (uint)length), (DmaOffset, (uint)offset), (DmaCommand, command),
        ];
        foreach (var (register, value) in writes)
        {
            if (Write32(RegisterBar, register, value) is var fault && fault != Fault.None)
                return fault;
        }
        return Fault.None;
    }
}
