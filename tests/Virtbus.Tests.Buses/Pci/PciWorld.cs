using System.Collections.Concurrent;
using Microsoft.Extensions.Logging;
using Virtbus.Buses.Pci;
using Virtbus.Core;
using Virtbus.Memory;
using Virtbus.Pci;
using Virtbus.Platform;

namespace Virtbus.Tests.Buses.Pci;

/// <summary>A fabric with a PCI bus, a host bridge, and a log of what drivers were called for.</summary>
internal sealed class PciWorld
{
    private readonly ConcurrentQueue<string> _calls = new();

    private PciWorld(FabricOptions? options)
    {
        Fabric = new Fabric(options ?? new FabricOptions { LoggerFactory = Lines });
        Bus = Fabric.RegisterBus(new PciBus());
    }

    public RecordedLog Lines { get; } = new();

    public Fabric Fabric { get; }

    public PciBus Bus { get; }

    public PciHostBridge Host => Bus.HostBridges[0];

    /// <summary>What drivers were called for, in order.</summary>
    public string[] Calls => [.. _calls];

    public static async Task<PciWorld> NewAsync(FabricOptions? options = null)
    {
        var world = new PciWorld(options);
        await world.Bus.AddHostBridgeAsync();
        return world;
    }

    public void Say(string call) => _calls.Enqueue(call);

    public void ClearCalls() => _calls.Clear();

    public async Task<TestDriver> RegisterAsync(string name, params PciDeviceId[] ids)
    {
        var driver = new TestDriver(this, name, ids);
        await Fabric.RegisterDriverAsync(driver);
        return driver;
    }

    /// <summary>A card behind a port of its own, with a driver that serves its kind.</summary>
    public async Task<(Card Card, PciDevice Device)> PlugAsync(CardOptions? options = null)
    {
        var card = new Card(options ?? new CardOptions());
        return (card, await Bus.PlugAsync(card));
    }

    public string Read(string path) => Fabric.Tree.Read(path);

    public ValueTask WriteAsync(PciDevice device, string attribute, string value) => Fabric.Tree.WriteAsync($"{device.DevPath}/{attribute}", value);

    /// <summary>The events since a number as <c>action name</c>.</summary>
    public string[] Events(long after) => [.. Fabric.Uevents.History(after).Select(e => $"{e.ActionName} {e.DevPath[(e.DevPath.LastIndexOf('/') + 1)..]}")];
}

/// <summary>A driver whose callbacks a test writes. Unless told otherwise it enables the device and lets it be bus master.</summary>
internal sealed class TestDriver(PciWorld world, string name, params PciDeviceId[] ids) : PciDriver(world.Bus, name, ids)
{
    public Func<PciDevice, PciDeviceId, ValueTask>? OnProbe { get; set; }

    public Func<PciDevice, ValueTask>? OnRemove { get; set; }

    public Func<PciDevice, ValueTask>? OnPrepareReset { get; set; }

    public bool HasVirtualFunctions { get; init; } = true;

    public Action<PciDevice, int>? OnVectors { get; init; }

    public bool IsUsers { get; init; }

    public override bool IsDmaManagedByUser => IsUsers;

    public override Func<PciDevice, int, ValueTask>? ConfigureVirtualFunctions =>
        HasVirtualFunctions ? static (device, count) => device.SetVirtualFunctionsAsync(count) : null;

    public override Func<PciDevice, int, ValueTask>? ConfigureVectors => OnVectors is null
        ? null
        : (device, count) =>
        {
            OnVectors(device, count);
            return default;
        };

    public override int GetVirtualFunctionVectors(PciDevice device) => OnVectors is null ? 0 : 64;

    protected override async ValueTask ProbeAsync(PciDevice device, PciDeviceId id, CancellationToken cancellationToken)
    {
        world.Say($"{Name} probe {device.Name} {id.DriverData}");
        if (OnProbe is not null)
        {
            await OnProbe(device, id);
            return;
        }
        device.Enable();
        device.SetMaster(true);
    }

