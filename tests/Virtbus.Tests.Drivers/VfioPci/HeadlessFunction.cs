using Virtbus.Pci;

namespace Virtbus.Tests.Drivers.VfioPci;

/// <summary>A function whose extended capabilities begin with one that a user is not shown, and that can be told what of its BAR may be mapped.</summary>
internal sealed class HeadlessFunction(IReadOnlyList<PciBarArea>? areas = null, bool hasReset = true, ushort vendor = 0x5642, ushort deviceId = 0x7777, uint classCode = 0xFF0000)
    : PciFunction(MakeLayout(hasReset, vendor, deviceId, classCode))
{
    public List<(ulong Offset, int Length)> Accesses { get; } = [];

    public int Resets { get; private set; }

    public override IReadOnlyList<PciBarArea> GetBarAreas(int bar) => bar == 0 && areas is not null ? areas : [];

    protected override void ReadRegister(int bar, ulong offset, Span<byte> destination)
    {
        Accesses.Add((offset, destination.Length));
        for (var i = 0; i < destination.Length; i++)
            destination[i] = (byte)(offset + (ulong)i);
    }

    protected override void WriteRegister(int bar, ulong offset, ReadOnlySpan<byte> source) => Accesses.Add((offset, source.Length));

    protected override void OnReset(PciResetKind kind) => Resets++;

    private static ConfigLayout MakeLayout(bool hasReset, ushort vendor, ushort deviceId, uint classCode)
    {
        var builder = ConfigSpaceBuilder.Function(vendor, deviceId)
            .Class(classCode)
            .InterruptPin(1)
            .MemoryBar64(0, 0x8000, prefetchable: false)
            .Msix(32, 0, 0x3000, 0, 0x3800)
            .Express(new PciExpressOptions { HasFunctionLevelReset = hasReset });
        return builder.Ats().SerialNumber(0x1122334455667788).Build();
    }
}
