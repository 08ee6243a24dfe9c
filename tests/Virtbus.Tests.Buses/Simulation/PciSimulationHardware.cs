using System.Buffers.Binary;
using Virtbus.Memory.Dma;
using Virtbus.Pci;
using Virtbus.Platform;

namespace Virtbus.Tests.Buses.Simulation;

/// <summary>A simulated function without threads: it does DMA and raises interrupts when the simulation pokes it, and only then.</summary>
internal interface ISimFunction : IPciFunction
{
    const int RegisterCount = 16;

    string Name { get; }

    bool IsPlugged { get; }

    /// <summary>The registers at the begin of BAR 0; a reset clears them.</summary>
    ulong[] Registers { get; }

    /// <summary>As a well-made function asks: without effect while it may do no DMA.</summary>
    PciPortUse Use();

    void Raise();
}

/// <summary>What the config spaces of simulated functions look like; shared by all simulations.</summary>
internal static class SimLayouts
{
    public const ushort Vendor = 0x5642;
    public const ushort Physical = 0x1000;
    public const ushort Virtual = 0x1001;
    public const ushort Plain = 0x1002;
    public const int TotalVfs = 3;

    private const uint TableOffset = 0x1000;
    private const uint PendingOffset = 0x1800;
    private const int Vectors = 2;
    private static readonly PciBar Bar = new(PciBarKind.Memory64, 0x2000, IsPrefetchable: true);

    /// <summary>Physical functions: the virtual ones are beside them, or on the next bus number.</summary>
    public static ConfigLayout[] PhysicalFunctions { get; } = [MakePhysical(1), MakePhysical(0x100)];

    public static ConfigLayout[] VirtualFunctions { get; } =
        [.. PhysicalFunctions.Select(p => ConfigSpaceBuilder.VirtualFunction(p).Msix(Vectors, 0, TableOffset, 0, PendingOffset).Build())];

    /// <summary>Functions without virtual ones: one with a reset of its own, one that only its slot can reset.</summary>
    public static ConfigLayout[] PlainFunctions { get; } = [MakePlain(true), MakePlain(false)];

    private static ConfigLayout MakePhysical(ushort firstOffset) => ConfigSpaceBuilder.Function(Vendor, Physical)
        .Class(0x020000)
        .MemoryBar64(0, Bar.Size)
        .Msix(Vectors, 0, TableOffset, 0, PendingOffset)
        .Express(new PciExpressOptions())
        .Ari()
        .Sriov(new SriovOptions { TotalVfs = TotalVfs, VfDeviceId = Virtual, FirstVfOffset = firstOffset, VfBars = [Bar] })
        .Build();

    private static ConfigLayout MakePlain(bool hasReset) => ConfigSpaceBuilder.Function(Vendor, Plain)
        .Class(0x020000)
        .MemoryBar64(0, Bar.Size)
        .Msix(Vectors, 0, TableOffset, 0, PendingOffset)
        .Express(new PciExpressOptions { HasFunctionLevelReset = hasReset })
        .Build();
}

/// <summary>A function that is a card of its own, with virtual functions or without.</summary>
internal sealed class SimCard(PciSimulation sim, string name, ConfigLayout layout, ConfigLayout? virtualLayout) : PciPhysicalFunction(layout), ISimFunction
{
    public string Name { get; } = name;

    public bool IsPlugged { get; private set; }

    public ulong[] Registers { get; } = new ulong[ISimFunction.RegisterCount];

    public bool HasVirtualFunctions => virtualLayout is not null;

    /// <summary>The card that makes its next virtual functions has no room for the last of them.</summary>
    public bool RunsShort { get; set; }

    /// <summary>Between the wish to put it into a slot and the answer.</summary>
    public bool IsOnItsWay { get; set; }

    /// <summary>Pulled out of its slot while nobody asked, for good.</summary>
    public bool IsPulled { get; private set; }

    public void Pull()
    {
        IsPulled = true;
        Lose();
    }

    public PciPortUse Use() => UsePort();

    public void Raise() => RaiseMessage(0);

    protected override PciVirtualFunction CreateVirtualFunction(int index)
    {
        if (RunsShort && index > 0)
        {
            RunsShort = false;
            throw new VirtbusException(Errno.ENOMEM, "no room for a virtual function");
        }
        return new SimVirtualFunction(sim, this, index, virtualLayout!);
    }

    protected override void ReadRegister(int bar, ulong offset, Span<byte> destination) => SimRegisters.Read(Registers, offset, destination);

    protected override void WriteRegister(int bar, ulong offset, ReadOnlySpan<byte> source) => SimRegisters.Write(Registers, offset, source);

    protected override void OnReset(PciResetKind kind) => Registers.AsSpan().Clear();

    protected override void OnPlugged(DmaPort dma)
    {
        sim.Require(!IsPlugged, $"{Name} is put into a slot while it is in one");
        IsPlugged = true;
    }

    protected override void OnUnplugged()
    {
        sim.Require(IsPlugged, $"{Name} is taken out of its slot twice");
        IsPlugged = false;
    }

    public override string ToString() => Name;
}

/// <summary>A function cut from a card.</summary>
internal sealed class SimVirtualFunction : PciVirtualFunction, ISimFunction
{
    private readonly PciSimulation _sim;
    private bool _isCounted;

    public SimVirtualFunction(PciSimulation sim, SimCard card, int index, ConfigLayout layout)
        : base(card, index, layout)
    {
        _sim = sim;
        Name = $"{card.Name}v{index}";
        _isCounted = true;
        sim.VirtualFunctionsAlive++;
    }

    public string Name { get; }

    public bool IsPlugged { get; private set; }

    public ulong[] Registers { get; } = new ulong[ISimFunction.RegisterCount];

    public PciPortUse Use() => UsePort();

    public void Raise() => RaiseMessage(0);

    protected override void ReadRegister(int bar, ulong offset, Span<byte> destination) => SimRegisters.Read(Registers, offset, destination);

    protected override void WriteRegister(int bar, ulong offset, ReadOnlySpan<byte> source) => SimRegisters.Write(Registers, offset, source);

    protected override void OnReset(PciResetKind kind) => Registers.AsSpan().Clear();

    protected override void OnPlugged(DmaPort dma)
    {
        _sim.Require(!IsPlugged, $"{Name} is put into a slot while it is in one");
        IsPlugged = true;
    }

    protected override void OnUnplugged()
    {
        _sim.Require(IsPlugged, $"{Name} is taken out of its slot twice");
        IsPlugged = false;
    }

    protected override void Dispose(bool disposing)
    {
        base.Dispose(disposing);
        if (_isCounted)
            _sim.VirtualFunctionsAlive--;
        _isCounted = false;
    }

    public override string ToString() => Name;
}

internal static class SimRegisters
{
    public static void Read(ulong[] registers, ulong offset, Span<byte> destination)
    {
        destination.Fill(0xFF);
        if (destination.Length == 8 && offset % 8 == 0 && offset / 8 < (ulong)registers.Length)
            BinaryPrimitives.WriteUInt64LittleEndian(destination, registers[offset / 8]);
    }

    public static void Write(ulong[] registers, ulong offset, ReadOnlySpan<byte> source)
    {
        if (source.Length == 8 && offset % 8 == 0 && offset / 8 < (ulong)registers.Length)
            registers[offset / 8] = BinaryPrimitives.ReadUInt64LittleEndian(source);
    }
}