    protected override async ValueTask RemoveAsync(PciDevice device)
    {
        world.Say($"{Name} remove {device.Name}");
        if (OnRemove is not null)
            await OnRemove(device);
        if (device.VirtualFunctions.Count > 0)
            await device.SetVirtualFunctionsAsync(0);
        device.FreeVectors();
        device.Disable();
    }

    protected override ValueTask SuspendAsync(PciDevice device)
    {
        world.Say($"{Name} suspend {device.Name}");
        return default;
    }

    protected override ValueTask ResumeAsync(PciDevice device)
    {
        world.Say($"{Name} resume {device.Name}");
        return default;
    }

    protected internal override ValueTask PrepareResetAsync(PciDevice device)
    {
        world.Say($"{Name} prepare {device.Name}");
        return OnPrepareReset?.Invoke(device) ?? default;
    }

    protected internal override ValueTask ResetDoneAsync(PciDevice device)
    {
        world.Say($"{Name} done {device.Name}");
        return default;
    }
}

/// <summary>What a card is made of.</summary>
internal sealed record CardOptions
{
    public ushort Vendor { get; init; } = 0x1AF4;

    public ushort Device { get; init; } = 0x10F5;

    public uint Class { get; init; } = 0x020000;

    public int TotalVfs { get; init; }

    public ushort VfOffset { get; init; } = 1;

    public ushort VfStride { get; init; } = 1;

    public bool HasMsix { get; init; } = true;

    public bool HasMsi { get; init; } = true;

    public bool HasMsiMasks { get; init; } = true;

    public bool IsExpress { get; init; } = true;

    public bool HasFunctionReset { get; init; } = true;

    public bool HasAri { get; init; } = true;

    public uint RegisterBytes { get; init; } = 0x4000;
}

/// <summary>A function with a few registers: BAR 0 holds scratch words and the doors to interrupts and DMA, BAR 2 is I/O, a ROM lies behind.</summary>
internal sealed class Card(CardOptions options) : PciPhysicalFunction(MakeLayout(options))
{
    /// <summary>A write raises the message vector that it names.</summary>
    public const ulong Message = 0x100;

    /// <summary>The level of the line.</summary>
    public const ulong Line = 0x104;

    private readonly CardRegisters _registers = new();
    private ConfigLayout? _virtualLayout;

    public CardOptions Options { get; } = options;

    public int Resets { get; private set; }

    /// <summary>Called once, when the card is disposed.</summary>
    public Action? OnEnd { get; set; }

    /// <summary>Called with the command register each time that it was written.</summary>
    public Action<int>? OnCommand { get; set; }

    public void Raise(int vector) => RaiseMessage(vector);

    public void SetLine(bool asserted) => SetInterrupt(asserted);

    /// <summary>Pulls the card out.</summary>
    public void Pull() => Lose();

    /// <summary>A DMA write of four bytes.</summary>
    public bool Write(ulong iova, uint value)
    {
        using var use = UsePort();
        return use.Dma?.TryWrite(new Iova(iova), BitConverter.GetBytes(value)) == true;
    }

    /// <summary>What reached registers that mean nothing: the way, the offset and the length.</summary>
    public IReadOnlyList<string> Accesses => _accesses;

    private readonly List<string> _accesses = [];

    protected override void ReadRegister(int bar, ulong offset, Span<byte> destination)
    {
        Note("read", offset, destination.Length);
        _registers.Read(bar, offset, destination);
    }

    protected override void WriteRegister(int bar, ulong offset, ReadOnlySpan<byte> source)
    {
        Note("write", offset, source.Length);
        _registers.Write(bar, offset, source);
        if (bar == 0 && offset == Message)
            RaiseMessage(source[0]);
        else if (bar == 0 && offset == Line)
            SetInterrupt(source[0] != 0);
    }

