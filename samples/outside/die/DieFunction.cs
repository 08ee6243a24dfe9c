using Virtbus.Pci;

namespace Die;

/// <summary>A die behind PCI registers: a write to ROLL sets it rolling, and a second later RESULT has what it shows and vector 0 is raised.</summary>
public sealed class DieFunction : PciFunction
{
    public const ushort Vendor = 0x1AF4;
    public const ushort Device = 0x10D1;

    /// <summary>Offsets in BAR 0: written to roll; 1 to 6, or 0 while it rolls; how often it was rolled.</summary>
    public const ulong Roll = 0, Result = 4, Rolls = 8;

    private readonly Lock _lock = new();
    private readonly Random _random;
    private readonly ITimer _timer;
    private uint _result;
    private uint _rolls;

    public DieFunction(TimeProvider time, int seed)
        : base(ConfigSpaceBuilder.Function(Vendor, Device).Class(0xFF0000).MemoryBar(0, 0x4000).Msix(1, 0, 0x2000, 0, 0x3000).Express(new PciExpressOptions()).Build())
    {
        _random = new Random(seed);
        _timer = time.CreateTimer(_ => Stop(), null, Timeout.InfiniteTimeSpan, Timeout.InfiniteTimeSpan);
    }

    protected override void ReadRegister(int bar, ulong offset, Span<byte> destination)
    {
        destination.Clear();
        lock (_lock)
            BitConverter.TryWriteBytes(destination, offset switch { Result => _result, Rolls => _rolls, _ => 0u });
    }

    protected override void WriteRegister(int bar, ulong offset, ReadOnlySpan<byte> source)
    {
        if (offset != Roll)
            return;
        lock (_lock)
            (_result, _rolls) = (0, _rolls + 1);
        _timer.Change(TimeSpan.FromSeconds(1), Timeout.InfiniteTimeSpan);
    }

    protected override void OnReset(PciResetKind kind)
    {
        _timer.Change(Timeout.InfiniteTimeSpan, Timeout.InfiniteTimeSpan);
        lock (_lock)
            (_result, _rolls) = (0, 0);
    }

    private void Stop()
    {
        lock (_lock)
            _result = (uint)_random.Next(1, 7);
        RaiseMessage(0);
    }
}
