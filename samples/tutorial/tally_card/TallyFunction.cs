using System.Buffers.Binary;
using Virtbus.Pci;

namespace TallyCard;

/// <summary>
/// The hardware, 5642:7a11: a counter that raises an interrupt when it reaches a limit.
/// BAR 0, 4 KiB, registers of 32 bits: 0x00 what was counted (read), 0x04 the limit, 0x08 adds what is written. MSI-X: one vector, its table at 0x800.
/// </summary>
internal sealed class TallyFunction() : PciFunction(Layout)
{
    public const int Tally = 0x00, Limit = 0x04, Add = 0x08;
    public const ushort VendorId = 0x5642, DeviceId = 0x7A11;
    private const int RegisterBytes = 0x0C;

    // Shared by all functions of this kind: it says what config space is, not what is in it.
    private static readonly ConfigLayout Layout = ConfigSpaceBuilder.Function(VendorId, DeviceId)
        .Class(0xFF0000, revision: 1)
        .Subsystem(VendorId, 1)
        .MemoryBar(0, 0x1000)
        .PowerManagement()
        .Msix(1, tableBar: 0, tableOffset: 0x800, pendingBar: 0, pendingOffset: 0xC00)
        .Build();

    // Accesses come from any thread, several at once.
    private readonly Lock _lock = new();
    private uint _tally;
    private uint _limit;

    protected override void ReadRegister(int bar, ulong offset, Span<byte> destination)
    {
        Span<byte> registers = stackalloc byte[RegisterBytes];
        lock (_lock)
        {
            BinaryPrimitives.WriteUInt32LittleEndian(registers[Tally..], _tally);
            BinaryPrimitives.WriteUInt32LittleEndian(registers[Limit..], _limit);
        }
        // An access may have any size, and begin and end anywhere in the BAR.
        for (var i = 0; i < destination.Length; i++)
            destination[i] = offset + (ulong)i < RegisterBytes ? registers[(int)offset + i] : (byte)0;
    }

    protected override void WriteRegister(int bar, ulong offset, ReadOnlySpan<byte> source)
    {
        if (source.Length != sizeof(uint))
            return;
        var value = BinaryPrimitives.ReadUInt32LittleEndian(source);
        var isReached = false;
        lock (_lock)
        {
            if (offset == Limit)
                _limit = value;
            if (offset == Add)
            {
                isReached = _limit > 0 && _tally < _limit && _limit - _tally <= value;
                _tally += value;
            }
        }
        // Under no lock: whoever has the interrupt may come back to us.
        if (isReached)
            RaiseMsix(0);
    }

    protected override void OnReset(PciResetKind kind)
    {
        lock (_lock)
            (_tally, _limit) = (0, 0);
    }
}