    protected override void OnConfigChanged(int offset, int length, ConfigEffects effects)
    {
        if ((effects & ConfigEffects.Command) != ConfigEffects.None)
            OnCommand?.Invoke(Config.Read16(4));
    }

    protected override void OnReset(PciResetKind kind)
    {
        Resets++;
        _registers.Clear();
    }

    protected override void Dispose(bool disposing)
    {
        base.Dispose(disposing);
        OnEnd?.Invoke();
        OnEnd = null;
    }

    // A few are enough for every test that looks.
    private void Note(string way, ulong offset, int length)
    {
        lock (_accesses)
        {
            if (_accesses.Count < 32)
                _accesses.Add($"{way} {offset:x} {length}");
        }
    }

    protected override PciVirtualFunction CreateVirtualFunction(int index) => new CardPart(this, index, _virtualLayout ??= VirtualLayout());

    private ConfigLayout VirtualLayout()
    {
        var builder = ConfigSpaceBuilder.VirtualFunction(Config.Layout);
        return (Options.HasMsix ? builder.Msix(4, 0, 0x2000, 0, 0x3000) : builder).Build();
    }

    private static ConfigLayout MakeLayout(CardOptions options)
    {
        var builder = ConfigSpaceBuilder.Function(options.Vendor, options.Device)
            .Class(options.Class, 0x07)
            .Subsystem(0x1AF4, 0x1100)
            .InterruptPin(1)
            .MemoryBar64(0, options.RegisterBytes)
            .IoBar(2, 64)
            .Rom(0x1000)
            .PowerManagement();
        if (options.HasMsi)
            builder.Msi(4, is64Bit: true, options.HasMsiMasks);
        if (options.HasMsix)
            builder.Msix(8, 0, 0x2000, 0, 0x3000);
        if (!options.IsExpress)
            return builder.Build();
        builder.Express(new PciExpressOptions { HasFunctionLevelReset = options.HasFunctionReset, LinkSpeed = 2, LinkWidth = 4 });
        if (options.HasAri)
            builder.Ari();
        if (options.TotalVfs > 0)
        {
            builder.Sriov(new SriovOptions
            {
                TotalVfs = options.TotalVfs,
                VfDeviceId = 0x10F6,
                FirstVfOffset = options.VfOffset,
                VfStride = options.VfStride,
                VfBars = [new PciBar(PciBarKind.Memory64, 0x4000, true)],
            });
        }
        return builder.Build();
    }
}

/// <summary>A virtual function of a card.</summary>
internal sealed class CardPart(Card card, int index, ConfigLayout layout) : PciVirtualFunction(card, index, layout)
{
    private readonly CardRegisters _registers = new();

    public void Raise(int vector) => RaiseMessage(vector);

    protected override void ReadRegister(int bar, ulong offset, Span<byte> destination) => _registers.Read(bar, offset, destination);

    protected override void WriteRegister(int bar, ulong offset, ReadOnlySpan<byte> source) => _registers.Write(bar, offset, source);

    protected override void OnReset(PciResetKind kind) => _registers.Clear();
}

/// <summary>64 bytes of scratch for each BAR, and what was written there last.</summary>
internal sealed class CardRegisters
{
    private readonly Lock _lock = new();
    private readonly byte[] _bytes = new byte[PciBar.Count * 64];

    public void Read(int bar, ulong offset, Span<byte> destination)
    {
        destination.Clear();
        lock (_lock)
        {
            if (offset + (ulong)destination.Length <= 64)
                _bytes.AsSpan((bar * 64) + (int)offset, destination.Length).CopyTo(destination);
        }
    }

    public void Write(int bar, ulong offset, ReadOnlySpan<byte> source)
    {
        lock (_lock)
        {
            if (offset + (ulong)source.Length <= 64)
                source.CopyTo(_bytes.AsSpan((bar * 64) + (int)offset));
        }
    }

    public void Clear()
    {
        lock (_lock)
            _bytes.AsSpan().Clear();
    }
}
